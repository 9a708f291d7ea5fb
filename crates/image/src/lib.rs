//! Images: pull, unpack, diff, push, import and export.
//!
//! Purpose: everything between a registry's bytes and a snapshot's files. This crate understands manifests, layers
//! and archives.
//!
//! Non-goals: running containers, speaking gRPC, deciding what is kept.
//!
//! Invariants:
//! - no byte of a layer is trusted before its diff id matched, and nothing unpacked from it leaves its root;
//! - every size that an image states is checked against a limit before memory or disk follows it.
//!
//! Entry points: [`images::Images`] for whole operations, [`apply`] and [`diff`] for layers, [`layer`] and
//! [`compression`] for their bytes, [`model`] for manifests, [`archive`] for export and import.

pub mod apply;
pub mod archive;
pub mod compression;
pub mod diff;
pub mod images;
pub mod layer;
pub mod model;

//! The words that cross process boundaries: containerd's services and events, its task protocol, and `orlop.v1`.
//!
//! Purpose: one generated Rust form of every protobuf message, shared by the daemon, the shim and the CLI. The sources
//! are in `proto/`; `cargo xtask codegen` writes `src/generated/`, and CI fails when the two differ.
//!
//! Non-goals: logic of any kind, and validation: a message is what a peer sent, so whoever takes it parses its ids and
//! digests with `orlop-types`.
//!
//! Invariants:
//! - names, packages and numbers of `containerd.*` are those of containerd's public API: they never change here;
//! - fields of `orlop.v1` are only ever added;
//! - every message knows its full name ([`prost::Name`]), so [`any::pack`] needs no table of types;
//! - without the feature `grpc` nothing but prost is linked.
//!
//! Entry points: [`containerd`], [`orlop`], [`any`]. Services that are spoken over ttrpc have a module with their name
//! and methods, such as [`containerd::task::v3::task_service`]; messages of the task protocol's versions 2 and 3 are
//! the same on the wire.

pub mod any;

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    reason = "written by prost and tonic from proto/: the sources carry the documentation"
)]
mod generated;

pub use generated::{containerd, google, grpc, io, orlop, runtime, runtimeoptions};
pub use prost::{Message, Name, bytes};
pub use prost_types::{Any, Duration, FieldMask, Timestamp};

//! A stopped containerd's stores: read, and brought over to Orlop's.
//!
//! Purpose: a node that changes from containerd to Orlop keeps its images, their blobs, leases, labels and sandbox records,
//! and downloads nothing again.
//!
//! Non-goals: containers and snapshots. A container's processes and writable layer belong to the engine that made them, so a
//! node is drained first; layers are unpacked again when an image is first used. Reading a containerd that runs.
//!
//! Invariants:
//! - nothing below containerd's root is written, and it is locked against containerd's own start meanwhile;
//! - a blob is hashed before anything names it here, as if it had come from a registry;
//! - blobs come before the images that name them, so an import that is cut off leaves only what collection takes away, and
//!   is done again by the same call;
//! - what cannot be brought is told, with its reason, and does not keep the rest from being brought.
//!
//! Entry points: [`Source::open`], [`Source::plan`], [`Source::bring`]; [`bolt::Bolt`] for the file format alone.

pub mod bolt;
mod bring;
mod decode;
mod error;
mod report;
mod source;
mod stock;

pub use bring::Method;
pub use error::Error;
pub use report::{Left, NamespaceReport, Report, Tally};
pub use source::Source;
pub use stock::{Blob, Lease, Shelf, Stock};

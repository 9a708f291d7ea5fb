//! Snapshots of file trees: the writable layer of a container, the layers of an image, and what mounts them.
//!
//! Purpose: keep the files of snapshots under numbers, behind one trait with two backends, [`Overlayfs`] and
//! [`Native`].
//!
//! Non-goals: keys, names, parents, labels, namespaces and leases. Those are rows of `orlop-meta`, which assigns
//! the numbers, never uses one twice, and hands the parents in with every call (ADR 2). Making mounts is
//! `orlop_sys::mount`; writing layers is `orlop-image`.
//!
//! Invariants:
//! - a folder under a number's name is whole: it was built elsewhere and renamed into place;
//! - a committed snapshot has been synced and does not change again, so its mounts are the same for ever;
//! - nothing is deleted that a mount of this mount namespace still uses, and no deletion crosses a mount;
//! - a folder whose number has no row is an orphan and may go.
//!
//! Entry points: [`Snapshotter`], [`Overlayfs::open`], [`Native::open`].

mod copy;
mod error;
mod flush;
mod model;
mod native;
mod overlayfs;
mod removal;
mod store;
mod users;

pub use error::Error;
pub use model::{
    ApplyTarget, Cleaned, Found, InvalidNumber, Kind, RemoveFailure, SnapshotNumber, Snapshotter,
    Usage, Whiteouts,
};
pub use native::Native;
pub use overlayfs::Overlayfs;

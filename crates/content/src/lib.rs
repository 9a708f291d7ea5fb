//! The blob store: bytes under their digest, on a folder.
//!
//! Purpose: take a blob in (in any order, by several threads, resumed after a crash), verify it, keep it, hand it out.
//!
//! Non-goals: namespaces, labels, media types, references between blobs and collection are `meta`'s; where bytes come
//! from is `registry`'s; nothing in here is asynchronous.
//!
//! ```text
//! <root>/
//! ├── lock                      flock of the one daemon that may write
//! ├── blobs/
//! │   ├── sha256/<hex>          verified, synced, read-only: complete or not there
//! │   └── sha512/<hex>
//! ├── aside/
//! │   └── <alg>-<hex>           found damaged and set aside, for a person to look at
//! └── ingest/
//!     └── <sha256 of reference>/
//!         ├── ref               reference and expectations, JSON, version 1
//!         ├── data              the bytes so far, with holes
//!         └── extents           which of them are synced, JSON, version 1
//! ```
//!
//! Invariants:
//! - a file in `blobs` was hashed, found equal to its name and synced before it got that name;
//! - a byte of an ingest is written once: hash, readers and file cannot disagree about it ([`Ingest::write_at`]);
//! - `extents` names only bytes that were synced before it was written, so that a power cut cannot make it lie;
//! - one writer per reference and one writing process per root, both enforced.
//!
//! Crash: at any point, a blob is there whole or not at all, and an ingest resumes from its last checkpoint.
//! Reopening removes what a killed commit or creation left. Bytes since the last checkpoint
//! ([`Options::checkpoint_bytes`]) are downloaded again.
//! Cancellation: dropping the last [`Ingest`] keeps its bytes for later (this syncs: drop it where blocking is allowed);
//! [`Ingest::abort`] discards them. Readers of a dropped or aborted ingest get an error, never a silent end.
//! Ordering: data synced → `extents`; data hashed and synced → renamed → `blobs/<alg>` synced → acknowledged.
//!
//! Entry points: [`Store::open`], [`Store::ingest`], [`Ingest::commit`], [`Store::blob`].

mod aside;
mod blob;
mod commit;
mod error;
mod extents;
mod hash;
mod ingest;
mod layout;
mod progress;
mod reader;
mod store;

pub use blob::{Blob, BlobInfo, Blobs};
pub use commit::{Committed, Outcome};
pub use error::{ContentError, ErrorKind, WriteProblem};
pub use extents::ExtentMap;
pub use hash::Hasher;
pub use ingest::{Expected, Ingest, IngestStatus};
pub use reader::IngestReader;
pub use store::{AdoptMethod, Options, Store, StoreUsage};

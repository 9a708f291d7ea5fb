//! The database: every record of the engine, and the namespaced views of content and snapshots.
//!
//! Purpose: one SQLite file says what exists, who holds it and what changed. Records of images, containers,
//! sandboxes, tasks and leases; rows for blobs and snapshots, whose bytes belong to `orlop-content` and
//! `orlop-snapshot`; references as rows; an outbox of events; a queue of what is to be swept.
//!
//! Non-goals: fetching, unpacking, running, wire types. Deciding what is kept is collection's, over the same rows.
//!
//! Invariants:
//! - a caller that is told "done" finds its change after a power cut: commits reach the disk before they return;
//! - a change, its event, its references, its lease and its place in the sweep queue are one transaction;
//! - bytes come before the row that makes them visible, and go after it;
//! - a snapshot's number is assigned once and for all; the row that names it is there before the folder;
//! - a schema newer than this program is refused, an older one is backed up before it is migrated.
//!
//! Entry points: [`Db::open`], [`Db::inspect`], [`Db::namespace`], [`Db::events_since`], [`Db::watch`].
//!
//! Every call blocks, some for an fsync: from async code use the blocking pool. Callers that write at the same time
//! share one fsync.

mod activations;
mod claims;
mod content;
mod db;
mod error;
mod event;
pub mod fsck;
pub mod gc;
mod mask;
mod node;
mod outbox;
mod records;
mod schema;
mod snapshots;
mod sweep;
mod time;
mod view;
mod watch;

pub use activations::{Activation, Activations, WantedMounts};
pub use content::{AdoptedFile, Blob, Content, Ingest, IngestOptions, IngestStatus, Opened};
pub use db::{Backends, Committed, Db};
pub use error::Error;
pub use event::Event;
pub use orlop_content::{AdoptMethod, ContentError, Expected};
pub use orlop_mounts::Active as ActiveMount;
pub use orlop_snapshot::{
    ApplyTarget as SnapshotTarget, Kind as SnapshotKind, Usage as SnapshotUsage, Whiteouts,
};
pub use orlop_types::ErrorKind;
pub use outbox::{EVENTS_MAX, Envelope, EventPage};
pub use records::{
    Container, Containers, Image, Images, Lease, LeaseResource, Leases, NamespaceRecord,
    Namespaces, NewTask, Runtime, Sandbox, Sandboxes, Task, TaskState, TaskUpdate, Tasks,
    TypedBytes,
};
pub use schema::{MigrationReport, SCHEMA_VERSION, dry_run, migrate, rollback};
pub use snapshots::{CommitOptions, Snapshot, SnapshotOptions, Snapshots};
pub use view::View;
pub use watch::WatchGuard;

//! Manifests, indexes and configs of OCI and Docker schema 2 (OCI image-spec; Docker image manifest v2, schema 2).
//!
//! Purpose: turn the bytes of a blob into what pulls, unpacks and exports need, and refuse what only looks like it: a
//! document whose fields belong to another kind than its media type says (CVE-2021-41190), schema 1, foreign layers.
//!
//! Non-goals: fetching. Who resolves an image asks [`Resolution`] what it needs next, and brings the bytes.
//!
//! Invariants: pure; documents are capped before they are parsed; resolving an index ends, since every digest is
//! visited once and nesting is bounded.

mod artifact;
mod chain;
mod children;
mod config;
mod document;
mod error;
mod media_type;
mod resolve;

pub use chain::chain_ids;
pub use children::{child_labels, children};
pub use config::{ExecConfig, ImageConfig};
pub use document::{Document, Index, Manifest, parse_document, read_document};
pub use error::ModelError;
pub use media_type::{MediaKind, kind_of, names};
pub use resolve::Resolution;
pub(crate) use resolve::offered;

/// The largest manifest or index, in bytes: what registries accept and containerd reads.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The largest image config, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// How deep indexes may nest.
pub const INDEX_DEPTH_MAX: usize = 4;

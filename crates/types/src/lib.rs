//! The nouns of Orlop: digests, references, platforms, identifiers and OCI models.
//!
//! Purpose: one definition of every id, digest and key, so that no bare `String` crosses a crate boundary.
//!
//! Non-goals: input and output, clocks, errors of other crates.
//!
//! Invariants:
//! - a value of a type in here has been validated: it is safe to show, to compare and, where its docs say
//!   so, to use as one path component;
//! - everything is pure; nothing in here allocates without a bound set by its input.
//!
//! Entry points: [`Digest`], [`Descriptor`], [`Namespace`], [`Labels`].

pub mod attach;
mod descriptor;
mod digest;
pub mod exit;
pub mod filter;
mod glob;
pub mod idmap;
mod ids;
mod kind;
mod labels;
mod mount;
mod platform;
mod reference;
pub mod restart;

pub use descriptor::{Descriptor, DescriptorError};
pub use digest::{Algorithm, ChainId, Digest, DigestError};
pub use glob::{Glob, GlobError};
pub use idmap::{IdMapFault, IdMaps, IdRange};
pub use ids::{
    ActivationName, ContainerId, ExecId, IdError, ImageName, IngestRef, LeaseId, Namespace,
    SandboxId, SnapshotKey, SnapshotterName,
};
pub use kind::{ErrorKind, chain};
pub use labels::{LabelError, Labels};
pub use mount::Mount;
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError, Target};

//! The tar stream of a layer: one strict reader and one deterministic writer (OCI image-spec, layer.md).
//!
//! Purpose: turn bytes into [`Entry`]s and back without guessing. Where two unpackers could read one stream
//! differently (two sizes for one entry, a second extended header, a global header that renames), the stream is
//! refused: such differences are how content is smuggled past a scanner. ADR 11 says why this is not the `tar` crate.
//!
//! Non-goals: file systems, compression, whiteouts. An entry's path is only normalised here ([`name`]); what it
//! means is `apply`'s business.
//!
//! Invariants:
//! - memory is bounded by [`Limits`] whatever the input says; no length from the stream is allocated unchecked;
//! - no panic on any input;
//! - a [`Entry::path`] is relative, without `.`, `..`, empty components or NUL.
//!
//! Entry points: [`LayerReader`], [`LayerWriter`], [`Entry`].

mod error;
mod fields;
mod header;
pub mod name;
mod pax;
mod reader;
mod sparse;
mod writer;

use orlop_sys::beneath::FileTime;

pub use error::TarError;
pub use reader::{EndMarker, LayerReader};
pub use sparse::{Fragment, SparseMap};
pub use writer::LayerWriter;

/// The unit of a tar stream, in bytes.
pub const BLOCK_BYTES: usize = 512;

/// What one entry stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, whose data follows.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with its text as it is; it may point anywhere.
    Symlink {
        /// The link's text.
        target: Vec<u8>,
    },
    /// A further name of a file, normalised like [`Entry::path`].
    HardLink {
        /// The other name.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major and minor number.
        number: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        number: (u32, u32),
    },
    /// A named pipe.
    Fifo,
}

/// One thing in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where, relative to the root; empty for the root itself.
    pub path: Vec<u8>,
    /// What.
    pub kind: EntryKind,
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Length of a regular file in bytes, holes included; 0 for everything else.
    pub size: u64,
    /// Last change.
    pub mtime: FileTime,
    /// Last access, where the stream says it.
    pub atime: Option<FileTime>,
    /// Extended attributes in the stream's order, names without `SCHILY.xattr.`.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where a sparse file's data goes; `None` for a dense one.
    pub sparse: Option<SparseMap>,
}

/// Bounds on what a stream may ask of memory. The defaults are far above what images contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest path or link text in bytes (the kernel's `PATH_MAX` is 4096).
    pub path_bytes_max: usize,
    /// The most components of a path.
    pub path_depth_max: usize,
    /// The longest extended header in bytes; all attributes of one entry live in it.
    pub extended_header_bytes_max: usize,
    /// The longest value of one extended attribute in bytes (the kernel's limit is 65536).
    pub attribute_bytes_max: usize,
    /// The most fragments of one sparse file.
    pub sparse_fragments_max: usize,
    /// The most entries of one layer.
    pub entries_max: u64,
    /// The most device nodes of one layer.
    pub devices_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            path_bytes_max: 4096,
            path_depth_max: 1024,
            extended_header_bytes_max: 1 << 20,
            attribute_bytes_max: 64 << 10,
            sparse_fragments_max: 1 << 18,
            entries_max: 8_000_000,
            devices_max: 10_000,
        }
    }
}

//! Making a layer out of what changed (OCI image-spec, layer.md "Change Types").
//!
//! Purpose: [`write_diff`] streams the difference between two trees, or what an overlay's upper directory holds, as a
//! layer blob, and says what a manifest and a config need to know of it.
//!
//! As containerd does it: deletions are `.wh.` files, opaque directories get `.wh..wh..opq`, parents of what changed
//! come along, times are cut to seconds, user and group names and sockets are left out. Beyond it: all extended
//! attributes travel, not only file capabilities, except those of overlayfs, SELinux and IMA, which belong to the host.
//!
//! Non-goals: sparse maps (holes are written as zeros, which compression takes care of); comparing content where size
//! and a time with nanoseconds agree.
//!
//! Ordering: names are sorted within each directory, parents first, so equal trees give equal bytes. Nothing may
//! change the trees meanwhile; a file that shrinks is an error.

mod error;
mod pending;
mod same;
mod walk;

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::compression::{Compression, Encoder, LayerBlob};
use crate::layer::LayerWriter;

pub use error::DiffError;

/// What to compare.
#[derive(Debug, Clone, Copy)]
pub enum DiffSource<'a> {
    /// Two complete trees; without a lower one, everything is new.
    Trees {
        /// The state before.
        lower: Option<BorrowedFd<'a>>,
        /// The state after.
        upper: BorrowedFd<'a>,
    },
    /// An overlay's upper directory over its lower ones, topmost first. Much faster: only changes are visited.
    Overlay {
        /// The upper directory.
        upper: BorrowedFd<'a>,
        /// The lower directories.
        lowers: &'a [BorrowedFd<'a>],
    },
}

/// How to write the layer.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// Its compression.
    pub compression: Compression,
    /// The latest time a file may have, in seconds since 1970, for reproducible builds (`SOURCE_DATE_EPOCH`).
    pub source_date_seconds: Option<i64>,
    /// Set it to stop early.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Gzip,
            source_date_seconds: None,
            cancel: None,
        }
    }
}

/// Writes the difference as one layer blob. Blocks.
///
/// # Errors
/// See [`DiffError`]; what was written by then is no layer.
pub fn write_diff<W: Write>(
    source: &DiffSource<'_>,
    output: W,
    options: &DiffOptions,
) -> Result<LayerBlob, DiffError> {
    let encoder = Encoder::new(output, options.compression).map_err(DiffError::Output)?;
    let mut differ = walk::Differ::new(LayerWriter::new(encoder), options);
    match source {
        DiffSource::Trees { lower, upper } => differ.trees(*lower, *upper)?,
        DiffSource::Overlay { upper, lowers } => differ.overlay(*upper, lowers)?,
    }
    let encoder = differ.finish().map_err(DiffError::Output)?;
    encoder.finish().map_err(DiffError::Output)
}

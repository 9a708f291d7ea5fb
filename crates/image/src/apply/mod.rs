//! Unpacking one layer into a directory (OCI image-spec, layer.md "Applying Changesets").
//!
//! Purpose: [`apply_layer`] reads a blob once, front to back, and makes its files; a second thread decompresses
//! meanwhile. [`settle`] finishes what needs the layers below, so that layers can be unpacked side by side.
//!
//! Non-goals: snapshots, leases, syncing. Whoever commits the snapshot syncs the whole layer at once.
//!
//! Paths stay inside the root, and mean what they mean to containerd:
//! - names are cleaned lexically (`../x` and `/x` are `x`), and a link that the layer itself planted in a parent
//!   directory is followed *inside* the root, also when it dangles: its target is made as a directory there;
//! - the last component is never followed: what stands there is replaced, except that a directory entry over a
//!   directory merges; the last of several entries of one name wins;
//! - an entry for the root itself is passed over, as containerd does: images packed from a private temporary
//!   folder would otherwise lock every unprivileged user out.
//!
//! Where Orlop is stricter or closer to the specification than containerd: a whiteout never hides an entry of its
//! own layer, in whatever order the two stand; a directory over its own layer's whiteout is opaque;
//! `trusted.overlay.*` and `user.overlay.*` attributes in a layer are dropped, because they would steer the mount;
//! a further name of a file (hard link) keeps the file's metadata.
//!
//! Crash and cancellation: a failed, cancelled or killed apply leaves a partial tree; the caller removes the snapshot.
//! Ordering: nothing of a layer may be used before [`Applied`] was returned, since only then its digest matched.

mod create;
mod error;
mod lowers;
mod pipeline;
mod settle;
mod tree;
mod whiteout;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use orlop_types::Digest;

use crate::compression::{Bounds, Decompressor};
use crate::layer::{EndMarker, LayerReader, Limits};

pub(crate) use create::is_overlay_attribute;
pub use error::ApplyError;
pub(crate) use lowers::is_opaque;
pub use lowers::{Found, MergedView};
pub(crate) use pipeline::Hasher;
pub use settle::{Settled, settle};
pub(crate) use whiteout::{OPAQUE as OPAQUE_MARKER, PREFIX as WHITEOUT_PREFIX};

/// The attribute with which overlayfs marks a directory that hides what is below it.
pub(crate) const OPAQUE_ATTRIBUTE: &[u8] = b"trusted.overlay.opaque";

/// How "deleted" is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhiteoutStyle {
    /// As overlayfs wants it: a character device 0:0, or an attribute on the directory. The root starts empty.
    Overlay,
    /// By removing: the root starts as a copy of the layers below.
    Remove,
}

/// Where to unpack.
#[derive(Debug)]
pub struct ApplyTarget {
    /// The directory that becomes `/`, opened for reading.
    pub root: OwnedFd,
    /// What a whiteout becomes there.
    pub whiteouts: WhiteoutStyle,
}

/// What to insist on.
#[derive(Debug, Clone, Default)]
pub struct ApplyOptions {
    /// The digest of the uncompressed stream that the image's config promises.
    pub expected_diff_id: Option<Digest>,
    /// The digest of the blob itself has been verified, so that where it ends is where it should. Otherwise a layer
    /// without an expected diff id has to have an end marker.
    pub is_blob_verified: bool,
    /// What the blob may expand to.
    pub bounds: Bounds,
    /// What the stream may ask for.
    pub limits: Limits,
    /// Set it to stop early.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Counts the bytes of the uncompressed stream, for whoever watches.
    pub unpacked: Option<Arc<AtomicU64>>,
}

/// A layer that was unpacked and whose digest matched.
#[derive(Debug)]
pub struct Applied {
    /// The SHA-256 of the uncompressed stream, or the verified `expected_diff_id`.
    pub diff_id: Digest,
    /// The length of the uncompressed stream in bytes.
    pub uncompressed_size: u64,
    /// How many entries it had.
    pub entries: u64,
    /// Attributes left out: overlayfs's own, and those this file system or kind of file cannot hold.
    pub attributes_ignored: u64,
    /// What [`settle`] has to finish; usually a few parent directories.
    pub deferred: Deferred,
}

/// What cannot be known before the layers below are.
#[derive(Debug, Default)]
pub struct Deferred {
    /// Directories the layer uses without describing: path and inode. Their metadata stands in a lower layer.
    pub(crate) implicit: Vec<(Vec<u8>, u64)>,
    /// Further names of files that only a lower layer has.
    pub(crate) links: Vec<DeferredLink>,
}

/// A hard link whose other end is in a lower layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeferredLink {
    pub(crate) path: Vec<u8>,
    pub(crate) target: Vec<u8>,
}

impl Deferred {
    /// Whether there is nothing to settle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.implicit.is_empty() && self.links.is_empty()
    }
}

/// Unpacks one layer blob. Blocks; call it from a thread that may.
///
/// The blob may still be downloading: `blob` is read sequentially and may wait. One scoped thread decompresses.
///
/// # Errors
/// See [`ApplyError`]. The tree is then partial and must not be used.
pub fn apply_layer<R: Read + Send>(
    blob: R,
    target: &ApplyTarget,
    options: &ApplyOptions,
) -> Result<Applied, ApplyError> {
    let decompressor = Decompressor::new(blob, options.bounds).map_err(ApplyError::blob)?;
    std::thread::scope(|scope| {
        let hasher = pipeline::Hasher::new(options.expected_diff_id.as_ref());
        let blocks = pipeline::start(scope, decompressor, hasher).map_err(ApplyError::blob)?;
        apply_stream(blocks, target, options)
    })
}

fn apply_stream(
    blocks: pipeline::Blocks,
    target: &ApplyTarget,
    options: &ApplyOptions,
) -> Result<Applied, ApplyError> {
    let mut reader = LayerReader::new(blocks, options.limits);
    let mut applier = create::Applier::new(target, options.limits)?;
    while let Some(entry) = reader.next_entry()? {
        if cancelled(options) {
            return Err(ApplyError::Cancelled);
        }
        applier.apply(&entry, &mut reader)?;
        if let Some(unpacked) = &options.unpacked {
            unpacked.store(reader.position(), Ordering::Relaxed);
        }
    }
    let (entries, end) = (reader.entries(), reader.end());
    let (diff_id, uncompressed_size) = reader.into_inner().finish().map_err(ApplyError::blob)?;
    match (&options.expected_diff_id, end) {
        (Some(expected), _) if *expected != diff_id => {
            let (expected, actual) = (Box::new(*expected), Box::new(diff_id));
            return Err(ApplyError::WrongDiffId { expected, actual });
        }
        (None, Some(EndMarker::Missing) | None) if !options.is_blob_verified => {
            return Err(ApplyError::Incomplete);
        }
        (Some(_) | None, _) => {}
    }
    let (deferred, attributes_ignored) = applier.finish()?;
    Ok(Applied {
        diff_id,
        uncompressed_size,
        entries,
        attributes_ignored,
        deferred,
    })
}

fn cancelled(options: &ApplyOptions) -> bool {
    options
        .cancel
        .as_ref()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

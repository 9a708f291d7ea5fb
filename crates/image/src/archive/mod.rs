//! Images as one tar file: OCI layouts (OCI image-spec, image-layout.md) and what `docker save` writes.
//!
//! Purpose: [`read_archive`] streams an archive's blobs into a [`BlobSink`] and says which images they make up;
//! [`write_archive`] streams images out of a [`BlobSource`] into a file that containerd, skopeo and `docker load` read.
//!
//! Non-goals: leases and records. The caller holds a lease over the import, and names the images last.
//!
//! Invariants: memory is one buffer and the small documents, whatever the archive; a blob whose name is a digest is
//! stored only if it matches; every image returned is complete: manifest, config and layers are in the sink.
//!
//! Crash: an import that did not end leaves unreferenced blobs. An export that did not end is no archive.

mod complete;
mod docker;
mod error;
mod export;
mod import;

use std::io::{self, Read};

use orlop_types::{Descriptor, Digest};

pub use error::ArchiveError;
pub use export::{ExportImage, ExportOptions, write_archive};
pub use import::{ArchiveFormat, Imported, ImportedImage, read_archive};

/// The annotation with an image's full name.
pub const IMAGE_NAME_ANNOTATION: &str = "io.containerd.image.name";
/// The annotation with a tag, or whatever the writer took for a name.
pub const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Where blobs are read.
pub trait BlobSource {
    /// The length of a blob in bytes, `None` when it is not there.
    ///
    /// # Errors
    /// The store's.
    fn size_of(&self, digest: &Digest) -> io::Result<Option<u64>>;

    /// A reader over a blob that is there.
    ///
    /// # Errors
    /// The store's; `NotFound`.
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>>;
}

/// Where blobs are written.
pub trait BlobSink: BlobSource {
    /// Stores one blob and returns its digest, SHA-256 unless `expected` says another algorithm.
    ///
    /// Nothing may become readable under a digest it does not have: with `expected`, other bytes are an error.
    ///
    /// # Errors
    /// The store's; `InvalidData` for bytes that are not the expected ones.
    fn store(&mut self, blob: NewBlob<'_>) -> io::Result<Digest>;
}

/// A blob on its way into a sink.
pub struct NewBlob<'a> {
    /// Its length in bytes.
    pub size: u64,
    /// The digest its name promises.
    pub expected: Option<Digest>,
    /// Its bytes, exactly `size` of them.
    pub data: &'a mut dyn Read,
}

/// Where a blob stands in a layout.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// A whole small blob.
fn read_small(
    source: &dyn BlobSource,
    descriptor: &Descriptor,
    limit: u64,
) -> Result<Vec<u8>, ArchiveError> {
    let fail = |source| ArchiveError::Blob {
        digest: Box::new(descriptor.digest),
        source,
    };
    let mut bytes = Vec::new();
    let stream = source.open(&descriptor.digest).map_err(fail)?;
    stream
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    Ok(bytes)
}

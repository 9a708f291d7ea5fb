//! Why an archive could not be read or written.

use std::io;

use orlop_types::{Digest, ReferenceError};

use crate::layer::TarError;
use crate::model::ModelError;

/// An archive that was not imported or exported.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The tar stream is broken.
    #[error("read archive")]
    Tar(#[source] TarError),
    /// The archive cannot be decompressed, or not be written.
    #[error("{operation} archive")]
    Stream {
        /// Reading or writing.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither an OCI layout nor a docker archive.
    #[error("archive has neither index.json with oci-layout nor manifest.json: {hint}")]
    NotAnArchive {
        /// What it looks like instead.
        hint: &'static str,
    },
    /// A layout of a later version.
    #[error("archive's oci-layout has version {version:?}; 1.0.0 is supported")]
    Version {
        /// What it says.
        version: String,
    },
    /// A document larger than any honest one.
    #[error("{name} in archive has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// The file.
        name: String,
        /// Its length.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A document of the archive does not parse.
    #[error("{name} in archive does not parse")]
    Json {
        /// The file.
        name: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The archive's table of contents cannot be used.
    #[error("index.json in archive cannot be used")]
    Index(#[source] ModelError),
    /// A manifest or config that cannot be used.
    #[error("document {digest} of image cannot be used")]
    Model {
        /// Which.
        digest: Box<Digest>,
        /// Why.
        #[source]
        source: ModelError,
    },
    /// A file below `blobs/` whose name is no digest.
    #[error("{name:?} in archive is not named by a digest")]
    BlobName {
        /// The file.
        name: String,
    },
    /// A path in manifest.json that is not plainly inside the archive.
    #[error("manifest.json refers to {path:?}, which is not a path inside the archive")]
    Path {
        /// The path.
        path: String,
    },
    /// A name in manifest.json that is no reference.
    #[error("manifest.json names an image {name:?}")]
    Name {
        /// The name.
        name: String,
        /// Why it is none.
        #[source]
        source: ReferenceError,
    },
    /// A blob is not what its name says.
    #[error("blob {expected} has other content: it hashes to {actual}")]
    WrongDigest {
        /// What the name says.
        expected: Box<Digest>,
        /// What it is.
        actual: Box<Digest>,
    },
    /// A file or blob that the image needs is not there.
    #[error("archive is incomplete: {what} is missing")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// The store failed.
    #[error("access blob {digest}")]
    Blob {
        /// Which.
        digest: Box<Digest>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the archive could not be stored.
    #[error("store {name:?} of archive")]
    Store {
        /// The file.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ArchiveError {
    /// The stable id operators look up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Tar(_) => "ORL-E5501",
            Self::Stream { .. } => "ORL-E5502",
            Self::NotAnArchive { .. } => "ORL-E5503",
            Self::Version { .. } => "ORL-E5504",
            Self::TooLarge { .. } => "ORL-E5505",
            Self::Json { .. } => "ORL-E5506",
            Self::Model { .. } => "ORL-E5507",
            Self::BlobName { .. } => "ORL-E5508",
            Self::Path { .. } => "ORL-E5509",
            Self::Name { .. } => "ORL-E5510",
            Self::WrongDigest { .. } => "ORL-E5511",
            Self::Missing { .. } => "ORL-E5512",
            Self::Blob { .. } => "ORL-E5513",
            Self::Store { .. } => "ORL-E5514",
            Self::Index(_) => "ORL-E5515",
        }
    }

    pub(super) fn model(digest: Digest, source: ModelError) -> Self {
        Self::Model {
            digest: Box::new(digest),
            source,
        }
    }
}

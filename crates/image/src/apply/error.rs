//! Why a layer could not be unpacked.

use std::io;

use orlop_types::Digest;

use crate::compression::CompressionError;
use crate::layer::TarError;

/// A layer that was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The stream is no layer Orlop accepts. Fix the image.
    #[error(transparent)]
    Tar(TarError),
    /// The blob expands beyond all measure. Fix the image, or raise the bound.
    #[error(transparent)]
    Bounds(CompressionError),
    /// The blob could not be read or decompressed.
    #[error("read or decompress layer blob")]
    Blob(#[source] io::Error),
    /// The stream does not hash to what the image's config promises.
    #[error("layer's diff id is {actual}, but the image's config says {expected}")]
    WrongDiffId {
        /// What the config says.
        expected: Box<Digest>,
        /// What came out.
        actual: Box<Digest>,
    },
    /// The stream ends between two entries, without the end marker and without a digest that proves it whole.
    #[error("layer stream has no end marker, and no diff id to prove that it is whole")]
    Incomplete,
    /// A file could not be made as the layer says.
    #[error("{operation} {path:?}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which path of the layer.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A hard link to a file that neither this layer nor one below has.
    #[error("hard link {path:?} refers to {target:?}, which does not exist")]
    LinkTarget {
        /// The link.
        path: String,
        /// What it refers to.
        target: String,
    },
    /// A name that begins with `.wh.` and is no whiteout.
    #[error("name {path:?} is reserved for whiteouts and is not a valid one")]
    ReservedName {
        /// The name.
        path: String,
    },
    /// Stopped by the caller.
    #[error("unpacking was cancelled")]
    Cancelled,
}

impl ApplyError {
    /// The stable id operators look up.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tar(error) => error.code(),
            Self::Bounds(error) => error.code(),
            Self::Blob(_) => "ORL-E5201",
            Self::WrongDiffId { .. } => "ORL-E5202",
            Self::Incomplete => "ORL-E5203",
            Self::File { .. } => "ORL-E5204",
            Self::LinkTarget { .. } => "ORL-E5205",
            Self::ReservedName { .. } => "ORL-E5206",
            Self::Cancelled => "ORL-E5207",
        }
    }

    /// Whether the disk was full: the one failure that goes away by collecting and trying again.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::File { source, .. } if full.contains(&source.kind()))
    }

    pub(crate) fn blob(source: io::Error) -> Self {
        match source.downcast::<CompressionError>() {
            Ok(bounds) => Self::Bounds(bounds),
            Err(source) => Self::Blob(source),
        }
    }

    pub(crate) fn file(operation: &'static str, path: &[u8], source: io::Error) -> Self {
        let path = shown(path);
        Self::File {
            operation,
            path,
            source,
        }
    }
}

impl From<TarError> for ApplyError {
    fn from(error: TarError) -> Self {
        if let TarError::Read { source, .. } = error {
            return Self::blob(source);
        }
        Self::Tar(error)
    }
}

pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

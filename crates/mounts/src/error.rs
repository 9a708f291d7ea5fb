//! What can go wrong with mounts made ahead.

use std::io;
use std::path::PathBuf;

use orlop_sys::fs::FsError;
use orlop_sys::mount::{MountError, TableError, UnmountErrors};
use orlop_types::ErrorKind;

/// A failed operation on the mounts of one activation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A mount as it was asked for can never be made. Fix the request.
    #[error("mount {index} of type {fs_type:?}: {reason}")]
    Invalid {
        /// Its place in the list, counted from 0.
        index: usize,
        /// Its type.
        fs_type: String,
        /// What is wrong.
        reason: String,
    },
    /// There are more than one request may have.
    #[error("{count} mounts are more than the {limit} that are made at once")]
    TooMany {
        /// How many were asked for.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// This store does not do that: another place, another feature.
    #[error("mount {index} of type {fs_type:?}: {reason}")]
    Unsupported {
        /// Its place in the list, counted from 0.
        index: usize,
        /// Its type.
        fs_type: String,
        /// What is missing.
        reason: String,
    },
    /// The kernel refused a mount.
    #[error("mount {index}")]
    Mount {
        /// Its place in the list, counted from 0.
        index: usize,
        /// What it said.
        #[source]
        source: MountError,
    },
    /// A loop device could not be made, or undone.
    #[error("cannot {operation} for {}", path.display())]
    Loop {
        /// What was tried.
        operation: &'static str,
        /// The file it stands for, or its link.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A new file system could not be made. Nothing of it stays.
    #[error("{program} failed for {}: {said}", path.display())]
    Mkfs {
        /// The program.
        program: String,
        /// The file that was to hold it.
        path: PathBuf,
        /// How it ended, with what it said.
        said: String,
    },
    /// Something is still mounted. Retry when nobody uses it.
    #[error("cannot take the mounts of activation {number} down")]
    Busy {
        /// Whose.
        number: u64,
        /// What stands against it.
        #[source]
        source: UnmountErrors,
    },
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] FsError),
    /// The mount table could not be read.
    #[error("cannot tell what is mounted")]
    Table(#[source] TableError),
}

impl Error {
    /// The stable id of this kind of error; each has a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } | Self::TooMany { .. } => "ORL-E2201",
            Self::Unsupported { .. } => "ORL-E2202",
            Self::Mount { .. } => "ORL-E2203",
            Self::Loop { .. } => "ORL-E2204",
            Self::Mkfs { .. } => "ORL-E2205",
            Self::Busy { .. } => "ORL-E2206",
            Self::Files(_) | Self::Table(_) => "ORL-E2207",
        }
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::TooMany { .. } => ErrorKind::InvalidArgument,
            Self::Unsupported { .. } => ErrorKind::Unimplemented,
            // Most often a type or an option that this kernel does not know, or a file that holds something else.
            Self::Mount { .. } | Self::Busy { .. } => ErrorKind::FailedPrecondition,
            Self::Files(error) if error.is_out_of_space() => ErrorKind::OutOfSpace,
            Self::Files(error) if error.is_not_found() => ErrorKind::NotFound,
            Self::Loop { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::Loop { .. } | Self::Mkfs { .. } | Self::Files(_) | Self::Table(_) => {
                ErrorKind::Internal
            }
        }
    }
}

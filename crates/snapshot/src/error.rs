//! What can go wrong with a snapshot, and what the caller can do about it.

use std::io;
use std::path::PathBuf;

use orlop_sys::fs::FsError;
use orlop_sys::mount::TableError;

use crate::{Kind, SnapshotNumber};

/// A failed operation on a snapshot or on the folder of a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database knows the snapshot, the disk does not: its files are lost. Prepare or pull it again.
    #[error("snapshot {number} has no folder in {}", root.display())]
    Missing {
        /// The snapshot asked for, or a parent of it.
        number: SnapshotNumber,
        /// The backend's folder.
        root: PathBuf,
    },
    /// The folder is there but of another kind than the caller says. Not to be retried.
    #[error("cannot {operation} snapshot {number}: it is {found} on disk")]
    WrongKind {
        /// What was asked for.
        operation: &'static str,
        /// The snapshot.
        number: SnapshotNumber,
        /// What the disk says it is.
        found: Kind,
    },
    /// A mount still uses the snapshot's files. Retry when it is gone.
    #[error("cannot {operation} snapshot {number}: the mount at {} uses it", mountpoint.display())]
    Mounted {
        /// What was asked for.
        operation: &'static str,
        /// The snapshot.
        number: SnapshotNumber,
        /// Where the mount is.
        mountpoint: PathBuf,
    },
    /// Another thread is preparing, committing or removing the same snapshot. Retry.
    #[error("cannot {operation} snapshot {number}: another operation on it is under way")]
    InProgress {
        /// What was asked for.
        operation: &'static str,
        /// The snapshot.
        number: SnapshotNumber,
    },
    /// This machine, or the file system of this folder, cannot serve this backend. Fix the configuration.
    #[error("snapshotter {backend} cannot be used on {}: {reason}", root.display())]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// The backend's folder.
        root: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A path that cannot be written into a mount option, because it is not UTF-8.
    #[error("the path {} is not UTF-8 and cannot be named in a mount", path.display())]
    UnmountablePath {
        /// The path.
        path: PathBuf,
    },
    /// A file operation failed; the disk may be full ([`FsError::is_out_of_space`]).
    #[error(transparent)]
    Files(#[from] FsError),
    /// The mount table could not be read, so nothing is removed or committed: it might be in use.
    #[error("cannot tell which snapshots are mounted")]
    Table(#[source] TableError),
    /// A system call on a single file failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The stable id of this kind of error; each has a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "ORL-E2001",
            Self::WrongKind { .. } => "ORL-E2002",
            Self::Mounted { .. } => "ORL-E2003",
            Self::InProgress { .. } => "ORL-E2004",
            Self::Unsupported { .. } => "ORL-E2005",
            Self::UnmountablePath { .. } => "ORL-E2006",
            Self::Io { .. } | Self::Files(_) if self.is_out_of_space() => "ORL-E2008",
            Self::Io { .. } | Self::Files(_) => "ORL-E2007",
            Self::Table(_) => "ORL-E2009",
        }
    }

    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Files(error) => error.is_out_of_space(),
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Missing { .. }
            | Self::WrongKind { .. }
            | Self::Mounted { .. }
            | Self::InProgress { .. }
            | Self::Unsupported { .. }
            | Self::UnmountablePath { .. }
            | Self::Table(_) => false,
        }
    }

    /// Whether the same call may succeed later without anybody changing its input.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Mounted { .. }
            | Self::InProgress { .. }
            | Self::Io { .. }
            | Self::Files(_)
            | Self::Table(_) => true,
            Self::Missing { .. }
            | Self::WrongKind { .. }
            | Self::Unsupported { .. }
            | Self::UnmountablePath { .. } => false,
        }
    }
}

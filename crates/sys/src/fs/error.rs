//! What can go wrong with a file.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A failed operation on a file or directory. The path is for a person's eye: it says where the descriptor was
/// opened, which a concurrent rename may have made untrue.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The kernel refused; [`FsError::io_kind`] tells why.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was attempted, as a verb: "open", "rename".
        operation: &'static str,
        /// What it was attempted on.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file system is mounted there: nothing behind it is touched. Unmount it first.
    #[error("refused to {operation} {}: a file system is mounted on it", path.display())]
    MountPoint {
        /// What was attempted.
        operation: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// Another process holds the lock. Stop that process, or use another root.
    #[error("{} is locked by {}", path.display(), holder_text(*holder))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that wrote its id into the lock file, if it could be read.
        holder: Option<u32>,
    },
    /// A file is larger than its reader accepts.
    #[error("{} is larger than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most accepted, in bytes.
        limit_bytes: u64,
    },
    /// A tree was only partly removed: the first failure is the source, all others were tried too.
    #[error("{failed} of the entries below {} could not be removed", path.display())]
    Partial {
        /// The top of the tree.
        path: PathBuf,
        /// How many entries failed.
        failed: u64,
        /// The first failure.
        #[source]
        first: Box<FsError>,
    },
    /// A directory was moved while it was walked: the walk stopped rather than leave its tree.
    #[error("{} was moved while it was walked", path.display())]
    Moved {
        /// Where the walk stood.
        path: PathBuf,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

impl FsError {
    /// Wraps the kernel's answer to `operation` on `path`.
    ///
    /// For calls on a descriptor that has left [`super::Dir`]'s hands: reads, writes, syncs of a file.
    pub fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The kind of the kernel's answer, if the kernel was asked.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.io_error().map(io::Error::kind)
    }

    /// The kernel's answer, if the kernel was asked.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Partial { first, .. } => first.io_error(),
            Self::MountPoint { .. }
            | Self::Locked { .. }
            | Self::TooLarge { .. }
            | Self::Moved { .. } => None,
        }
    }

    /// Whether nothing is there under that name.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::NotFound)
    }

    /// Whether something is there already under that name.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::AlreadyExists)
    }

    /// Whether the disk is full (`ENOSPC`) or a quota is reached (`EDQUOT`).
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        self.io_error().is_some_and(|error| {
            matches!(
                Errno::from_io_error(error),
                Some(Errno::NOSPC | Errno::DQUOT)
            )
        })
    }
}

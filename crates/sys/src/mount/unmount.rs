//! Taking mounts down.

use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::table::is_same;
use super::{MountTable, TableError};

/// A mount put on top while the others are taken down is noticed this many times.
const PASSES_MAX: usize = 4;

/// What to take down, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unmount {
    /// Take the mount out of the tree now even if it is in use; it ends with its last user (`MNT_DETACH`).
    pub detach: bool,
    /// Take down what is mounted beneath the target too.
    pub recursive: bool,
}

/// A mount that could not be taken down.
#[derive(Debug, thiserror::Error)]
#[error("cannot unmount {}", mountpoint.display())]
pub struct UnmountError {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Why: `EBUSY` if it is in use.
    #[source]
    pub source: io::Error,
}

/// Why something is still mounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountErrors {
    /// Which mounts there are is not known.
    #[error("cannot find the mounts at {}", target.display())]
    Find {
        /// The path asked for.
        target: PathBuf,
        /// Why.
        #[source]
        source: TableError,
    },
    /// The folder above the target cannot be resolved.
    #[error("cannot resolve {}", target.display())]
    Resolve {
        /// The path asked for.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Some mounts stayed; all others were taken down. The source is the first.
    #[error("{} mounts at {} are still there", failures.len() + 1, target.display())]
    Remain {
        /// The path asked for.
        target: PathBuf,
        /// The first that stayed.
        #[source]
        first: UnmountError,
        /// The others.
        failures: Vec<UnmountError>,
    },
}

impl UnmountErrors {
    /// The stable id of this kind of error; each has a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Find { .. } => "ORL-E2111",
            Self::Resolve { .. } => "ORL-E2112",
            Self::Remain { .. } => "ORL-E2113",
        }
    }
}

/// Takes down every mount at `target`, however many lie on top of each other; nothing there is no error.
///
/// A symbolic link as the last component is not followed. The target itself is never looked at, so that a file
/// system that no longer answers cannot block this.
///
/// # Errors
/// [`UnmountErrors`]. A failure does not stop the others.
pub fn unmount_all(target: &Path, how: Unmount) -> Result<(), UnmountErrors> {
    let Some(target) = resolve_parent(target)? else {
        return Ok(());
    };
    let mut failures = Vec::new();
    for _ in 0..PASSES_MAX {
        let mountpoints = find(&target, how)?;
        if mountpoints.is_empty() {
            return Ok(());
        }
        failures = mountpoints
            .into_iter()
            .filter_map(|mountpoint| take_down(mountpoint, how))
            .collect();
        if failures
            .iter()
            .any(|failure: &UnmountError| !failure.may_pass())
        {
            break;
        }
    }
    let mut failures = failures.into_iter();
    match failures.next() {
        None => Ok(()),
        Some(first) => Err(UnmountErrors::Remain {
            target,
            first,
            failures: failures.collect(),
        }),
    }
}

/// The path as the mount table has it; none if the folder above does not exist.
fn resolve_parent(target: &Path) -> Result<Option<PathBuf>, UnmountErrors> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Ok(Some(target.to_owned()));
    };
    match parent.canonicalize() {
        Ok(parent) => Ok(Some(parent.join(name))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(UnmountErrors::Resolve {
            target: target.to_owned(),
            source,
        }),
    }
}

/// The deepest first: what lies on something must go before it.
fn find(target: &Path, how: Unmount) -> Result<Vec<PathBuf>, UnmountErrors> {
    let table = MountTable::read().map_err(|source| UnmountErrors::Find {
        target: target.to_owned(),
        source,
    })?;
    let mut mountpoints: Vec<_> = table
        .beneath(target)
        .map(|entry| entry.mountpoint.clone())
        .filter(|mountpoint| how.recursive || is_same(mountpoint, target))
        .collect();
    mountpoints.sort_by_key(|mountpoint| Reverse(mountpoint.components().count()));
    Ok(mountpoints)
}

fn take_down(mountpoint: PathBuf, how: Unmount) -> Option<UnmountError> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if how.detach {
        flags |= UnmountFlags::DETACH;
    }
    unmount(&mountpoint, flags).err().map(|errno| UnmountError {
        mountpoint,
        source: errno.into(),
    })
}

impl UnmountError {
    /// Whether the next look at the table may find it gone: somebody else was faster, or it is hidden beneath a
    /// mount that this pass takes down.
    fn may_pass(&self) -> bool {
        let errno = self.source.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::INVAL | Errno::NOENT))
    }
}

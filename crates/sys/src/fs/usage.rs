//! What a tree takes and what a disk has left.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use super::walk::{Visitor, walk};
use super::{Dir, FsError, Name, Stat};

/// What files take on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes (`st_blocks` × 512), not lengths: a sparse file takes less than its length.
    pub bytes: u64,
    /// Number of inodes.
    pub inodes: u64,
}

impl Usage {
    /// What one file takes.
    #[must_use]
    pub const fn of(stat: &Stat) -> Self {
        Self {
            bytes: stat.disk_bytes,
            inodes: 1,
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// What `name` in `dir` and all below it takes. A file with several names is counted once; what is mounted
/// below is not counted; entries that vanish meanwhile are skipped; a missing `name` takes nothing.
///
/// # Errors
/// [`FsError::Io`] for the first entry that cannot be read; [`FsError::MountPoint`] if `name` itself is one.
pub fn usage_beneath(dir: &Dir, name: &Name) -> Result<Usage, FsError> {
    let mut measure = Measure::default();
    walk(dir, name, &mut measure)?;
    match measure.mounted {
        Some(error) if measure.used == Usage::default() => Err(error),
        Some(_) | None => Ok(measure.used),
    }
}

#[derive(Default)]
struct Measure {
    used: Usage,
    /// Only files with several names, so that the set stays small.
    seen: HashSet<((u32, u32), u64)>,
    mounted: Option<FsError>,
}

impl Visitor for Measure {
    const OPERATION: &'static str = "measure";

    fn leaf(&mut self, _: BorrowedFd<'_>, _: &Name, stat: &Stat) -> rustix::io::Result<()> {
        if stat.links < 2 || self.seen.insert((stat.device, stat.inode)) {
            self.used = self.used.plus(Usage::of(stat));
        }
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &Name, stat: &Stat) -> rustix::io::Result<()> {
        self.used = self.used.plus(Usage::of(stat));
        Ok(())
    }

    fn failed(&mut self, error: FsError) -> Result<(), FsError> {
        if matches!(error, FsError::MountPoint { .. }) {
            self.mounted.get_or_insert(error);
            return Ok(());
        }
        Err(error)
    }
}

/// What a file system has left. Inode figures are 0 where the file system has no fixed number (btrfs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Size in bytes.
    pub bytes_total: u64,
    /// Bytes an unprivileged process may still write; root may have a little more.
    pub bytes_available: u64,
    /// Inodes in all.
    pub inodes_total: u64,
    /// Inodes left.
    pub inodes_available: u64,
}

/// What the file system of `dir` has left.
///
/// # Errors
/// [`FsError::Io`].
pub fn free_space(dir: &Dir) -> Result<FreeSpace, FsError> {
    let stat = rustix::fs::fstatvfs(dir.as_fd())
        .map_err(|source| FsError::io("ask for the free space of", dir.path(), source))?;
    Ok(FreeSpace {
        bytes_total: stat.f_blocks.saturating_mul(stat.f_frsize),
        bytes_available: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes_total: stat.f_files,
        inodes_available: stat.f_favail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_takes_what_is_allocated_not_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        let sparse = std::fs::File::create(folder.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let used = usage_beneath(&dir, &Name::from_static("sparse")).unwrap();
        assert_eq!(used.inodes, 1);
        assert!(used.bytes < 1 << 20, "{used:?}");
    }

    #[test]
    fn free_space_is_within_the_size() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_space(&Dir::open(folder.path()).unwrap()).unwrap();
        assert!(free.bytes_total > 0);
        assert!(free.bytes_available <= free.bytes_total);
    }
}

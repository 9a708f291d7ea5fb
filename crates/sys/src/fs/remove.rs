//! Removing a tree: the only way in Orlop.

use std::os::fd::BorrowedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::usage::Usage;
use super::walk::{Visitor, walk};
use super::{Dir, FsError, Name, Stat};

/// A directory may gain entries, or a file system may skip some, while it is emptied: then it is emptied again.
const PASSES_MAX: u32 = 4;

/// Removes `name` in `dir` and, if it is a directory, all below it. A missing one is no error and frees nothing.
///
/// Links are removed, never followed. At a mount point, `name` itself or anything below, the removal stops: what
/// is mounted and the way to it stay. Any other failing entry does not keep the rest from being removed.
///
/// Returns what the file system gets back: blocks and inodes of files whose last name this was. Bytes that are
/// shared with other files by reflink are counted though they stay. Not durable before `dir` is synced.
///
/// # Errors
/// [`FsError::MountPoint`], [`FsError::Partial`] if entries remain, [`FsError::Moved`], or [`FsError::Io`].
pub fn remove_tree_beneath(dir: &Dir, name: &Name) -> Result<Usage, FsError> {
    let mut removal = Removal::default();
    for _ in 0..PASSES_MAX {
        removal.not_empty = None;
        walk(dir, name, &mut removal)?;
        if removal.failed > 0 || removal.not_empty.is_none() {
            break;
        }
    }
    match removal.first.or(removal.not_empty) {
        None => Ok(removal.freed),
        Some(first) => Err(FsError::Partial {
            path: dir.path_of(name),
            failed: removal.failed.max(1),
            first: Box::new(first),
        }),
    }
}

#[derive(Default)]
struct Removal {
    freed: Usage,
    failed: u64,
    first: Option<FsError>,
    not_empty: Option<FsError>,
}

impl Removal {
    fn unlink(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &Name,
        flags: AtFlags,
        freed: Usage,
    ) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(parent, name.as_arg(), flags)?;
        self.freed = self.freed.plus(freed);
        Ok(())
    }
}

impl Visitor for Removal {
    const OPERATION: &'static str = "remove";

    fn leaf(&mut self, parent: BorrowedFd<'_>, name: &Name, stat: &Stat) -> rustix::io::Result<()> {
        let freed = match stat.links {
            0 | 1 => Usage::of(stat),
            _ => Usage::default(),
        };
        self.unlink(parent, name, AtFlags::empty(), freed)
    }

    fn leave(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &Name,
        stat: &Stat,
    ) -> rustix::io::Result<()> {
        self.unlink(parent, name, AtFlags::REMOVEDIR, Usage::of(stat))
    }

    fn failed(&mut self, error: FsError) -> Result<(), FsError> {
        if matches!(error, FsError::MountPoint { .. }) {
            return Err(error);
        }
        let errno = error.io_error().and_then(Errno::from_io_error);
        if errno == Some(Errno::NOTEMPTY) {
            // A consequence of another failure, or a reason for one more pass.
            self.not_empty.get_or_insert(error);
        } else {
            self.failed += 1;
            self.first.get_or_insert(error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::fs::{Mode, usage_beneath};

    static TREE: Name = Name::from_static("tree");
    static NEXT: Name = Name::from_static("n");

    fn scratch() -> (tempfile::TempDir, Dir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        (folder, dir)
    }

    fn fill(path: &Path, bytes: usize) {
        use std::io::Write;
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        file.sync_all().unwrap();
    }

    #[test]
    fn a_tree_goes_whole_and_gives_back_what_it_used() {
        let (folder, dir) = scratch();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fill(&tree.join("a/one"), 10_000);
        fill(&tree.join("a/b/two"), 1);
        std::fs::hard_link(tree.join("a/one"), tree.join("a/b/again")).unwrap();
        let used = usage_beneath(&dir, &TREE).unwrap();
        assert_eq!(used.inodes, 6);
        assert_eq!(remove_tree_beneath(&dir, &TREE).unwrap(), used);
        assert!(!tree.exists());
    }

    #[test]
    fn a_file_with_a_name_outside_gives_nothing_back() {
        let (folder, dir) = scratch();
        std::fs::create_dir(folder.path().join("tree")).unwrap();
        fill(&folder.path().join("outside"), 5000);
        std::fs::hard_link(
            folder.path().join("outside"),
            folder.path().join("tree/inside"),
        )
        .unwrap();
        let freed = remove_tree_beneath(&dir, &TREE).unwrap();
        assert_eq!(freed.inodes, 1, "the directory alone");
        assert_eq!(
            folder.path().join("outside").metadata().unwrap().len(),
            5000
        );
    }

    #[test]
    fn links_go_and_their_targets_stay() {
        let (folder, dir) = scratch();
        let kept = folder.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        fill(&kept.join("file"), 1);
        std::fs::create_dir(folder.path().join("tree")).unwrap();
        symlink(&kept, folder.path().join("tree/link")).unwrap();
        symlink(&kept, folder.path().join("n")).unwrap();
        remove_tree_beneath(&dir, &TREE).unwrap();
        remove_tree_beneath(&dir, &NEXT).unwrap();
        assert!(kept.join("file").exists());
        assert!(!folder.path().join("n").is_symlink());
    }

    #[test]
    fn a_missing_tree_is_no_error() {
        let (_folder, dir) = scratch();
        assert_eq!(remove_tree_beneath(&dir, &TREE).unwrap(), Usage::default());
    }

    #[test]
    fn a_tree_deeper_than_the_open_descriptors_goes_too() {
        let (_folder, dir) = scratch();
        let mut inner = dir.create_dir(&TREE, Mode::from(0o700)).unwrap();
        for _ in 0..300 {
            inner
                .create_file(&Name::from_static("leaf"), Mode::from(0o600))
                .unwrap();
            inner
                .create_dir(&Name::from_static("empty"), Mode::from(0o700))
                .unwrap();
            inner = inner.create_dir(&NEXT, Mode::from(0o700)).unwrap();
        }
        assert_eq!(usage_beneath(&dir, &TREE).unwrap().inodes, 901);
        assert_eq!(remove_tree_beneath(&dir, &TREE).unwrap().inodes, 901);
        assert!(!dir.contains(&TREE).unwrap());
    }
}

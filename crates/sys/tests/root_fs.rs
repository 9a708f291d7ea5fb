//! Removal and measuring at mount points, with real mounts.

use std::path::Path;

use orlop_sys::fs::{Dir, FsError, Name, remove_tree_beneath, usage_beneath};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

static TREE: Name = Name::from_static("tree");

/// Unmounts however the test ends.
struct Mounted<'path>(&'path Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).expect("what was mounted can be unmounted");
    }
}

fn tmpfs(target: &Path) -> Mounted<'_> {
    mount("none", target, "tmpfs", MountFlags::empty(), c"size=1m").expect("tests run as root");
    Mounted(target)
}

fn bind<'path>(source: &Path, target: &'path Path) -> Mounted<'path> {
    mount_bind(source, target).expect("tests run as root");
    Mounted(target)
}

#[test]
fn a_mounted_top_is_refused_and_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let _mounted = tmpfs(&tree);
    std::fs::File::create(tree.join("inside")).unwrap();
    let dir = Dir::open(folder.path()).unwrap();
    let refused = remove_tree_beneath(&dir, &TREE).unwrap_err();
    assert!(matches!(refused, FsError::MountPoint { .. }), "{refused:?}");
    assert!(matches!(
        usage_beneath(&dir, &TREE),
        Err(FsError::MountPoint { .. })
    ));
    assert!(tree.join("inside").exists());
}

#[test]
fn a_bind_mount_of_the_same_file_system_deep_below_is_never_entered() {
    // st_dev is the same on both sides here: only the mount tells them apart (containerd #10704).
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let point = folder.path().join("tree/a/point");
    std::fs::create_dir(&image).unwrap();
    std::fs::create_dir_all(&point).unwrap();
    std::fs::File::create(image.join("data")).unwrap();
    let dir = Dir::open(folder.path()).unwrap();
    {
        let _mounted = bind(&image, &point);
        let refused = remove_tree_beneath(&dir, &TREE).unwrap_err();
        assert!(
            matches!(&refused, FsError::MountPoint { path, .. } if path == &point),
            "{refused:?}"
        );
        assert_eq!(usage_beneath(&dir, &TREE).unwrap().inodes, 2, "tree and a");
    }
    assert!(image.join("data").exists());
    remove_tree_beneath(&dir, &TREE).unwrap();
    assert!(image.join("data").exists());
}

#[test]
fn a_mounted_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = Dir::open(folder.path()).unwrap();
    let point = folder.path().join("tree");
    let source = folder.path().join("source");
    std::fs::File::create(&point).unwrap();
    std::fs::File::create(&source).unwrap();
    let _mounted = bind(&source, &point);
    let refused = remove_tree_beneath(&dir, &TREE).unwrap_err();
    assert!(matches!(refused, FsError::MountPoint { .. }), "{refused:?}");
}

#[test]
fn an_immutable_file_does_not_keep_the_rest_from_going() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("b")).unwrap();
    let stuck = std::fs::File::create(tree.join("stuck")).unwrap();
    std::fs::File::create(tree.join("b/free")).unwrap();
    let flags = rustix::fs::ioctl_getflags(&stuck).unwrap();
    rustix::fs::ioctl_setflags(&stuck, flags | rustix::fs::IFlags::IMMUTABLE).unwrap();
    let dir = Dir::open(folder.path()).unwrap();
    let partial = remove_tree_beneath(&dir, &TREE);
    rustix::fs::ioctl_setflags(&stuck, flags).unwrap();
    assert!(
        matches!(partial, Err(FsError::Partial { failed: 1, .. })),
        "{partial:?}"
    );
    assert!(!tree.join("b").exists());
    remove_tree_beneath(&dir, &TREE).unwrap();
}

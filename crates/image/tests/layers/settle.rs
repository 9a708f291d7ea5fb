//! What has to wait for the layers below.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use orlop_image::apply::{ApplyError, WhiteoutStyle, settle};
use orlop_image::layer::{Entry, EntryKind};

use super::support::{apply, entry, hard_link, nodes, stream, symlink, target};

fn file(path: &str) -> Entry {
    entry(path, EntryKind::File)
}

/// Two lower layers and one that needs both.
#[test]
fn links_to_lower_layers_are_copied_up_and_undescribed_directories_take_over_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut described = entry("usr/share", EntryKind::Directory);
    (described.mode, described.uid) = (0o2750, 7);
    described.attributes = vec![(b"user.kept".to_vec(), b"1".to_vec())];
    let mut tool = file("usr/share/tool");
    (tool.mode, tool.gid) = (0o4711, 9);
    tool.attributes = vec![(b"user.color".to_vec(), b"blue".to_vec())];
    let bottom = stream(&[
        entry("usr", EntryKind::Directory),
        described,
        tool,
        symlink("lib", "usr/share"),
        file("hidden"),
    ]);
    let middle = stream(&[file(".wh.hidden"), file("other")]);
    let top = stream(&[
        hard_link("bin/tool", "usr/share/tool"),
        hard_link("bin/again", "lib/tool"),
        hard_link("bin/third", "usr/share/tool"),
        file("usr/share/new"),
    ]);
    apply(&bottom, &path("bottom"), WhiteoutStyle::Overlay).unwrap();
    apply(&middle, &path("middle"), WhiteoutStyle::Overlay).unwrap();
    let applied = apply(&top, &path("top"), WhiteoutStyle::Overlay).unwrap();
    assert!(!applied.deferred.is_empty());

    let lowers = [
        fs::File::open(path("middle")).unwrap(),
        fs::File::open(path("bottom")).unwrap(),
    ];
    let lowers = [lowers[0].as_fd(), lowers[1].as_fd()];
    let settled = settle(
        &applied.deferred,
        &target(&path("top"), WhiteoutStyle::Overlay),
        &lowers,
    )
    .unwrap();
    assert_eq!(settled.directories, 2);
    let tool = fs::metadata(path("top/bin/tool")).unwrap();
    assert_eq!(
        (tool.mode() & 0o7777, tool.gid(), tool.mtime()),
        (0o4711, 9, 1_700_000_000)
    );
    assert_eq!(
        tool.ino(),
        fs::metadata(path("top/usr/share/tool")).unwrap().ino()
    );
    assert_eq!(
        tool.ino(),
        fs::metadata(path("top/bin/third")).unwrap().ino()
    );
    assert_eq!(fs::read(path("top/bin/again")).unwrap(), b"usr/share/tool");
    assert_eq!(
        nodes(&path("top"))["usr/share"],
        nodes(&path("bottom"))["usr/share"]
    );
}

#[test]
fn a_link_to_a_file_its_own_layer_deletes_still_has_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    apply(
        &stream(&[file("old")]),
        &path("bottom"),
        WhiteoutStyle::Overlay,
    )
    .unwrap();
    let top = stream(&[file(".wh.old"), hard_link("renamed", "old")]);
    let applied = apply(&top, &path("top"), WhiteoutStyle::Overlay).unwrap();
    let bottom = fs::File::open(path("bottom")).unwrap();
    settle(
        &applied.deferred,
        &target(&path("top"), WhiteoutStyle::Overlay),
        &[bottom.as_fd()],
    )
    .unwrap();
    assert_eq!(fs::read(path("top/renamed")).unwrap(), b"old");
}

#[test]
fn a_whiteout_in_between_hides_the_target_of_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    apply(
        &stream(&[file("hidden")]),
        &path("bottom"),
        WhiteoutStyle::Overlay,
    )
    .unwrap();
    apply(
        &stream(&[file(".wh.hidden")]),
        &path("middle"),
        WhiteoutStyle::Overlay,
    )
    .unwrap();
    let top = apply(
        &stream(&[hard_link("x", "hidden")]),
        &path("top"),
        WhiteoutStyle::Overlay,
    )
    .unwrap();
    let lowers = [
        fs::File::open(path("middle")).unwrap(),
        fs::File::open(path("bottom")).unwrap(),
    ];
    let lowers = [lowers[0].as_fd(), lowers[1].as_fd()];
    let error = settle(
        &top.deferred,
        &target(&path("top"), WhiteoutStyle::Overlay),
        &lowers,
    )
    .unwrap_err();
    assert!(matches!(error, ApplyError::LinkTarget { .. }), "{error}");
}

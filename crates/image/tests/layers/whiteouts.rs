//! Deletions, in both styles.

use std::fs;
use std::path::Path;

use orlop_image::apply::{WhiteoutStyle, apply_layer};
use orlop_image::layer::{Entry, EntryKind};
use orlop_sys::beneath;

use super::support::{apply, entry, stream};

fn file(path: &str) -> Entry {
    entry(path, EntryKind::File)
}

fn directory(path: &str) -> Entry {
    entry(path, EntryKind::Directory)
}

fn lower() -> Vec<u8> {
    stream(&[
        directory("d"),
        file("d/a"),
        file("d/b"),
        directory("d/sub"),
        file("d/sub/c"),
        file("e"),
        directory("gone"),
        file("gone/x"),
    ])
}

fn upper() -> Vec<u8> {
    stream(&[
        file("d/new"),
        file("d/.wh..wh..opq"),
        file("d/sub/kept"),
        file(".wh.e"),
        file(".wh.gone"),
        file(".wh.never"),
        file(".wh..wh.plnk/1"),
        file("e2"),
        file(".wh.e2"),
        directory("r"),
        file("r/x"),
        file(".wh.r"),
    ])
}

fn names(root: &Path) -> Vec<String> {
    super::support::nodes(root).into_keys().collect()
}

#[test]
fn removing_spares_what_the_same_layer_made() {
    let folder = tempfile::tempdir().unwrap();
    apply(&lower(), folder.path(), WhiteoutStyle::Remove).unwrap();
    apply(&upper(), folder.path(), WhiteoutStyle::Remove).unwrap();
    assert_eq!(
        names(folder.path()),
        ["d", "d/new", "d/sub", "d/sub/kept", "e2", "r", "r/x"]
    );
}

#[test]
fn an_overlay_of_both_shows_the_same_as_removing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    apply(&lower(), &path("lower"), WhiteoutStyle::Overlay).unwrap();
    apply(&upper(), &path("upper"), WhiteoutStyle::Overlay).unwrap();
    for name in ["work", "merged"] {
        fs::create_dir(path(name)).unwrap();
    }
    let script = "unshare -m bash -euc 'mount -t overlay overlay -o lowerdir=upper:lower merged; cd merged; find . -mindepth 1 -printf \"%P\\n\" | sort' > found";
    super::support::shell(folder.path(), script);
    let found = fs::read_to_string(path("found")).unwrap();
    assert_eq!(
        found.lines().collect::<Vec<_>>(),
        ["d", "d/new", "d/sub", "d/sub/kept", "e2", "r", "r/x"]
    );
}

#[test]
fn an_overlay_whiteout_is_a_device_and_an_opaque_directory_an_attribute() {
    let folder = tempfile::tempdir().unwrap();
    apply(&upper(), folder.path(), WhiteoutStyle::Overlay).unwrap();
    let root = fs::File::open(folder.path()).unwrap();
    assert!(beneath::stat(&root, b"e").unwrap().is_overlay_whiteout());
    for opaque in [&b"d"[..], b"r"] {
        assert_eq!(
            beneath::attribute(&root, opaque, b"trusted.overlay.opaque")
                .unwrap()
                .unwrap(),
            b"y"
        );
    }
    assert!(!folder.path().join(".wh..wh.plnk").exists());
}

#[test]
fn a_directory_over_its_own_whiteout_hides_what_was_below() {
    let folder = tempfile::tempdir().unwrap();
    for layer in [
        stream(&[file(".wh.d"), directory("d"), file("d/n")]),
        stream(&[file(".wh.d"), file("d/n")]),
    ] {
        apply(&layer, folder.path(), WhiteoutStyle::Overlay).unwrap();
        let root = fs::File::open(folder.path()).unwrap();
        assert_eq!(
            beneath::attribute(&root, b"d", b"trusted.overlay.opaque")
                .unwrap()
                .unwrap(),
            b"y"
        );
        beneath::remove_tree(&root, b"d").unwrap();
    }
}

#[test]
fn names_reserved_for_whiteouts_are_refused() {
    for bad in [".wh.", "a/.wh...", ".wh.a/b"] {
        let folder = tempfile::tempdir().unwrap();
        let target = super::support::target(folder.path(), WhiteoutStyle::Overlay);
        let error =
            apply_layer(&stream(&[file(bad)])[..], &target, &Default::default()).unwrap_err();
        assert_eq!(error.code(), "ORL-E5206", "{bad}: {error}");
    }
}

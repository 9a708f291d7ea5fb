//! Layers that mean harm: nothing outside the root changes, and what is refused says why.

use std::fs;
use std::io::Write;
use std::path::Path;

use orlop_image::apply::{ApplyError, ApplyOptions, WhiteoutStyle, apply_layer};
use orlop_image::compression::Bounds;
use orlop_image::layer::{Entry, EntryKind, Limits, TarError};

use super::support::{apply, entry, hard_link, nodes, stream, symlink, target};

/// A folder with a victim beside the root, its path, and the check that it is untouched.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::create_dir(folder.path().join("victim")).unwrap();
        fs::write(folder.path().join("victim/file"), "precious").unwrap();
        Self { folder }
    }

    fn victim(&self) -> String {
        self.folder.path().join("victim").display().to_string()
    }

    fn apply(&self, entries: &[Entry], style: WhiteoutStyle) -> Result<(), ApplyError> {
        let result = apply(&stream(entries), &self.root(), style).map(drop);
        let victim = nodes(Path::new(&self.victim()));
        assert_eq!(
            victim.keys().collect::<Vec<_>>(),
            ["file"],
            "the victim's folder changed"
        );
        assert_eq!(
            fs::read(self.folder.path().join("victim/file")).unwrap(),
            b"precious"
        );
        result
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }
}

fn file(path: &str) -> Entry {
    entry(path, EntryKind::File)
}

#[test]
fn no_layer_writes_outside_its_root() {
    for style in [WhiteoutStyle::Overlay, WhiteoutStyle::Remove] {
        let site = Site::new();
        let victim = site.victim();
        let attacks = [
            vec![file("../victim/new"), file("../../../../victim/file")],
            vec![file(&format!("{victim}/file"))],
            vec![symlink("a", &victim), file("a/file")],
            vec![symlink("b", "../victim"), file("b/file"), file("b/new")],
            vec![symlink("c", "../victim/file"), file("c")],
            vec![
                symlink("d", &victim),
                file("d/.wh.file"),
                file("d/.wh..wh..opq"),
            ],
            vec![symlink("e", ".."), symlink("f", "e/victim"), file("f/file")],
            vec![
                symlink("g", &victim),
                entry("g", EntryKind::Directory),
                file("g/file"),
            ],
            vec![symlink("h", "/proc/self/root"), file("h/tmp/planted")],
            vec![
                symlink("i", &victim),
                entry("i/file/x", EntryKind::Directory),
            ],
        ];
        for attack in attacks {
            // Some are refused, some land inside; the site checks that none lands outside.
            drop(site.apply(&attack, style));
        }
        assert!(!Path::new("/tmp/planted").exists());
    }
}

#[test]
fn a_hard_link_to_the_outside_finds_nothing() {
    let site = Site::new();
    let victim = site.victim();
    for target in [format!("{victim}/file"), "../victim/file".to_owned()] {
        let result = site.apply(&[hard_link("x", &target)], WhiteoutStyle::Remove);
        assert!(
            matches!(result, Err(ApplyError::LinkTarget { .. })),
            "{result:?}"
        );
    }
    let result = site.apply(
        &[symlink("a", &victim), hard_link("x", "a/file")],
        WhiteoutStyle::Remove,
    );
    assert!(
        matches!(result, Err(ApplyError::LinkTarget { .. })),
        "{result:?}"
    );
    assert!(!site.root().join("x").exists());
}

#[test]
fn a_planted_link_is_followed_inside_the_root_even_when_it_dangles() {
    let site = Site::new();
    let entries = [
        symlink("bin", "usr/bin"),
        file("bin/sh"),
        symlink("abs", "/usr/bin"),
        file("abs/ls"),
        symlink("up", "../../../usr"),
        file("up/x"),
    ];
    site.apply(&entries, WhiteoutStyle::Overlay).unwrap();
    for path in ["usr/bin/sh", "usr/bin/ls", "usr/x"] {
        assert!(site.root().join(path).is_file(), "{path} is missing");
    }
    let result = site.apply(
        &[symlink("l1", "l2"), symlink("l2", "l1"), file("l1/x")],
        WhiteoutStyle::Overlay,
    );
    assert!(result.is_err());
}

#[test]
fn kinds_replace_each_other_and_the_last_entry_wins() {
    let site = Site::new();
    let directory = |path| entry(path, EntryKind::Directory);
    let entries = [
        directory("a"),
        file("a/b"),
        file("a"),
        file("c"),
        directory("c"),
        file("c/d"),
        symlink("e", "c"),
        file("e"),
        file("f"),
        file("f"),
        entry("f", EntryKind::Fifo),
        directory("g"),
        file("g/h"),
        directory("g"),
        file("i"),
        hard_link("i", "i"),
        hard_link("j", "i"),
        file("i"),
    ];
    site.apply(&entries, WhiteoutStyle::Overlay).unwrap();
    let root = site.root();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"a");
    assert!(root.join("c/d").is_file() && root.join("g/h").is_file());
    assert!(fs::symlink_metadata(root.join("e")).unwrap().is_file());
    assert!(!root.join("f").is_file());
    assert_eq!(
        fs::read(root.join("j")).unwrap(),
        b"i",
        "replacing a name does not write through its other one"
    );
}

#[test]
fn set_id_bits_survive_the_change_of_owner() {
    let site = Site::new();
    let mut tool = file("tool");
    (tool.mode, tool.uid) = (0o6755, 1000);
    site.apply(&[tool], WhiteoutStyle::Overlay).unwrap();
    let meta = fs::metadata(site.root().join("tool")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o7777, 0o6755);
}

#[test]
fn attributes_that_steer_the_overlay_are_left_out() {
    let site = Site::new();
    let mut directory = entry("d", EntryKind::Directory);
    directory.attributes = vec![
        (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"user.fine".to_vec(), b"1".to_vec()),
    ];
    let applied = apply(&stream(&[directory]), &site.root(), WhiteoutStyle::Overlay).unwrap();
    assert_eq!(applied.attributes_ignored, 2);
    let root = fs::File::open(site.root()).unwrap();
    let kept = orlop_sys::beneath::attributes(&root, b"d").unwrap();
    assert_eq!(kept, [(b"user.fine".to_vec(), b"1".to_vec())]);
}

#[test]
fn bombs_hit_their_limits() {
    let site = Site::new();
    let target = target(&site.root(), WhiteoutStyle::Overlay);
    let node = |i: u32| entry(&format!("dev{i}"), EntryKind::CharDevice { number: (1, 3) });
    let devices: Vec<Entry> = (0..20).map(node).collect();
    let limits = Limits {
        devices_max: 10,
        entries_max: 15,
        ..Limits::default()
    };
    let options = ApplyOptions {
        limits,
        ..ApplyOptions::default()
    };
    let error = apply_layer(&stream(&devices)[..], &target, &options).unwrap_err();
    assert!(error.to_string().contains("number of devices"), "{error}");
    let files: Vec<Entry> = (0..20).map(|i| file(&format!("f{i}"))).collect();
    let error = apply_layer(&stream(&files)[..], &target, &options).unwrap_err();
    assert!(error.to_string().contains("number of entries"), "{error}");

    let mut zeros = entry("zeros", EntryKind::File);
    zeros.size = 4 << 20;
    let mut writer = orlop_image::layer::LayerWriter::new(Vec::new());
    writer.append(&zeros, std::io::repeat(0)).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&writer.finish().unwrap()).unwrap();
    let bounds = Bounds {
        ratio_max: 100,
        ratio_free_bytes: 1 << 20,
        ..Bounds::default()
    };
    let options = ApplyOptions {
        bounds,
        ..ApplyOptions::default()
    };
    let error = apply_layer(&gzip.finish().unwrap()[..], &target, &options).unwrap_err();
    assert_eq!(error.code(), "ORL-E5002", "{error}");
}

#[test]
fn a_layer_cut_at_any_block_is_reported() {
    let entries = [
        entry("d", EntryKind::Directory),
        file("d/a"),
        symlink("d/l", &"x".repeat(200)),
        file(&"n".repeat(150)),
    ];
    let whole = stream(&entries);
    let folder = tempfile::tempdir().unwrap();
    apply(&whole, &folder.path().join("whole"), WhiteoutStyle::Overlay).unwrap();
    let end_marker = whole.len() - 1024;
    for length in (0..whole.len() - 1024)
        .step_by(512)
        .chain([1, 100, 511, 513, end_marker - 1])
    {
        let root = folder.path().join(length.to_string());
        let result = apply(&whole[..length], &root, WhiteoutStyle::Overlay);
        assert!(result.is_err(), "cut at {length} passed");
    }
}

#[test]
fn a_wrong_diff_id_and_a_dirty_tail_are_told() {
    let site = Site::new();
    let target = target(&site.root(), WhiteoutStyle::Overlay);
    let whole = stream(&[file("a")]);
    let applied = apply_layer(&whole[..], &target, &ApplyOptions::default()).unwrap();
    let options = ApplyOptions {
        expected_diff_id: Some(applied.diff_id),
        ..ApplyOptions::default()
    };
    apply_layer(&whole[..], &target, &options).unwrap();
    // What stands behind the end marker counts for the digest, though not for the files.
    let dirty = [&whole[..], b"tail"].concat();
    let error = apply_layer(&dirty[..], &target, &options).unwrap_err();
    assert!(matches!(error, ApplyError::WrongDiffId { .. }), "{error}");
    // Without an end marker the digest alone decides.
    let cut = &whole[..whole.len() - 1024];
    let error = apply_layer(cut, &target, &ApplyOptions::default()).unwrap_err();
    assert!(matches!(error, ApplyError::Incomplete), "{error}");
}

#[test]
fn a_smuggled_entry_behind_a_lying_size_is_refused() {
    // The header says one size, the extended header another: one reader sees an entry where another sees data.
    let inner = stream(&[file("smuggled")]);
    for (own, extended) in [(512, "13 size=1024\n"), (1024, "13 size=0512\n")] {
        let mut outer = entry("outer", EntryKind::File);
        outer.size = own;
        outer.mtime.nanoseconds = 500_000_000;
        let mut writer = orlop_image::layer::LayerWriter::new(Vec::new());
        writer.append(&outer, &inner[..]).unwrap();
        let mut bytes = writer.finish().unwrap();
        assert!(bytes[512..].starts_with(b"30 mtime=1700000000.500000000\n"));
        bytes[512..542].copy_from_slice(format!("{extended}17 comment=xxxxx\n").as_bytes());
        let folder = tempfile::tempdir().unwrap();
        let error = apply(&bytes, folder.path(), WhiteoutStyle::Overlay).unwrap_err();
        assert!(
            matches!(error, ApplyError::Tar(TarError::Ambiguous { .. })),
            "{error}"
        );
        assert!(!folder.path().join("smuggled").exists());
    }
}

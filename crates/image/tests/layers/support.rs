//! Building trees and streams, and comparing what came out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use orlop_image::apply::{
    Applied, ApplyError, ApplyOptions, ApplyTarget, WhiteoutStyle, apply_layer,
};
use orlop_image::layer::{Entry, EntryKind, LayerWriter};
use orlop_sys::beneath::{self, FileTime};

/// Runs a shell script in a folder; it must succeed.
pub(crate) fn shell(folder: &Path, script: &str) {
    let output = Command::new("bash")
        .arg("-euc")
        .arg(script)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Applies bytes to a folder.
pub(crate) fn apply(
    blob: &[u8],
    folder: &Path,
    whiteouts: WhiteoutStyle,
) -> Result<Applied, ApplyError> {
    fs::create_dir_all(folder).unwrap();
    apply_layer(blob, &target(folder, whiteouts), &ApplyOptions::default())
}

pub(crate) fn target(folder: &Path, whiteouts: WhiteoutStyle) -> ApplyTarget {
    ApplyTarget {
        root: File::open(folder).unwrap().into(),
        whiteouts,
    }
}

/// Everything about one node that a layer carries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Node {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    links: u64,
    content: Vec<u8>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// All nodes of a tree by path, without the root.
pub(crate) fn nodes(root: &Path) -> BTreeMap<String, Node> {
    let mut found = BTreeMap::new();
    collect(root, root, &mut found);
    found
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<String, Node>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let parent = File::open(folder).unwrap();
        let attributes =
            beneath::attributes(&parent, path.file_name().unwrap().as_bytes()).unwrap();
        let node = Node {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            device: meta.rdev(),
            links: if meta.is_dir() { 0 } else { meta.nlink() },
            content,
            attributes,
        };
        found.insert(path.strip_prefix(root).unwrap().display().to_string(), node);
        if meta.is_dir() {
            collect(root, &path, found);
        }
    }
}

/// Compares two trees node by node, naming the first that differs.
pub(crate) fn assert_same(ours: &Path, theirs: &Path) {
    let (ours, theirs) = (nodes(ours), nodes(theirs));
    assert!(!theirs.is_empty(), "nothing to compare with");
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        theirs.keys().collect::<Vec<_>>(),
        "different names"
    );
    for (path, node) in &theirs {
        let mine = &ours[path];
        assert_eq!(mine.content.len(), node.content.len(), "length of {path}");
        assert!(
            mine == node,
            "{path} differs: {:?} and {:?}",
            brief(mine),
            brief(node)
        );
    }
}

fn brief(node: &Node) -> String {
    format!(
        "mode {:o} owner {:?} mtime {:?} device {} links {} attributes {:?}",
        node.mode, node.owner, node.mtime, node.device, node.links, node.attributes
    )
}

/// An entry with ordinary metadata.
pub(crate) fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.into(),
        mode: if kind == EntryKind::Directory {
            0o755
        } else {
            0o644
        },
        kind,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: FileTime {
            seconds: 1_700_000_000,
            nanoseconds: 0,
        },
        atime: None,
        attributes: Vec::new(),
        sparse: None,
    }
}

pub(crate) fn symlink(path: &str, target: &str) -> Entry {
    entry(
        path,
        EntryKind::Symlink {
            target: target.into(),
        },
    )
}

pub(crate) fn hard_link(path: &str, target: &str) -> Entry {
    entry(
        path,
        EntryKind::HardLink {
            target: target.into(),
        },
    )
}

/// A stream of entries; files hold their own path as data unless they are whiteouts.
pub(crate) fn stream(entries: &[Entry]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new());
    for entry in entries {
        let mut entry = entry.clone();
        let data = entry.path.clone();
        if entry.kind == EntryKind::File && !data.windows(4).any(|part| part == b".wh.") {
            entry.size = data.len() as u64;
        }
        writer.append(&entry, &data[..]).unwrap();
    }
    writer.finish().unwrap()
}

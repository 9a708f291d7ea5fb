//! The text files of the tree.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Folders that hold no source of ours. Hidden ones are left out too, but for these two.
const SKIPPED: [&str; 4] = ["target", "corpus", "artifacts", "node_modules"];
const HIDDEN_SHOWN: [&str; 3] = [".cargo", ".ci", ".config"];
const EXTENSIONS: [&str; 10] = [
    "rs", "toml", "md", "sh", "proto", "service", "txt", "snap", "json", "py",
];
const NAMES: [&str; 4] = ["Makefile", "LICENSE", "run", ".gitignore"];

/// Every text file, sorted by path.
pub(super) struct Tree {
    pub(super) root: std::path::PathBuf,
    pub(super) files: Vec<File>,
}

/// A text file.
pub(super) struct File {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl Tree {
    /// Reads the tree below `root`.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        visit(root, "", &mut files)?;
        files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(Self {
            root: root.to_owned(),
            files,
        })
    }

    pub(super) fn find(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Rust that people wrote.
    pub(super) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files
            .iter()
            .filter(|file| file.path.ends_with(".rs") && !file.is_generated())
    }

    /// Whether anything, text or not, is at `path`.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

impl File {
    pub(super) fn is_generated(&self) -> bool {
        self.path.contains("/generated/")
    }

    /// Whether the whole file is test code.
    pub(super) fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.starts_with("testkit/")
            || self.path.starts_with("e2e/")
    }
}

fn visit(folder: &Path, prefix: &str, files: &mut Vec<File>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().with_context(|| path.clone())?;
        if kind.is_dir() && is_ours(&name) {
            visit(&entry.path(), &format!("{path}/"), files)?;
        } else if kind.is_file() && is_text(&name) {
            let text = fs::read_to_string(entry.path()).with_context(|| path.clone())?;
            files.push(File { path, text });
        }
    }
    Ok(())
}

fn is_ours(name: &str) -> bool {
    let hidden = name.starts_with('.') && !HIDDEN_SHOWN.contains(&name);
    !hidden && !SKIPPED.contains(&name) && !name.starts_with("target-")
}

fn is_text(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    NAMES.contains(&name) || EXTENSIONS.contains(&extension)
}

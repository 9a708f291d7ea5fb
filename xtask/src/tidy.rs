//! `cargo xtask tidy [--shrink]`: what no compiler checks, so that the tree stays as its readers expect it.
//!
//! Lengths are a ratchet: `xtask/tidy-exceptions.txt` lists what is longer than the limits, with its length;
//! an entry may only shrink. `--shrink` writes the lengths that have become smaller.

mod docs;
mod errors;
mod files;
mod manifests;
mod ratchet;
mod rust;
mod text;

use std::path::Path;

use anyhow::{Result, bail};

use self::files::Tree;

/// Something to mend: a place and a sentence.
pub(crate) type Finding = String;

/// Checks the tree below `root`; with `shrink`, lowers the ratchet first.
///
/// # Errors
/// A file cannot be read, or something is to be mended: the findings are on stderr.
pub(crate) fn run(root: &Path, shrink: bool) -> Result<()> {
    let tree = Tree::read(root)?;
    let mut findings = Vec::new();
    text::check(&tree, &mut findings);
    docs::check(&tree, &mut findings);
    manifests::check(&tree, &mut findings);
    errors::check(&tree, &mut findings);
    rust::check(&tree, &mut findings);
    ratchet::check(&tree, shrink, &mut findings)?;
    if findings.is_empty() {
        eprintln!("tidy: {} files in order", tree.files.len());
        return Ok(());
    }
    findings.sort();
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    bail!("{} things to mend", findings.len());
}

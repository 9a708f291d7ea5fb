//! Repository chores.

mod codegen;
mod tidy;

use std::path::Path;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask stands in a folder of the workspace")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["codegen"] => codegen::run(root, false),
        ["codegen", "--check"] => codegen::run(root, true),
        ["tidy"] => tidy::run(root, false),
        ["tidy", "--shrink"] => tidy::run(root, true),
        _ => bail!("usage: cargo xtask codegen [--check] | tidy [--shrink]"),
    }
}

//! `cargo xtask codegen [--check]`: the generated part of `crates/api`.
//!
//! The generator and its dependencies come with the feature `codegen`, so that nothing else in the workspace waits for them.

use std::path::Path;

use anyhow::Result;

#[cfg(feature = "codegen")]
mod generate;

/// Writes the generated files below `root`, or with `check` fails when they are out of date.
///
/// # Errors
/// A `.proto` file does not compile, a file cannot be written, or `check` found a difference.
#[cfg(feature = "codegen")]
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    generate::run(root, check)
}

/// Runs the same command of an xtask that was built with the generator.
///
/// # Errors
/// cargo cannot be started, or the other xtask failed.
#[cfg(not(feature = "codegen"))]
#[allow(
    clippy::disallowed_methods,
    reason = "a developer's command: no descriptors or signal masks to protect"
)]
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    use anyhow::{Context, ensure};

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args([
            "run",
            "--quiet",
            "-p",
            "xtask",
            "--features",
            "codegen",
            "--",
            "codegen",
        ])
        .args(check.then_some("--check"))
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "codegen failed");
    Ok(())
}

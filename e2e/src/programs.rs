//! Programs that are run: ours, and the distribution's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use orlop_sys::process::{self, Spawn};

/// A program that says more than this says it in vain.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// What no short program takes, on a machine that is busy with builds too.
const PATIENCE: Duration = Duration::from_secs(300);

/// Our own programs. They lie in one folder, where the daemon finds the shim.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Takes `ORLOP_BIN_DIR`, or the folder of the running program (of a test: the one above).
    ///
    /// # Errors
    /// There is no `orlopd` or no shim; the message says what to build.
    pub fn find() -> Result<Self> {
        let folder = match std::env::var_os("ORLOP_BIN_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => {
                let own = std::env::current_exe().context("cannot tell where this program is")?;
                let folder = own.parent().context("a program lies in a folder")?;
                let is_test = folder.file_name().is_some_and(|name| name == "deps");
                let above = folder.parent().filter(|_| is_test);
                above.unwrap_or(folder).to_owned()
            }
        };
        for name in ["orlopd", "orlop", "containerd-shim-orlop-v1"] {
            if !folder.join(name).exists() {
                let folder = folder.display();
                bail!("{folder} has no {name}: build it, or set ORLOP_BIN_DIR");
            }
        }
        Ok(Self { folder })
    }

    /// Where they lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The daemon.
    #[must_use]
    pub fn orlopd(&self) -> PathBuf {
        self.folder.join("orlopd")
    }

    /// The command line.
    #[must_use]
    pub fn orlop(&self) -> PathBuf {
        self.folder.join("orlop")
    }
}

/// The containerd to compare with: `BENCH_CONTAINERD`, or Debian's.
#[must_use]
pub fn containerd() -> PathBuf {
    let named = std::env::var_os("BENCH_CONTAINERD").filter(|path| !path.is_empty());
    named.map_or_else(|| "containerd".into(), PathBuf::from)
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// It cannot be started, takes too long, or fails; what it wrote to standard error is in the message.
pub fn run(spawn: Spawn<'_>, what: &str) -> Result<String> {
    let finished = process::run(spawn, PATIENCE, OUTPUT_BYTES_MAX)
        .with_context(|| format!("cannot run {what}"))?;
    if finished.status.exit_code() != Some(0) {
        let said = String::from_utf8_lossy(&finished.stderr);
        bail!(
            "{what} ended with {}: {}",
            finished.status.shell_code(),
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
}

/// Runs a program of the distribution by name and arguments.
///
/// # Errors
/// As [`run`].
pub fn run_words(words: &[&str]) -> Result<String> {
    let (program, arguments) = words.split_first().context("a command has a first word")?;
    run(Spawn::new(program).args(arguments), &words.join(" "))
}

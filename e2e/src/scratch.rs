//! The folder below which everything of a run lies.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use orlop_sys::fs::{Dir, Mode, Name, remove_tree_beneath};

use crate::leftovers;

/// Says where scratch folders are made; the default is a disk, as benches need one, and survives no reinstallation.
const FOLDER_VARIABLE: &str = "ORLOP_E2E_DIR";
const FOLDER_DEFAULT: &str = "/var/tmp";

/// Where nodes keep what a reboot may take. Engines sync files there for nothing, but on a disk they would pay for it.
const STATE_FOLDER: &str = "/run";

/// A folder with a short name of its own, and one of the same name in `/run`. Dropping it ends what still runs in
/// them, unmounts and removes them.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    closed: bool,
}

impl Scratch {
    /// Makes the folder, below `ORLOP_E2E_DIR` or `/var/tmp`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new() -> Result<Self> {
        let above = std::env::var_os(FOLDER_VARIABLE).unwrap_or(FOLDER_DEFAULT.into());
        // Sockets lie below, and their paths are limited: the name is short.
        let folder = tempfile::Builder::new()
            .prefix("orlop-e2e-")
            .rand_bytes(4)
            .tempdir_in(&above)
            .with_context(|| format!("cannot make a folder in {}", above.display()))?;
        let path = folder.keep().canonicalize();
        Ok(Self {
            path: path.context("cannot resolve the scratch folder")?,
            closed: false,
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its last component: namespaces and cgroups are named after it.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The folder in memory, for what a reboot may take.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        Path::new(STATE_FOLDER).join(self.name())
    }

    /// Makes a folder below.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        Dir::create_all(&path, Mode::from_raw_mode(0o755))?;
        Ok(path)
    }

    /// Makes a folder in memory, for what a reboot may take.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn state_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.state().join(name);
        Dir::create_all(&path, Mode::from_raw_mode(0o711))?;
        Ok(path)
    }

    /// Writes a file below.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let folder = Dir::open(&self.path)?;
        folder.write_atomic(
            &Name::new(name)?,
            content.as_bytes(),
            Mode::from_raw_mode(0o644),
        )?;
        Ok(self.path.join(name))
    }

    /// Ends, unmounts and removes everything, and gives what was still there although every daemon had ended:
    /// empty if nothing leaked. Drop the daemons first.
    ///
    /// # Errors
    /// Something cannot be taken away.
    pub fn close(mut self) -> Result<Vec<String>> {
        self.closed = true;
        self.remove()
    }

    fn remove(&self) -> Result<Vec<String>> {
        let name = self.name();
        let above = self.path.parent().context("a scratch folder is in one")?;
        let folders = [Path::new(STATE_FOLDER), above];
        let mut found = leftovers::end_processes(&self.path)?;
        for folder in folders {
            found.extend(leftovers::unmount(&folder.join(&name))?);
        }
        found.extend(leftovers::remove_cgroups(&name));
        // Where the engine puts containers of its own services.
        found.extend(leftovers::remove_cgroups(&format!("orlop/{name}")));
        for folder in folders {
            remove_tree_beneath(&Dir::open(folder)?, &Name::new(&name)?)?;
        }
        Ok(found)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        if let Err(error) = self.remove() {
            crate::daemon::complain(&format!("{} stays: {error:#}", self.path.display()));
        }
    }
}

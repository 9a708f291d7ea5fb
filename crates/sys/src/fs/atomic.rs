//! Replacing a small file so that a crash leaves the old or the new content, never a mixture.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Dir, FsError, Mode, Name};

const TEMPORARY_PREFIX: &str = ".orlop-tmp-";

/// Tells apart the temporary files of one process.
static TEMPORARY_COUNT: AtomicU64 = AtomicU64::new(0);

impl Dir {
    /// Replaces the file `name` by `content`, durably: temporary file, fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// [`FsError::Io`]. The old content is then still there, unless only the last sync failed: then either may
    /// be there after a power cut.
    pub fn write_atomic(&self, name: &Name, content: &[u8], mode: Mode) -> Result<(), FsError> {
        self.replace(name, content, mode, |file| file.sync_all())?;
        self.sync()
    }

    /// Replaces the file `name` by `content` for whoever reads it, a killed process or not, and waits for no disk: for
    /// folders that a reboot empties, where a file need not outlive a power cut.
    ///
    /// # Errors
    /// [`FsError::Io`]. The old content is then still there.
    pub fn write_volatile(&self, name: &Name, content: &[u8], mode: Mode) -> Result<(), FsError> {
        self.replace(name, content, mode, |_file| Ok(()))
    }

    fn replace(
        &self,
        name: &Name,
        content: &[u8],
        mode: Mode,
        settle: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), FsError> {
        let temporary = temporary_name();
        let written = self
            .create_file(&temporary, mode)
            .and_then(|file| self.fill(file, name, content))
            .and_then(|file| settle(&file).map_err(|source| self.io("sync", name, source)))
            .and_then(|()| self.rename(&temporary, self, name));
        written.inspect_err(|_| {
            // The first error is the one to tell; a stray temporary file is found at the next start.
            self.remove_file(&temporary).ok();
        })
    }

    /// Removes the temporary files that a killed process left behind. Only the owner of the directory may call
    /// this, under its lock: the file of a writer at work would go too. Returns how many were removed.
    ///
    /// # Errors
    /// [`FsError::Io`] for the first that cannot be removed.
    pub fn remove_stale_temporaries(&self) -> Result<u64, FsError> {
        let mut removed = 0;
        for entry in self.entries()? {
            let name = entry?.name;
            if name.as_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
                self.remove_file(&name)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn fill(&self, mut file: File, name: &Name, content: &[u8]) -> Result<File, FsError> {
        file.write_all(content)
            .map_err(|source| self.io("write", name, source))?;
        Ok(file)
    }
}

fn temporary_name() -> Name {
    let count = TEMPORARY_COUNT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{TEMPORARY_PREFIX}{}-{count}", std::process::id());
    Name::new(text).expect("a prefix and two numbers are one short component")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    static TARGET: Name = Name::from_static("target");

    fn scratch() -> (tempfile::TempDir, Dir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        (folder, dir)
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_leaves_nothing_else() {
        let (folder, dir) = scratch();
        dir.write_atomic(&TARGET, b"a longer first content", Mode::from(0o600))
            .unwrap();
        dir.write_atomic(&TARGET, b"second", Mode::from(0o640))
            .unwrap();
        assert_eq!(dir.read(&TARGET, 64).unwrap(), b"second");
        assert_eq!(dir.entries().unwrap().count(), 1);
        let mode = folder.path().join("target").metadata().unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_volatile_file_is_replaced_as_a_whole_too() {
        let (_folder, dir) = scratch();
        for content in [&b"a longer first content"[..], b"second"] {
            dir.write_volatile(&TARGET, content, Mode::from(0o600))
                .unwrap();
            assert_eq!(dir.read(&TARGET, 64).unwrap(), content);
        }
        assert_eq!(dir.entries().unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_content_and_removes_its_temporary_file() {
        let (_folder, dir) = scratch();
        dir.create_dir(&TARGET, Mode::from(0o700)).unwrap();
        dir.write_atomic(&TARGET, b"x", Mode::from(0o600))
            .unwrap_err();
        assert_eq!(dir.entries().unwrap().count(), 1);
    }

    #[test]
    fn only_stale_temporaries_are_swept() {
        let (_folder, dir) = scratch();
        dir.create_file(&temporary_name(), Mode::from(0o600))
            .unwrap();
        dir.create_file(&TARGET, Mode::from(0o600)).unwrap();
        assert_eq!(dir.remove_stale_temporaries().unwrap(), 1);
        assert!(dir.contains(&TARGET).unwrap());
    }
}

//! The FIFOs of one process.

use std::io;
use std::path::{Path, PathBuf};

use orlop_sys::fs::{Dir, FsError, Mode, Name};
use orlop_types::ExecId;
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

/// Up to three FIFOs in a folder: standard input, output, error. Dropping it unlinks nothing: see [`Fifos::unlink`].
#[derive(Debug)]
pub(super) struct Fifos {
    folder: Dir,
    path: PathBuf,
    names: [Option<Name>; 3],
}

impl Fifos {
    /// Makes those that are wanted; if one cannot be made, none stays. Blocks.
    pub(super) fn make(folder: &Path, exec: &ExecId, wanted: [bool; 3]) -> io::Result<Self> {
        let mut fifos = Self {
            folder: Dir::open(folder).map_err(io::Error::other)?,
            path: folder.to_owned(),
            names: [None, None, None],
        };
        for (number, wanted) in wanted.into_iter().enumerate() {
            if !wanted {
                continue;
            }
            let name = Name::new(format!("{exec}.{number}")).map_err(io::Error::other)?;
            let mode = Mode::from_raw_mode(0o600);
            let made = fifos.folder.create_fifo(&name, mode);
            if let Err(error) = made {
                // The first fault is the one to tell.
                fifos.unlink().ok();
                return Err(io::Error::other(error));
            }
            fifos.names[number] = Some(name);
        }
        Ok(fifos)
    }

    /// What a shim is told: a path, or nothing.
    pub(super) fn uri(&self, number: usize) -> String {
        let path = self.path_of(number);
        path.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
    }

    /// Our end of an output. There need not be a writer yet.
    pub(super) fn open_output(&self, number: usize) -> io::Result<Option<Receiver>> {
        let path = self.path_of(number);
        path.map(|path| OpenOptions::new().open_receiver(path))
            .transpose()
    }

    /// Our end of an input; nothing if its reader has gone by now.
    pub(super) fn open_input(&self, number: usize) -> io::Result<Option<Sender>> {
        let Some(path) = self.path_of(number) else {
            return Ok(None);
        };
        match OpenOptions::new().open_sender(path) {
            Ok(sender) => Ok(Some(sender)),
            // ENXIO: nobody reads.
            Err(error) if error.raw_os_error() == Some(6) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the names; what is open stays usable. Blocks.
    pub(super) fn unlink(&self) -> Result<(), FsError> {
        let mut outcome = Ok(());
        for name in self.names.iter().flatten() {
            // All are tried; the first fault is told.
            outcome = outcome.and(self.folder.remove_file(name));
        }
        outcome
    }

    fn path_of(&self, number: usize) -> Option<PathBuf> {
        self.names[number]
            .as_ref()
            .map(|name| self.path.join(name.as_os_str()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn fifos(folder: &Path, wanted: [bool; 3]) -> Fifos {
        Fifos::make(folder, &ExecId::new("x").unwrap(), wanted).unwrap()
    }

    #[tokio::test]
    async fn bytes_pass_after_the_names_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let fifos = fifos(folder.path(), [true, false, true]);
        assert_eq!(fifos.uri(1), "");
        assert!(fifos.open_input(0).unwrap().is_none(), "nobody reads yet");
        let mut reader = fifos.open_output(2).unwrap().unwrap();
        let mut writer = fifos.open_input(2).unwrap().unwrap();
        fifos.unlink().unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        writer.write_all(b"through").await.unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn a_name_that_is_taken_leaves_none_of_the_others() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join("x.2")).unwrap();
        let exec = ExecId::new("x").unwrap();
        assert!(Fifos::make(folder.path(), &exec, [true; 3]).is_err());
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}

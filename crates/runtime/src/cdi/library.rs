//! The files of all folders.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::format::{self, Device, File};
use super::{CdiError, DeviceName, FileError};

/// A file beyond this is none; that of a machine with eight processors for graphics has 60 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Files of one folder beyond this many are not read.
const FILES_MAX: usize = 1024;

/// What the folders hold.
pub(super) struct Library {
    folders: Vec<PathBuf>,
    files: Vec<Known>,
    faults: Vec<(PathBuf, FileError)>,
}

/// A file that was understood.
pub(super) struct Known {
    pub(super) path: PathBuf,
    /// Which folder it is in; the last one goes first.
    rank: usize,
    pub(super) file: File,
}

impl Library {
    /// Reads every file whose name ends as one of devices does. A folder that is missing is empty.
    pub(super) fn read(folders: &[PathBuf]) -> Self {
        let mut library = Self {
            folders: folders.to_vec(),
            files: Vec::new(),
            faults: Vec::new(),
        };
        for (rank, folder) in folders.iter().enumerate() {
            library.read_folder(rank, folder);
        }
        library
    }

    fn read_folder(&mut self, rank: usize, folder: &Path) {
        let paths = match paths(folder) {
            Ok(paths) => paths,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.faults.push((folder.to_owned(), error.into()));
                return;
            }
        };
        for path in paths {
            match read(&path) {
                Ok(file) => self.files.push(Known { path, rank, file }),
                Err(error) => self.faults.push((path, error)),
            }
        }
    }

    /// Finds devices with the files they are in.
    ///
    /// # Errors
    /// All that are unknown, or the first that is in two files of one folder.
    pub(super) fn find(&self, devices: &[DeviceName]) -> Result<Vec<(&Known, &Device)>, CdiError> {
        let mut found = Vec::new();
        let mut unknown = Vec::new();
        for wanted in devices {
            match self.best(wanted)[..] {
                [] => unknown.push(wanted.to_string()),
                [only] => found.push(only),
                [..] => return Err(self.conflict(wanted)),
            }
        }
        if unknown.is_empty() {
            return Ok(found);
        }
        let fault = |(path, error): &(PathBuf, FileError)| {
            format!("{} could not be used: {error}", path.display())
        };
        Err(CdiError::Unknown {
            devices: unknown,
            folders: self.folders.clone(),
            faults: self.faults.iter().map(fault).collect(),
        })
    }

    /// Those of the last folder that has any.
    fn best(&self, wanted: &DeviceName) -> Vec<(&Known, &Device)> {
        let all = self.files.iter();
        let all = all.filter_map(|file| Some((file, file.device(wanted)?)));
        let all: Vec<_> = all.collect();
        let best = all.iter().map(|(file, _)| file.rank).max();
        all.into_iter()
            .filter(|(file, _)| Some(file.rank) == best)
            .collect()
    }

    fn conflict(&self, wanted: &DeviceName) -> CdiError {
        let files = self.best(wanted).into_iter();
        CdiError::Conflict {
            device: wanted.to_string(),
            files: files.map(|(file, _)| file.path.clone()).collect(),
        }
    }
}

impl Known {
    fn device(&self, wanted: &DeviceName) -> Option<&Device> {
        let mut devices = self.file.devices.iter();
        devices.find(|device| self.file.kind == wanted.kind && device.name == wanted.name)
    }
}

/// The files of a folder, by name, so that the order in which devices are applied is always the same.
fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("json" | "yaml")) && !path.is_dir() {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(io::Error::other(format!(
                "it holds more than {FILES_MAX} files"
            )));
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<File, FileError> {
    // Opening a FIFO would wait for somebody to write.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file").into());
    }
    let mut text = String::new();
    fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB").into());
    }
    let is_yaml = path.extension().is_some_and(|ending| ending == "yaml");
    format::parse(&text, is_yaml)
}

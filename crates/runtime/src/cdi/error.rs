//! Why devices cannot be given by name.

use std::io;
use std::path::PathBuf;

use orlop_types::ErrorKind;

/// A device that cannot be given by its name.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// A text that names no device.
    #[error("{device:?} is no name of a CDI device: {fault}")]
    BadName {
        /// The text.
        device: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// Devices that no file knows.
    #[error("CDI device {} is unknown; searched {}{}", devices.join(", "), list(folders), unread(faults))]
    Unknown {
        /// The devices.
        devices: Vec<String>,
        /// Where was searched.
        folders: Vec<PathBuf>,
        /// Files that could not be understood, any of which may be the one.
        faults: Vec<String>,
    },
    /// A device that two files of equal standing define.
    #[error("CDI device {device} is defined more than once: {}", list(files))]
    Conflict {
        /// The device.
        device: String,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// A node that is not on this machine, or is another than the file says.
    #[error("device node {path:?}, which a CDI device consists of, cannot be given")]
    Node {
        /// Its path on the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A file of devices that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is no JSON, or lacks a field, or has one too many.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is no YAML of the kind that such files need.
    #[error("line {line}: {fault}")]
    Yaml {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        fault: String,
    },
    /// It says what cannot be.
    #[error("{0}")]
    Invalid(String),
}

impl CdiError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::BadName { .. } => ErrorKind::InvalidArgument,
            Self::Unknown { .. } | Self::Conflict { .. } | Self::Node { .. } => {
                ErrorKind::FailedPrecondition
            }
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let paths = paths.iter().map(|path| path.to_string_lossy().into_owned());
    paths.collect::<Vec<_>>().join(", ")
}

fn unread(faults: &[String]) -> String {
    faults.iter().map(|fault| format!("; {fault}")).collect()
}

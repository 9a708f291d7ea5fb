//! Devices by name: the Container Device Interface (github.com/cncf-tags/container-device-interface, SPEC.md).
//!
//! A vendor's tool writes files that say what of a container's spec to change for a device to work: nodes, mounts,
//! environment, hooks, groups. Here they are read, and the changes are made to a spec. Nothing is kept in memory: the files
//! of a few vendors are read in less time than one mount takes, and what is read is always what is there.
//!
//! Versions 0.3.0 to 1.1.0 are understood, but for the network devices of 1.1.0, which no OCI runtime in use can move.
//! A file that cannot be understood hides no other vendor's: it is named where a device is not found.

mod edits;
mod error;
mod format;
mod library;
mod name;
mod yaml;

use std::path::PathBuf;

pub(crate) use edits::Edits;
pub use error::CdiError;
pub(crate) use name::DeviceName;

use error::FileError;
use library::Library;

/// Finds devices in the files of `folders`, of which later ones go before earlier ones. Blocks.
///
/// # Errors
/// A device is in no file, in two files of one folder, or its nodes are not those of this machine.
pub(crate) fn find(folders: &[PathBuf], devices: &[DeviceName]) -> Result<Edits, CdiError> {
    if devices.is_empty() {
        return Ok(Edits::default());
    }
    let library = Library::read(folders);
    let mut edits = Edits::default();
    let mut files = Vec::new();
    for (file, device) in library.find(devices)? {
        // What a file asks for with any of its devices is done once.
        if !files.contains(&&file.path) {
            files.push(&file.path);
            edits.add(&file.file.container_edits)?;
        }
        edits.add(&device.container_edits)?;
    }
    Ok(edits)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests write files"
)]
mod tests;

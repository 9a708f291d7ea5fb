//! Layers onto snapshots that a client describes by their mounts, as containerd's diff service has it.
//!
//! Nothing is mounted: the mounts of both backends name the folders they would show, and those are written directly.
//! Mounts of any other kind are refused. Crash: as for [`crate::apply`], the client removes the snapshot.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use orlop_sys::mount::split_layers;
use orlop_types::Mount;

use crate::apply::{
    Applied, ApplyError, ApplyOptions, ApplyTarget, WhiteoutStyle, apply_layer, settle,
};

/// Why a layer could not be applied to mounts.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// Not the mounts of a writable snapshot of ours.
    #[error("cannot unpack a layer into these mounts: {reason}")]
    Unsupported {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A folder that the mounts name cannot be opened.
    #[error("cannot open {path:?}")]
    Folder {
        /// The folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The layer cannot be unpacked.
    #[error("cannot unpack the layer")]
    Apply(#[source] ApplyError),
}

impl MountsError {
    /// The stable id of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "ORL-E5901",
            Self::Folder { .. } => "ORL-E5902",
            Self::Apply(source) => source.code(),
        }
    }
}

/// Unpacks one layer blob into the writable snapshot that `mounts` describe. Blocks.
///
/// # Errors
/// See [`MountsError`]. The snapshot is then partial and must not be used.
pub fn apply_to_mounts<R: Read + Send>(
    blob: R,
    mounts: &[Mount],
    options: &ApplyOptions,
) -> Result<Applied, MountsError> {
    let folders = folders(mounts)?;
    let target = ApplyTarget {
        root: open(&folders.root)?,
        whiteouts: folders.whiteouts,
    };
    let lowers = folders
        .lowers
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<OwnedFd>, MountsError>>()?;
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
    let applied = apply_layer(blob, &target, options).map_err(MountsError::Apply)?;
    settle(&applied.deferred, &target, &lowers).map_err(MountsError::Apply)?;
    Ok(applied)
}

/// The folders behind the mounts of a writable snapshot.
#[derive(Debug, PartialEq, Eq)]
struct Folders {
    root: String,
    /// Topmost first.
    lowers: Vec<String>,
    whiteouts: WhiteoutStyle,
}

fn folders(mounts: &[Mount]) -> Result<Folders, MountsError> {
    let refuse = |reason| Err(MountsError::Unsupported { reason });
    let [mount] = mounts else {
        return refuse("a snapshot has exactly one mount");
    };
    if mount.is_read_only() {
        return refuse("the snapshot is read-only");
    }
    if !mount.target.is_empty() {
        return refuse("the mount is not the root");
    }
    match (mount.fs_type.as_str(), mount.option("upperdir")) {
        ("overlay", Some(upper)) => Ok(Folders {
            root: upper.to_owned(),
            lowers: mount
                .option("lowerdir")
                .map(split_layers)
                .unwrap_or_default(),
            whiteouts: WhiteoutStyle::Overlay,
        }),
        ("bind", _) => Ok(Folders {
            root: mount.source.clone(),
            lowers: Vec::new(),
            whiteouts: WhiteoutStyle::Remove,
        }),
        _ => refuse("only overlay and bind mounts can be written without mounting them"),
    }
}

fn open(path: &str) -> Result<OwnedFd, MountsError> {
    let opened = File::open(path).map_err(|source| MountsError::Folder {
        path: path.to_owned(),
        source,
    })?;
    Ok(opened.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Mount {
        Mount {
            fs_type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn an_overlay_is_written_in_its_upper_folder() {
        let mount = overlay(&["workdir=/w", "upperdir=/u", "lowerdir=/b\\:c:/a"]);
        assert_eq!(
            folders(&[mount]).unwrap(),
            Folders {
                root: "/u".to_owned(),
                lowers: vec!["/b:c".to_owned(), "/a".to_owned()],
                whiteouts: WhiteoutStyle::Overlay,
            }
        );
    }

    #[test]
    fn a_bind_mount_is_written_in_its_source() {
        let found = folders(&[Mount::bind("/s", false)]).unwrap();
        assert_eq!(
            (found.root.as_str(), found.whiteouts),
            ("/s", WhiteoutStyle::Remove)
        );
    }

    #[test]
    fn what_cannot_be_written_directly_is_refused() {
        let tmpfs = Mount {
            fs_type: "tmpfs".to_owned(),
            ..Mount::default()
        };
        let elsewhere = Mount {
            target: "usr".to_owned(),
            ..Mount::bind("/s", false)
        };
        for mounts in [
            vec![],
            vec![Mount::bind("/s", true)],
            vec![overlay(&["lowerdir=/a:/b"])],
            vec![tmpfs],
            vec![elsewhere],
            vec![Mount::bind("/s", false), Mount::bind("/t", false)],
        ] {
            assert!(folders(&mounts).is_err(), "{mounts:?} was accepted");
        }
    }
}

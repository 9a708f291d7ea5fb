//! Whiteouts: what a layer says about the layers below it (OCI image-spec, layer.md "Whiteouts").

use std::io;
use std::os::fd::OwnedFd;

use orlop_sys::beneath::{self, NodeKind};

use super::create::Applier;
use super::error::shown;
use super::tree::Tree;
use super::{ApplyError, OPAQUE_ATTRIBUTE, WhiteoutStyle};
use crate::layer::{Entry, name};

pub(crate) const PREFIX: &[u8] = b".wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS's own files; nothing an image means to contain.
const METADATA_PREFIX: &[u8] = b".wh..wh.";
/// Deeper than any layer can make a tree.
const DEPTH_MAX: usize = 4096;

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// A thing of its own.
    None,
    /// AUFS's bookkeeping, to be skipped.
    Metadata,
    /// `base` in `directory` is deleted.
    Whiteout { directory: &'a [u8], base: &'a [u8] },
    /// Everything lower layers have in `directory` is deleted.
    Opaque { directory: &'a [u8] },
}

impl<'a> Marker<'a> {
    /// Reads a normalised path.
    pub(super) fn parse(path: &'a [u8]) -> Result<Self, ApplyError> {
        let (directory, base) = name::split(path);
        let reserved = || ApplyError::ReservedName { path: shown(path) };
        for component in directory.split(|byte| *byte == b'/') {
            if component.starts_with(METADATA_PREFIX) {
                return Ok(Self::Metadata);
            }
            if component.starts_with(PREFIX) {
                return Err(reserved());
            }
        }
        match base.strip_prefix(PREFIX) {
            None => Ok(Self::None),
            Some(_) if base == OPAQUE => Ok(Self::Opaque { directory }),
            Some(_) if base.starts_with(METADATA_PREFIX) => Ok(Self::Metadata),
            Some(b"" | b"." | b"..") => Err(reserved()),
            Some(base) => Ok(Self::Whiteout { directory, base }),
        }
    }
}

impl Applier {
    /// Deletes one name of the lower layers; an entry of this layer at that name stays.
    pub(super) fn whiteout(
        &mut self,
        directory: &[u8],
        base: &[u8],
        entry: &Entry,
    ) -> Result<(), ApplyError> {
        let result = match self.style {
            WhiteoutStyle::Overlay => self.overlay_whiteout(directory, base, entry),
            WhiteoutStyle::Remove => self.remove_lower(directory, base),
        };
        result.map_err(|source| ApplyError::file("apply whiteout", &entry.path, source))
    }

    /// Deletes all that lower layers have in a directory.
    pub(super) fn opaque(&mut self, directory: &[u8]) -> Result<(), ApplyError> {
        let result = match self.style {
            WhiteoutStyle::Overlay => self.tree.directory(directory).and_then(|directory| {
                beneath::set_attribute_fd(&directory, OPAQUE_ATTRIBUTE, b"y")
            }),
            WhiteoutStyle::Remove => self.empty_lower(directory),
        };
        result.map_err(|source| ApplyError::file("make opaque", directory, source))
    }

    fn overlay_whiteout(&mut self, directory: &[u8], base: &[u8], entry: &Entry) -> io::Result<()> {
        let path = name::join(directory, base);
        if self.links.iter().any(|link| link.path == path) {
            return Ok(());
        }
        let parent = self.tree.directory(directory)?;
        match beneath::make_node(&parent, base, NodeKind::CharDevice, (0, 0)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let stat = beneath::stat(&parent, base)?;
                if stat.kind == NodeKind::Directory {
                    return beneath::set_attribute(&parent, base, OPAQUE_ATTRIBUTE, b"y");
                }
                Ok(())
            }
            made => {
                made?;
                beneath::set_owner(&parent, base, entry.uid, entry.gid)
            }
        }
    }

    fn remove_lower(&mut self, directory: &[u8], base: &[u8]) -> io::Result<()> {
        let Some(parent) = self.tree.existing(directory)? else {
            return Ok(());
        };
        self.replaced = true;
        self.tree.forget();
        remove_foreign(&self.tree, &parent, base, 0)
    }

    fn empty_lower(&mut self, directory: &[u8]) -> io::Result<()> {
        let Some(directory) = self.tree.existing(directory)? else {
            return Ok(());
        };
        self.replaced = true;
        self.tree.forget();
        for name in beneath::list_directory(&directory)? {
            remove_foreign(&self.tree, &directory, &name, 0)?;
        }
        Ok(())
    }
}

/// Removes a name and all below it, except what this layer itself made and the directories that leads through.
fn remove_foreign(tree: &Tree, parent: &OwnedFd, base: &[u8], depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("directories nested too deeply"));
    }
    let stat = match beneath::stat(parent, base) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let own = tree.is_own(stat.inode);
    if stat.kind != NodeKind::Directory {
        return if own {
            Ok(())
        } else {
            beneath::remove_node(parent, base)
        };
    }
    let directory = beneath::open_directory_beneath(parent, base)?;
    for name in beneath::list_directory(&directory)? {
        remove_foreign(tree, &directory, &name, depth + 1)?;
    }
    if !own && beneath::list_directory(&beneath::open_directory_beneath(parent, base)?)?.is_empty()
    {
        return beneath::remove_tree(parent, base);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_told_from_names() {
        for (path, expected) in [
            ("a/b", Marker::None),
            ("a/.whatever", Marker::None),
            (
                "a/.wh.b",
                Marker::Whiteout {
                    directory: b"a",
                    base: b"b",
                },
            ),
            (
                ".wh..b",
                Marker::Whiteout {
                    directory: b"",
                    base: b".b",
                },
            ),
            ("a/.wh..wh..opq", Marker::Opaque { directory: b"a" }),
            (".wh..wh.aufs", Marker::Metadata),
            (".wh..wh.plnk/1.2", Marker::Metadata),
        ] {
            assert_eq!(
                Marker::parse(path.as_bytes()).unwrap(),
                expected,
                "for {path}"
            );
        }
        for bad in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
            assert!(Marker::parse(bad.as_bytes()).is_err(), "{bad} was accepted");
        }
    }
}

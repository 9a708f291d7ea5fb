//! Copying a tree with everything `tar` would keep: owners, modes, times, extended attributes, hard links, devices.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use orlop_sys::beneath::{self, NodeKind, NodeStat};
use orlop_sys::fs::{Dir, Mode, Name, copy_contents};

use crate::Error;

/// Each level holds two descriptors; deeper trees are refused rather than let exhaust them.
const DEPTH_MAX: usize = 256;

/// Copies what is in `source` into the empty folder `target`, and `source`'s own owner, mode and times onto it.
///
/// `source` must not change meanwhile: it is a committed snapshot. Nothing is followed or crossed: links are copied
/// as links; sockets are left out, since nobody listens on a copy; a mount beneath `source` would be copied as what is visible.
pub(crate) fn copy_tree(source: &Dir, target: &Dir) -> Result<(), Error> {
    let mut copier = Copier {
        top: target.try_clone()?,
        linked: HashMap::new(),
    };
    copier.fill(source, target, Path::new(""), 0)?;
    copy_own_metadata(source, target)
}

struct Copier {
    top: Dir,
    /// Where the first name of a file with several was copied to: its folder below `top` and its name.
    linked: HashMap<(u64, u64), (PathBuf, Name)>,
}

impl Copier {
    fn fill(&mut self, source: &Dir, target: &Dir, path: &Path, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(failed("copy so deep a tree as", source.path())(
                io::ErrorKind::QuotaExceeded.into(),
            ));
        }
        for entry in source.entries()? {
            let name = entry?.name;
            let stat = beneath::stat(source, name.as_bytes())
                .map_err(failed("stat", &source.path_of(&name)))?;
            if stat.kind == NodeKind::Directory {
                let (from, to) = (
                    source.open_dir(&name)?,
                    target.create_dir(&name, Mode::from_raw_mode(0o700))?,
                );
                self.fill(&from, &to, &path.join(name.as_os_str()), depth + 1)?;
                copy_own_metadata(&from, &to)?;
            } else if stat.kind != NodeKind::Socket {
                self.copy_leaf(source, target, path, &name, &stat)?;
            }
        }
        Ok(())
    }

    fn copy_leaf(
        &mut self,
        source: &Dir,
        target: &Dir,
        path: &Path,
        name: &Name,
        stat: &NodeStat,
    ) -> Result<(), Error> {
        if stat.links > 1 {
            let identity = (stat.device, stat.inode);
            if let Some((folder, first)) = self.linked.get(&identity) {
                let folder = match folder.as_os_str().is_empty() {
                    true => self.top.try_clone()?,
                    false => self.top.open_dir_beneath(folder)?,
                };
                return Ok(folder.hard_link(first, target, name)?);
            }
            self.linked
                .insert(identity, (path.to_owned(), name.clone()));
        }
        create_leaf(source, target, name, stat)?;
        copy_metadata((source, name), target, stat)
    }
}

fn create_leaf(source: &Dir, target: &Dir, name: &Name, stat: &NodeStat) -> Result<(), Error> {
    let failed = failed("copy", &source.path_of(name));
    match stat.kind {
        NodeKind::File => {
            let to = target.create_file(name, Mode::from_raw_mode(0o600))?;
            copy_contents(&source.open_file(name)?, &to, &source.path_of(name))?;
            Ok(())
        }
        NodeKind::Symlink => beneath::read_link(source, name.as_bytes())
            .and_then(|text| beneath::make_symlink(target, name.as_bytes(), &text))
            .map_err(failed),
        NodeKind::CharDevice | NodeKind::BlockDevice | NodeKind::Fifo => {
            beneath::make_node(target, name.as_bytes(), stat.kind, stat.device_number)
                .map_err(failed)
        }
        NodeKind::Directory | NodeKind::Socket | NodeKind::Unknown => {
            Err(failed(io::ErrorKind::Unsupported.into()))
        }
    }
}

/// Owner before attributes and mode, because a change of owner clears capabilities and set-id bits; times last.
fn copy_metadata(
    (source, name): (&Dir, &Name),
    target: &Dir,
    stat: &NodeStat,
) -> Result<(), Error> {
    let bytes = name.as_bytes();
    let copy = || {
        beneath::set_owner(target, bytes, stat.uid, stat.gid)?;
        for (attribute, value) in beneath::attributes(source, bytes)? {
            beneath::set_attribute(target, bytes, &attribute, &value)?;
        }
        if stat.kind != NodeKind::Symlink {
            beneath::set_mode(target, bytes, stat.mode)?;
        }
        beneath::set_times(target, bytes, stat.atime, stat.mtime)
    };
    copy().map_err(failed("copy the metadata of", &source.path_of(name)))
}

/// As [`copy_metadata`], for two open folders, after all that is in them has been copied.
fn copy_own_metadata(source: &Dir, target: &Dir) -> Result<(), Error> {
    let copy = || {
        let stat = beneath::stat_fd(source)?;
        beneath::set_owner_fd(target, stat.uid, stat.gid)?;
        for (attribute, value) in beneath::attributes(source, b".")? {
            beneath::set_attribute_fd(target, &attribute, &value)?;
        }
        beneath::set_mode_fd(target, stat.mode)?;
        beneath::set_times_fd(target, stat.atime, stat.mtime)
    };
    copy().map_err(failed("copy the metadata of", source.path()))
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path: path.clone(),
        source,
    }
}

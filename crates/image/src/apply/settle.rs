//! Finishing a layer once the layers below it are known.
//!
//! Crash: a settle that did not finish can be run again only on a fresh apply; the caller removes the snapshot.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use orlop_sys::beneath::{self, NodeKind, NodeStat};

use super::create::{is_overlay_attribute, missing_target};
use super::tree::{Directory, Tree};
use super::{ApplyError, ApplyTarget, Deferred, DeferredLink, Found, MergedView};
use crate::layer::{Limits, name};

/// What settling did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    /// Files copied up from lower layers so that they could be linked.
    pub files_copied: u64,
    /// Their length in bytes.
    pub bytes_copied: u64,
    /// Directories that took over the metadata of a lower layer's.
    pub directories: u64,
}

/// Does what [`super::apply_layer`] deferred.
///
/// `lowers` are the roots of the layers below, topmost first, unpacked in overlay style and settled themselves. A
/// file of theirs that the layer links to is copied up with all its metadata, as the overlay does; a directory the
/// layer did not describe takes over mode, owner, attributes and times.
///
/// # Errors
/// A link to something no layer has; the file system's.
pub fn settle(
    deferred: &Deferred,
    target: &ApplyTarget,
    lowers: &[BorrowedFd<'_>],
) -> Result<Settled, ApplyError> {
    if deferred.is_empty() {
        return Ok(Settled::default());
    }
    let tree = Tree::new(&target.root, target.whiteouts, &Limits::default())
        .map_err(|source| ApplyError::file("open root for", b"/", source))?;
    let all: Vec<BorrowedFd<'_>> = std::iter::once(target.root.as_fd())
        .chain(lowers.iter().copied())
        .collect();
    let mut settler = Settler {
        tree,
        below: MergedView::new(lowers),
        merged: MergedView::new(&all),
        settled: Settled::default(),
    };
    for link in &deferred.links {
        settler.link(link)?;
    }
    settler.directories(&deferred.implicit, &target.root)
}

struct Settler<'a> {
    tree: Tree,
    /// The lower layers alone.
    below: MergedView<'a>,
    /// The layer over its lower layers.
    merged: MergedView<'a>,
    settled: Settled,
}

impl Settler<'_> {
    fn link(&mut self, link: &DeferredLink) -> Result<(), ApplyError> {
        let fail = |source| ApplyError::file("make hard link", &link.path, source);
        let (parent, base) = name::split(&link.path);
        let parent = self.tree.directory(parent).map_err(fail)?;
        if beneath::stat(&parent, base).is_ok() {
            // A later entry of the layer took the name.
            return Ok(());
        }
        let source = match self.own_target(&link.target).map_err(fail)? {
            Some(own) => Some(own),
            None => self.copied_target(link)?,
        };
        let Some((directory, name)) = source else {
            return Ok(());
        };
        keeping_times(&parent, || {
            beneath::make_hard_link((&directory, &name), &parent, base)
        })
        .map_err(fail)
    }

    /// The target in the layer itself, where an earlier link brought it up.
    fn own_target(&mut self, target: &[u8]) -> io::Result<Option<(Directory, Vec<u8>)>> {
        let (parent, base) = name::split(target);
        let Some(parent) = self.tree.existing(parent)? else {
            return Ok(None);
        };
        let stat = beneath::stat(&parent, base);
        let usable =
            stat.is_ok_and(|stat| !stat.is_overlay_whiteout() && stat.kind != NodeKind::Directory);
        Ok(usable.then(|| (parent, base.to_vec())))
    }

    /// Copies the target up to its own name and returns that; or, if the layer deleted it there, straight to the
    /// link's name.
    fn copied_target(
        &mut self,
        link: &DeferredLink,
    ) -> Result<Option<(Directory, Vec<u8>)>, ApplyError> {
        let fail = |source| ApplyError::file("copy up", &link.target, source);
        let visible = self.merged.find(&link.target).map_err(fail)?;
        let (found, path) = match visible {
            Some(found) => (Some(found), &link.target),
            None => (self.below.find(&link.target).map_err(fail)?, &link.path),
        };
        let found = found.ok_or_else(|| missing_target(&link.path, &link.target))?;
        if found.stat.kind == NodeKind::Directory {
            return Err(missing_target(&link.path, &link.target));
        }
        let (parent, base) = name::split(path);
        let parent = self.tree.directory(parent).map_err(fail)?;
        keeping_times(&parent, || copy_node(&found, &parent, base)).map_err(fail)?;
        self.settled.files_copied += 1;
        self.settled.bytes_copied += found.stat.size;
        Ok((path == &link.target).then(|| (parent, base.to_vec())))
    }

    /// Gives the implicit directories, old and new, what the lower layers say about them.
    fn directories(self, before: &[(Vec<u8>, u64)], root: &OwnedFd) -> Result<Settled, ApplyError> {
        let Self {
            tree,
            below,
            mut settled,
            ..
        } = self;
        let mut implicit = tree.into_implicit();
        implicit.extend_from_slice(before);
        implicit.sort_unstable();
        for (path, inode) in &implicit {
            let took_over = adopt(root, path, *inode, below)
                .map_err(|source| ApplyError::file("take over metadata of", path, source))?;
            settled.directories += u64::from(took_over);
        }
        Ok(settled)
    }
}

/// Copies a lower directory's metadata onto the layer's own, if both are still directories.
fn adopt(root: &OwnedFd, path: &[u8], inode: u64, below: MergedView<'_>) -> io::Result<bool> {
    let directory = match beneath::open_directory_beneath(root, path) {
        Ok(directory) => directory,
        // Replaced by a later entry.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    if beneath::stat_fd(&directory)?.inode != inode {
        return Ok(false);
    }
    match below.find(path)? {
        Some(found) if found.stat.kind == NodeKind::Directory => {
            for (attribute, value) in copied_attributes(&found)? {
                beneath::set_attribute_fd(&directory, &attribute, &value)?;
            }
            let NodeStat {
                uid,
                gid,
                mode,
                atime,
                mtime,
                ..
            } = found.stat;
            beneath::set_owner_fd(&directory, uid, gid)?;
            beneath::set_mode_fd(&directory, mode)?;
            beneath::set_times_fd(&directory, atime, mtime)?;
            Ok(true)
        }
        Some(_) | None => Ok(false),
    }
}

/// Copies one node with all its metadata; content by `copy_file_range` where the file system can.
fn copy_node(found: &Found, parent: &OwnedFd, base: &[u8]) -> io::Result<()> {
    let stat = &found.stat;
    match stat.kind {
        NodeKind::File => {
            let mut source = File::from(beneath::open_file(&found.parent, &found.base)?);
            let mut copy = File::from(beneath::create_file(parent, base)?);
            io::copy(&mut source, &mut copy)?;
        }
        NodeKind::Symlink => {
            let target = beneath::read_link(&found.parent, &found.base)?;
            beneath::make_symlink(parent, base, &target)?;
        }
        NodeKind::CharDevice | NodeKind::BlockDevice | NodeKind::Fifo => {
            beneath::make_node(parent, base, stat.kind, stat.device_number)?;
        }
        NodeKind::Directory | NodeKind::Socket | NodeKind::Unknown => {
            return Err(io::ErrorKind::InvalidInput.into());
        }
    }
    beneath::set_owner(parent, base, stat.uid, stat.gid)?;
    for (attribute, value) in copied_attributes(found)? {
        beneath::set_attribute(parent, base, &attribute, &value)?;
    }
    if stat.kind != NodeKind::Symlink {
        beneath::set_mode(parent, base, stat.mode)?;
    }
    beneath::set_times(parent, base, stat.atime, stat.mtime)
}

fn copied_attributes(found: &Found) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut attributes = beneath::attributes(&found.parent, &found.base)?;
    attributes.retain(|(attribute, _)| !is_overlay_attribute(attribute));
    Ok(attributes)
}

/// Makes something in a directory whose times are final already.
fn keeping_times(directory: &OwnedFd, make: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let before = beneath::stat_fd(directory)?;
    make()?;
    beneath::set_times_fd(directory, before.atime, before.mtime)
}

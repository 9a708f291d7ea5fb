//! Making what the entries say.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use orlop_sys::beneath::{self, FileTime, NodeKind};

use super::error::shown;
use super::tree::{Directory, Tree};
use super::whiteout::Marker;
use super::{ApplyError, ApplyTarget, Deferred, DeferredLink, OPAQUE_ATTRIBUTE, WhiteoutStyle};
use crate::layer::{Entry, EntryKind, LayerReader, Limits, TarError, name};

/// The state of unpacking one layer.
pub(super) struct Applier {
    pub(super) tree: Tree,
    pub(super) style: WhiteoutStyle,
    pub(super) links: Vec<DeferredLink>,
    /// Directories' times, set last because every entry made in them changes them.
    times: Vec<(Vec<u8>, Times)>,
    attributes_ignored: u64,
    /// Whether anything was replaced, so that a noted path may not be a directory any more.
    pub(super) replaced: bool,
}

#[derive(Clone, Copy)]
struct Times {
    access: FileTime,
    change: FileTime,
}

/// A place to make something: the parent, the last component, and the whole path for messages.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) parent: &'a Directory,
    pub(super) base: &'a [u8],
    pub(super) path: &'a [u8],
}

impl Applier {
    pub(super) fn new(target: &ApplyTarget, limits: Limits) -> Result<Self, ApplyError> {
        let tree = Tree::new(&target.root, target.whiteouts, &limits)
            .map_err(|source| ApplyError::file("open root for", b"/", source))?;
        Ok(Self {
            tree,
            style: target.whiteouts,
            links: Vec::new(),
            times: Vec::new(),
            attributes_ignored: 0,
            replaced: false,
        })
    }

    /// Makes one entry, reading its data from `reader`.
    pub(super) fn apply<R: io::BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut LayerReader<R>,
    ) -> Result<(), ApplyError> {
        if entry.path.is_empty() {
            return Ok(());
        }
        match Marker::parse(&entry.path)? {
            Marker::None => {}
            Marker::Metadata => return Ok(()),
            Marker::Whiteout { directory, base } => return self.whiteout(directory, base, entry),
            Marker::Opaque { directory } => return self.opaque(directory),
        }
        let (parent, base) = name::split(&entry.path);
        let parent = self
            .tree
            .directory(parent)
            .map_err(|source| ApplyError::file("make parent directory of", &entry.path, source))?;
        let place = Place {
            parent: &parent,
            base,
            path: &entry.path,
        };
        match &entry.kind {
            EntryKind::File => self.file(place, entry, reader),
            EntryKind::Directory => self.directory(place, entry),
            EntryKind::Symlink { target } => self.named(place, entry, |parent, base| {
                beneath::make_symlink(parent, base, target)
            }),
            EntryKind::HardLink { target } => self.hard_link(place, target),
            EntryKind::CharDevice { number } => {
                self.node(place, entry, NodeKind::CharDevice, *number)
            }
            EntryKind::BlockDevice { number } => {
                self.node(place, entry, NodeKind::BlockDevice, *number)
            }
            EntryKind::Fifo => self.node(place, entry, NodeKind::Fifo, (0, 0)),
        }
    }

    /// Sets the directories' times and hands over what is left to settle.
    pub(super) fn finish(mut self) -> Result<(Deferred, u64), ApplyError> {
        for (path, times) in std::mem::take(&mut self.times) {
            self.directory_times(&path, times)
                .map_err(|source| ApplyError::file("set times of", &path, source))?;
        }
        let links = self.links;
        let implicit = self.tree.into_implicit();
        Ok((Deferred { implicit, links }, self.attributes_ignored))
    }

    fn directory_times(&mut self, path: &[u8], times: Times) -> io::Result<()> {
        let (parent, base) = name::split(path);
        let Some(parent) = self.tree.existing(parent)? else {
            return Ok(());
        };
        if self.replaced {
            match beneath::stat(&parent, base) {
                Ok(stat) if stat.kind == NodeKind::Directory => {}
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        beneath::set_times(&parent, base, times.access, times.change)
    }

    fn file<R: io::BufRead>(
        &mut self,
        place: Place<'_>,
        entry: &Entry,
        reader: &mut LayerReader<R>,
    ) -> Result<(), ApplyError> {
        let file = self
            .put(place, |parent, base| beneath::create_file(parent, base))
            .map_err(|source| ApplyError::file("create", place.path, source))?;
        write_data(&file, entry, reader)?;
        let set = |applier: &mut Self| {
            beneath::set_owner_fd(&file, entry.uid, entry.gid)?;
            applier.attributes(entry, |attribute, value| {
                beneath::set_attribute_fd(&file, attribute, value)
            })?;
            beneath::set_mode_fd(&file, entry.mode)?;
            let times = times(entry);
            beneath::set_times_fd(&file, times.access, times.change)?;
            applier.note(|| beneath::stat_fd(&file))
        };
        set(self).map_err(|source| ApplyError::file("set metadata of", place.path, source))
    }

    fn directory(&mut self, place: Place<'_>, entry: &Entry) -> Result<(), ApplyError> {
        let make = |applier: &mut Self| {
            applier.make_directory(place)?;
            let directory = beneath::open_directory_beneath(place.parent, place.base)?;
            beneath::set_owner_fd(&directory, entry.uid, entry.gid)?;
            applier.attributes(entry, |attribute, value| {
                beneath::set_attribute_fd(&directory, attribute, value)
            })?;
            beneath::set_mode_fd(&directory, entry.mode)?;
            Ok(directory)
        };
        let directory =
            make(self).map_err(|source| ApplyError::file("make directory", place.path, source))?;
        self.times.push((entry.path.clone(), times(entry)));
        self.tree.remember(&entry.path, Rc::new(directory));
        Ok(())
    }

    /// Makes a directory or keeps the one there, and counts it as described.
    fn make_directory(&mut self, place: Place<'_>) -> io::Result<()> {
        match beneath::make_directory(place.parent, place.base) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made?;
                return self.note(|| beneath::stat(place.parent, place.base));
            }
        }
        let stat = beneath::stat(place.parent, place.base)?;
        if stat.kind == NodeKind::Directory {
            self.tree.describe(stat.inode);
            return Ok(());
        }
        self.clear(place)?;
        beneath::make_directory(place.parent, place.base)?;
        if self.style == WhiteoutStyle::Overlay && stat.is_overlay_whiteout() {
            beneath::set_attribute(place.parent, place.base, OPAQUE_ATTRIBUTE, b"y")?;
        }
        self.note(|| beneath::stat(place.parent, place.base))
    }

    fn node(
        &mut self,
        place: Place<'_>,
        entry: &Entry,
        kind: NodeKind,
        number: (u32, u32),
    ) -> Result<(), ApplyError> {
        self.named(place, entry, |parent, base| {
            beneath::make_node(parent, base, kind, number)
        })
    }

    /// What has no descriptor of its own: links and nodes.
    fn named(
        &mut self,
        place: Place<'_>,
        entry: &Entry,
        make: impl Fn(&OwnedFd, &[u8]) -> io::Result<()>,
    ) -> Result<(), ApplyError> {
        let Place { parent, base, path } = place;
        self.put(place, make)
            .map_err(|source| ApplyError::file("create", path, source))?;
        let set = |applier: &mut Self| {
            beneath::set_owner(parent, base, entry.uid, entry.gid)?;
            applier.attributes(entry, |attribute, value| {
                beneath::set_attribute(parent, base, attribute, value)
            })?;
            if !matches!(entry.kind, EntryKind::Symlink { .. }) {
                beneath::set_mode(parent, base, entry.mode)?;
            }
            let times = times(entry);
            beneath::set_times(parent, base, times.access, times.change)?;
            applier.note(|| beneath::stat(parent, base))
        };
        set(self).map_err(|source| ApplyError::file("set metadata of", path, source))
    }

    fn hard_link(&mut self, place: Place<'_>, target: &[u8]) -> Result<(), ApplyError> {
        let fail = |source| ApplyError::file("make hard link", place.path, source);
        let (target_parent, target_base) = name::split(target);
        let found = self.tree.existing(target_parent).map_err(fail)?;
        let found = found.and_then(|parent| {
            let stat = beneath::stat(&parent, target_base).ok()?;
            (!stat.is_overlay_whiteout() || self.style == WhiteoutStyle::Remove)
                .then_some((parent, stat))
        });
        match found {
            Some((_, stat)) if stat.kind == NodeKind::Directory => {
                Err(missing_target(place.path, target))
            }
            Some((parent, stat)) => {
                if beneath::stat(place.parent, place.base)
                    .is_ok_and(|there| there.inode == stat.inode)
                {
                    return Ok(());
                }
                self.put(place, |new_parent, base| {
                    beneath::make_hard_link((&parent, target_base), new_parent, base)
                })
                .map_err(fail)
            }
            None if self.style == WhiteoutStyle::Overlay => {
                self.clear(place).map_err(fail)?;
                let path = place.path.to_vec();
                self.links.push(DeferredLink {
                    path,
                    target: target.to_vec(),
                });
                Ok(())
            }
            None => Err(missing_target(place.path, target)),
        }
    }

    /// Makes something at a name, removing what stands in the way.
    fn put<T>(
        &mut self,
        place: Place<'_>,
        make: impl Fn(&OwnedFd, &[u8]) -> io::Result<T>,
    ) -> io::Result<T> {
        match make(place.parent, place.base) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(place)?;
                make(place.parent, place.base)
            }
            made => made,
        }
    }

    /// Removes whatever stands at a name.
    fn clear(&mut self, place: Place<'_>) -> io::Result<()> {
        match beneath::remove_tree(place.parent, place.base) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                self.replaced = true;
                self.tree.forget();
                removed
            }
        }
    }

    /// Notes what was made, where that is needed at all.
    fn note(&mut self, stat: impl Fn() -> io::Result<beneath::NodeStat>) -> io::Result<()> {
        if self.tree.tracks() {
            self.tree.describe(stat()?.inode);
        }
        Ok(())
    }

    fn attributes(
        &mut self,
        entry: &Entry,
        set: impl Fn(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for (attribute, value) in &entry.attributes {
            if is_overlay_attribute(attribute) {
                self.attributes_ignored += 1;
                continue;
            }
            match set(attribute, value) {
                Err(error) if may_ignore(&error, attribute, entry) => self.attributes_ignored += 1,
                result => result?,
            }
        }
        Ok(())
    }
}

/// Copies an entry's data out of the stream's buffers, without another copy in between.
fn write_data<R: io::BufRead>(
    file: impl AsFd,
    entry: &Entry,
    reader: &mut LayerReader<R>,
) -> Result<(), ApplyError> {
    let fail = |source| ApplyError::file("write", &entry.path, source);
    let dense = [crate::layer::Fragment {
        offset: 0,
        length: entry.size,
    }];
    let fragments = entry
        .sparse
        .as_ref()
        .map_or(&dense[..], |map| map.fragments());
    for fragment in fragments {
        let (mut offset, end) = (fragment.offset, fragment.offset + fragment.length);
        while offset < end {
            let chunk = reader.chunk()?;
            if chunk.is_empty() {
                let part = "an entry's data";
                return Err(TarError::Truncated {
                    position: offset,
                    part,
                }
                .into());
            }
            let take = usize::try_from(end - offset)
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            beneath::write_all_at(&file, &chunk[..take], offset).map_err(fail)?;
            reader.consume(take);
            offset += take as u64;
        }
    }
    if entry.sparse.is_some() {
        beneath::set_length(&file, entry.size).map_err(fail)?;
    }
    Ok(())
}

/// Attributes that would steer an overlay mount, if a layer could plant them.
pub(crate) fn is_overlay_attribute(attribute: &[u8]) -> bool {
    attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.")
}

/// The file system has no attributes of this kind, or the kernel has `user.*` only on files and directories.
fn may_ignore(error: &io::Error, attribute: &[u8], entry: &Entry) -> bool {
    let on_other_kind = !matches!(entry.kind, EntryKind::File | EntryKind::Directory);
    error.kind() == io::ErrorKind::Unsupported
        || error.kind() == io::ErrorKind::PermissionDenied
            && attribute.starts_with(b"user.")
            && on_other_kind
}

fn times(entry: &Entry) -> Times {
    let change = entry.mtime;
    Times {
        access: entry.atime.unwrap_or(change).max(change),
        change,
    }
}

pub(super) fn missing_target(path: &[u8], target: &[u8]) -> ApplyError {
    ApplyError::LinkTarget {
        path: shown(path),
        target: shown(target),
    }
}

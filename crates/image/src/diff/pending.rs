//! Entries of a layer, and directories that are written only if something in them is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use orlop_sys::beneath::{self, FileTime, NodeKind, NodeStat};

use super::DiffOptions;
use super::error::DiffError;
use crate::apply::is_overlay_attribute;
use crate::layer::{Entry, EntryKind, LayerWriter, name};

/// The layer being written.
pub(super) struct Output<W> {
    writer: LayerWriter<W>,
    latest_seconds: Option<i64>,
    /// Unchanged directories from the root down to here that are not written yet.
    parents: Vec<Entry>,
    /// The first name of every file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// One node where it stands.
#[derive(Clone, Copy)]
pub(super) struct Node<'a, D> {
    pub(super) parent: D,
    pub(super) base: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) stat: &'a NodeStat,
}

impl<W: Write> Output<W> {
    pub(super) fn new(writer: LayerWriter<W>, options: &DiffOptions) -> Self {
        let latest_seconds = options.source_date_seconds;
        Self {
            writer,
            latest_seconds,
            parents: Vec::new(),
            links: HashMap::new(),
        }
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.writer.finish()
    }

    /// Enters a directory that itself has not changed.
    pub(super) fn enter<D: AsFd>(&mut self, node: &Node<'_, D>) -> Result<(), DiffError> {
        let entry = self.describe(node, EntryKind::Directory)?;
        self.parents.push(entry);
        Ok(())
    }

    /// Leaves it again; whether anything in it was written no longer matters.
    pub(super) fn leave(&mut self, path: &[u8]) {
        self.parents.retain(|entry| entry.path != path);
    }

    /// Writes a node as new or changed.
    pub(super) fn write<D: AsFd>(&mut self, node: &Node<'_, D>) -> Result<(), DiffError> {
        let Some(kind) = self.kind(node)? else {
            return Ok(());
        };
        let entry = self.describe(node, kind)?;
        self.flush_parents()?;
        let fail = |source| DiffError::entry(node.path, source);
        if entry.kind != EntryKind::File {
            return self.writer.append(&entry, io::empty()).map_err(fail);
        }
        let file = beneath::open_file(&node.parent, node.base).map_err(fail)?;
        self.writer.append(&entry, File::from(file)).map_err(fail)
    }

    /// Writes a whiteout or an opaque marker: an empty file from 1970, as containerd's.
    pub(super) fn write_marker(&mut self, directory: &[u8], base: &[u8]) -> Result<(), DiffError> {
        self.flush_parents()?;
        let path = name::join(directory, base);
        let entry = Entry {
            path,
            kind: EntryKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: FileTime::default(),
            atime: None,
            attributes: Vec::new(),
            sparse: None,
        };
        self.writer
            .append(&entry, io::empty())
            .map_err(|source| DiffError::entry(&entry.path, source))
    }

    fn flush_parents(&mut self) -> Result<(), DiffError> {
        for entry in std::mem::take(&mut self.parents) {
            self.writer
                .append(&entry, io::empty())
                .map_err(|source| DiffError::entry(&entry.path, source))?;
        }
        Ok(())
    }

    /// What a node is in a layer; `None` for sockets, which have no place there.
    fn kind<D: AsFd>(&mut self, node: &Node<'_, D>) -> Result<Option<EntryKind>, DiffError> {
        let stat = node.stat;
        if stat.links > 1 && stat.kind != NodeKind::Directory {
            match self.links.get(&(stat.device, stat.inode)) {
                Some(first) => {
                    return Ok(Some(EntryKind::HardLink {
                        target: first.clone(),
                    }));
                }
                None => self
                    .links
                    .insert((stat.device, stat.inode), node.path.to_vec()),
            };
        }
        let number = stat.device_number;
        Ok(Some(match stat.kind {
            NodeKind::File => EntryKind::File,
            NodeKind::Directory => EntryKind::Directory,
            NodeKind::Symlink => EntryKind::Symlink {
                target: beneath::read_link(&node.parent, node.base)
                    .map_err(|source| DiffError::tree("read link", node.path, source))?,
            },
            NodeKind::CharDevice => EntryKind::CharDevice { number },
            NodeKind::BlockDevice => EntryKind::BlockDevice { number },
            NodeKind::Fifo => EntryKind::Fifo,
            NodeKind::Socket | NodeKind::Unknown => return Ok(None),
        }))
    }

    fn describe<D: AsFd>(&self, node: &Node<'_, D>, kind: EntryKind) -> Result<Entry, DiffError> {
        let attributes = match &kind {
            // They belong to the file, which its first name has described.
            EntryKind::HardLink { .. } => Vec::new(),
            EntryKind::File
            | EntryKind::Directory
            | EntryKind::Symlink { .. }
            | EntryKind::CharDevice { .. }
            | EntryKind::BlockDevice { .. }
            | EntryKind::Fifo => image_attributes(&node.parent, node.base)
                .map_err(|source| DiffError::tree("read attributes of", node.path, source))?,
        };
        let seconds = node.stat.mtime.seconds;
        let seconds = self
            .latest_seconds
            .map_or(seconds, |latest| seconds.min(latest));
        Ok(Entry {
            path: node.path.to_vec(),
            mode: node.stat.mode,
            uid: node.stat.uid,
            gid: node.stat.gid,
            size: if kind == EntryKind::File {
                node.stat.size
            } else {
                0
            },
            kind,
            mtime: FileTime {
                seconds,
                nanoseconds: 0,
            },
            atime: None,
            attributes,
            sparse: None,
        })
    }
}

/// The attributes that belong to the image; the others are this host's.
pub(super) fn image_attributes(
    parent: impl AsFd,
    base: &[u8],
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut attributes = beneath::attributes(parent, base)?;
    attributes.retain(|(attribute, _)| {
        let of_host = [&b"security.selinux"[..], b"security.ima", b"security.evm"];
        !is_overlay_attribute(attribute) && !of_host.contains(&attribute.as_slice())
    });
    Ok(attributes)
}

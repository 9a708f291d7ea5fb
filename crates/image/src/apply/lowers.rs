//! Looking names up through a stack of layer directories, as the overlay would show them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use orlop_sys::beneath::{self, NodeKind, NodeStat};

use super::OPAQUE_ATTRIBUTE;

const LINKS_MAX: usize = 40;

/// Layer directories, topmost first, with overlayfs's whiteouts in them.
#[derive(Debug, Clone, Copy)]
pub struct MergedView<'a> {
    layers: &'a [BorrowedFd<'a>],
}

/// A name that was found, and where.
#[derive(Debug)]
pub struct Found {
    /// The directory that holds it.
    pub parent: OwnedFd,
    /// Its last component there.
    pub base: Vec<u8>,
    /// What it is.
    pub stat: NodeStat,
}

/// The directories that merge at one place, topmost first.
type Merged = Vec<OwnedFd>;

impl<'a> MergedView<'a> {
    /// A view of `layers`, topmost first.
    #[must_use]
    pub const fn new(layers: &'a [BorrowedFd<'a>]) -> Self {
        Self { layers }
    }

    /// Finds a normalised path. Links in parent directories are followed inside the view; the last component is not.
    ///
    /// # Errors
    /// The kernel's; a loop of links.
    pub fn find(&self, path: &[u8]) -> io::Result<Option<Found>> {
        let root: io::Result<Merged> = self
            .layers
            .iter()
            .map(AsFd::as_fd)
            .map(|fd| fd.try_clone_to_owned())
            .collect();
        let mut stack = vec![root?];
        let mut todo: Vec<Vec<u8>> = components_reversed(path);
        let mut links = 0;
        while let Some(component) = todo.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    stack.truncate(stack.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            let here = stack.last().map_or(&[][..], Vec::as_slice);
            match look(here, &component)? {
                Looked::Nothing => return Ok(None),
                Looked::Node(found) if todo.is_empty() => return Ok(Some(found)),
                Looked::Directories(found, _) if todo.is_empty() => return Ok(Some(found)),
                Looked::Directories(_, merged) => stack.push(merged),
                Looked::Node(found) if found.stat.kind == NodeKind::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(io::Error::other("too many links on the way"));
                    }
                    let target = beneath::read_link(&found.parent, &found.base)?;
                    if target.first() == Some(&b'/') {
                        stack.truncate(1);
                    }
                    todo.extend(components_reversed(&target));
                }
                Looked::Node(_) => return Ok(None),
            }
        }
        Ok(None)
    }
}

enum Looked {
    Nothing,
    Node(Found),
    Directories(Found, Merged),
}

/// One component in directories that merge: the first that has it decides, and directories merge further down until
/// one is opaque or something else lies in between.
fn look(directories: &[OwnedFd], component: &[u8]) -> io::Result<Looked> {
    let mut first: Option<Found> = None;
    let mut merged = Vec::new();
    for directory in directories {
        let stat = match beneath::stat(directory, component) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if stat.is_overlay_whiteout() {
            break;
        }
        let found = || -> io::Result<Found> {
            let parent = directory.try_clone()?;
            Ok(Found {
                parent,
                base: component.to_vec(),
                stat,
            })
        };
        if stat.kind != NodeKind::Directory {
            if first.is_none() {
                return Ok(Looked::Node(found()?));
            }
            break;
        }
        if first.is_none() {
            first = Some(found()?);
        }
        merged.push(beneath::open_directory_beneath(directory, component)?);
        if is_opaque(directory, component)? {
            break;
        }
    }
    Ok(first.map_or(Looked::Nothing, |found| Looked::Directories(found, merged)))
}

/// Whether overlayfs stops merging at this directory.
pub(crate) fn is_opaque(parent: impl AsFd, base: &[u8]) -> io::Result<bool> {
    let value = beneath::attribute(parent, base, OPAQUE_ATTRIBUTE)?;
    Ok(value.as_deref() == Some(b"y"))
}

fn components_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

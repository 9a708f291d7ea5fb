//! Finding and making the directories of a tree, with the last few kept open.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use orlop_sys::beneath::{self, NodeKind};

use super::{OPAQUE_ATTRIBUTE, WhiteoutStyle};
use crate::layer::{Limits, name};

/// Directories kept open: tar streams stay in one neighbourhood for long.
const CACHE_SIZE: usize = 32;
/// The kernel's own limit on links in one lookup.
const LINKS_MAX: usize = 40;
/// What containerd gives a directory nobody describes.
const IMPLICIT_MODE: u32 = 0o755;

pub(super) type Directory = Rc<OwnedFd>;

/// A tree under construction. Nobody else writes to it meanwhile.
pub(super) struct Tree {
    root: Directory,
    style: WhiteoutStyle,
    depth_max: usize,
    /// Most recently used first.
    cache: Vec<(Vec<u8>, Directory)>,
    /// Directories made without an entry of their own, by inode.
    implicit: BTreeMap<u64, Vec<u8>>,
    /// Inodes this layer made or described; kept only where whiteouts have to spare them.
    own: HashSet<u64>,
}

/// Whether a lookup may make what is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Report,
}

/// Directories from the root down to where a lookup stands, by their real names.
type Stack = Vec<(Vec<u8>, Directory)>;

impl Tree {
    pub(super) fn new(root: impl AsFd, style: WhiteoutStyle, limits: &Limits) -> io::Result<Self> {
        let root = root.as_fd().try_clone_to_owned()?;
        Ok(Self {
            root: Rc::new(root),
            style,
            depth_max: limits.path_depth_max,
            cache: Vec::with_capacity(CACHE_SIZE),
            implicit: BTreeMap::new(),
            own: HashSet::new(),
        })
    }

    /// The directory at a normalised path, made with all above it if missing.
    pub(super) fn directory(&mut self, path: &[u8]) -> io::Result<Directory> {
        match self.lookup(path, Missing::Make)? {
            Some(directory) => Ok(directory),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The directory at a normalised path, if there is one.
    pub(super) fn existing(&mut self, path: &[u8]) -> io::Result<Option<Directory>> {
        self.lookup(path, Missing::Report)
    }

    /// Notes an open directory, so that its entries find it.
    pub(super) fn remember(&mut self, path: &[u8], directory: Directory) {
        if self.cache.len() == CACHE_SIZE {
            self.cache.pop();
        }
        self.cache.insert(0, (path.to_vec(), directory));
    }

    /// Drops all open directories: something was removed, and names may mean others now.
    pub(super) fn forget(&mut self) {
        self.cache.clear();
    }

    /// Notes that an entry of this layer describes this inode.
    pub(super) fn describe(&mut self, inode: u64) {
        self.implicit.remove(&inode);
        if self.style == WhiteoutStyle::Remove {
            self.own.insert(inode);
        }
    }

    /// Whether an inode is this layer's.
    pub(super) fn is_own(&self, inode: u64) -> bool {
        self.own.contains(&inode)
    }

    /// Whether [`Tree::describe`] needs to be told at all.
    pub(super) fn tracks(&self) -> bool {
        self.style == WhiteoutStyle::Remove
    }

    /// The directories made without an entry: path and inode, parents first.
    pub(super) fn into_implicit(self) -> Vec<(Vec<u8>, u64)> {
        let mut implicit: Vec<_> = self
            .implicit
            .into_iter()
            .map(|(inode, path)| (path, inode))
            .collect();
        implicit.sort_unstable();
        implicit
    }

    fn lookup(&mut self, path: &[u8], missing: Missing) -> io::Result<Option<Directory>> {
        if path.is_empty() {
            return Ok(Some(Rc::clone(&self.root)));
        }
        if let Some(index) = self.cache.iter().position(|(cached, _)| cached == path) {
            self.cache[..=index].rotate_right(1);
            return Ok(Some(Rc::clone(&self.cache[0].1)));
        }
        let directory = match beneath::open_directory_in_root(&self.root, path) {
            Ok(directory) => Some(Rc::new(directory)),
            Err(error) if is_missing(&error) => self.walk(path, missing)?,
            Err(error) => return Err(error),
        };
        if let Some(directory) = &directory {
            self.remember(path, Rc::clone(directory));
        }
        Ok(directory)
    }

    /// Component by component, for what the kernel's lookup cannot do: make directories on the way, also those
    /// that a link points to before they exist.
    fn walk(&mut self, path: &[u8], missing: Missing) -> io::Result<Option<Directory>> {
        let mut stack: Stack = Vec::new();
        let mut todo: Vec<Vec<u8>> = components_reversed(path);
        let mut links = 0;
        while let Some(component) = todo.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    stack.pop();
                    continue;
                }
                _ => {}
            }
            if stack.len() >= self.depth_max {
                return Err(too_many_links());
            }
            let parent = stack.last().map_or(&self.root, |(_, directory)| directory);
            let parent = Rc::clone(parent);
            match self.step(&parent, &component, &stack, missing)? {
                Step::Into(directory) => stack.push((component, directory)),
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(too_many_links());
                    }
                    if target.first() == Some(&b'/') {
                        stack.clear();
                    }
                    todo.extend(components_reversed(&target));
                }
                Step::Missing => return Ok(None),
            }
        }
        let last = stack
            .pop()
            .map_or_else(|| Rc::clone(&self.root), |(_, directory)| directory);
        Ok(Some(last))
    }

    fn step(
        &mut self,
        parent: &OwnedFd,
        component: &[u8],
        stack: &Stack,
        missing: Missing,
    ) -> io::Result<Step> {
        match beneath::open_directory_beneath(parent, component) {
            Ok(directory) => return Ok(Step::Into(Rc::new(directory))),
            Err(error) if is_missing(&error) || is_link(&error) => {}
            Err(error) => return Err(error),
        }
        match (beneath::stat(parent, component), missing) {
            (Ok(stat), _) if stat.kind == NodeKind::Symlink => {
                Ok(Step::Link(beneath::read_link(parent, component)?))
            }
            (Ok(stat), Missing::Make) if stat.is_overlay_whiteout() => {
                beneath::remove_node(parent, component)?;
                let made = self.make_implicit(parent, component, stack)?;
                beneath::set_attribute_fd(&made, OPAQUE_ATTRIBUTE, b"y")?;
                Ok(Step::Into(made))
            }
            (Ok(_), Missing::Make) => Err(io::ErrorKind::NotADirectory.into()),
            (Ok(_), Missing::Report) => Ok(Step::Missing),
            (Err(error), _) if error.kind() != io::ErrorKind::NotFound => Err(error),
            (Err(_), Missing::Report) => Ok(Step::Missing),
            (Err(_), Missing::Make) => self.make_implicit(parent, component, stack).map(Step::Into),
        }
    }

    fn make_implicit(
        &mut self,
        parent: &OwnedFd,
        component: &[u8],
        stack: &Stack,
    ) -> io::Result<Directory> {
        beneath::make_directory(parent, component)?;
        let directory = beneath::open_directory_beneath(parent, component)?;
        beneath::set_mode_fd(&directory, IMPLICIT_MODE)?;
        let inode = beneath::stat_fd(&directory)?.inode;
        let above = stack
            .iter()
            .fold(Vec::new(), |path, (part, _)| name::join(&path, part));
        self.describe(inode);
        self.implicit.insert(inode, name::join(&above, component));
        Ok(Rc::new(directory))
    }
}

/// What one component turned out to be.
enum Step {
    Into(Directory),
    Link(Vec<u8>),
    Missing,
}

fn components_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// `ELOOP`, which std has no stable name for; it is how the kernel refuses to follow a link.
fn is_link(error: &io::Error) -> bool {
    const ELOOP: i32 = 40;
    error.raw_os_error() == Some(ELOOP)
}

fn too_many_links() -> io::Error {
    io::Error::other("too many links or directories on the way")
}

//! A depth-first walk that needs few descriptors however deep the tree is, and never leaves its mount.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use super::dir::{name_of, resolve};
use super::stat::stat_at;
use super::{Dir, FileKind, FsError, Name, Stat};

/// Descriptors kept open by one walk. Beyond this depth a parent is closed, and reopened through `..` on the way back.
const OPEN_MAX: usize = 32;

/// Room for a few hundred entries per getdents call.
const LIST_BYTES: usize = 32 * 1024;

/// What to do with what a walk finds.
pub(super) trait Visitor {
    /// The verb for error messages.
    const OPERATION: &'static str;

    /// Something in `parent` that is not a directory.
    fn leaf(&mut self, parent: BorrowedFd<'_>, name: &Name, stat: &Stat) -> rustix::io::Result<()>;

    /// A directory in `parent` all entries of which have been visited.
    fn leave(&mut self, parent: BorrowedFd<'_>, name: &Name, stat: &Stat)
    -> rustix::io::Result<()>;

    /// An entry failed, or is a mount point. Ok goes on with the next, an error ends the walk.
    fn failed(&mut self, error: FsError) -> Result<(), FsError>;
}

/// Visits `name` in `dir` and all below it. A missing `name` is an empty walk.
pub(super) fn walk<V: Visitor>(dir: &Dir, name: &Name, visitor: &mut V) -> Result<(), FsError> {
    let stat = match dir.stat(name) {
        Ok(stat) => stat,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut walk = Walk {
        dir,
        stack: Vec::new(),
        list_buffer: vec![MaybeUninit::uninit(); LIST_BYTES],
        visitor,
    };
    if stat.kind != FileKind::Directory {
        let done = walk.visitor.leaf(dir.as_fd(), name, &stat);
        return walk.settle(done, name);
    }
    walk.descend(name.clone())?;
    while !walk.stack.is_empty() {
        walk.step()?;
    }
    Ok(())
}

struct Walk<'walk, V> {
    dir: &'walk Dir,
    stack: Vec<Frame>,
    list_buffer: Vec<MaybeUninit<u8>>,
    visitor: &'walk mut V,
}

/// A directory being visited. The last of the stack always has its descriptor.
struct Frame {
    name: Name,
    fd: Option<OwnedFd>,
    stat: Stat,
    directories: Vec<Name>,
}

impl<V: Visitor> Walk<'_, V> {
    /// Goes into the next directory of the topmost frame, or leaves it when there is none.
    fn step(&mut self) -> Result<(), FsError> {
        let next = self
            .stack
            .last_mut()
            .and_then(|frame| frame.directories.pop());
        match next {
            Some(name) => self.descend(name),
            None => self.ascend(),
        }
    }

    fn descend(&mut self, name: Name) -> Result<(), FsError> {
        let opened = open_on_this_mount(self.top_fd(&name)?, name.as_arg())
            .and_then(|fd| stat_at(&fd, c"").map(|stat| (fd, stat)));
        let (fd, stat) = match opened {
            Ok(opened) => opened,
            Err(source) => return self.settle(Err(source), &name),
        };
        self.stack.push(Frame {
            name,
            fd: None,
            stat,
            directories: Vec::new(),
        });
        let directories = self.list(&fd)?;
        if let Some(frame) = self.stack.last_mut() {
            frame.fd = Some(fd);
            frame.directories = directories;
        }
        if let Some(distant) = self.stack.len().checked_sub(OPEN_MAX + 1) {
            self.stack[distant].fd = None;
        }
        Ok(())
    }

    /// Reads the topmost directory: leaves are visited at once, directories are returned for later.
    fn list(&mut self, fd: &OwnedFd) -> Result<Vec<Name>, FsError> {
        let mut directories = Vec::new();
        let mut buffer = std::mem::take(&mut self.list_buffer);
        let mut list = RawDir::new(fd, &mut buffer);
        while let Some(entry) = list.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(source) => {
                    self.settle(Err(source), &Name::from_static("(listing)"))?;
                    break;
                }
            };
            let Some(name) = name_of(entry.file_name()) else {
                continue;
            };
            let is_directory = FileKind::from(entry.file_type()) == FileKind::Directory
                || self.visit_leaf(fd, &name)? == FileKind::Directory;
            if is_directory {
                directories.push(name);
            }
        }
        self.list_buffer = buffer;
        Ok(directories)
    }

    /// Visits an entry that was not listed as a directory; not all file systems say, so it may be one.
    fn visit_leaf(&mut self, parent: &OwnedFd, name: &Name) -> Result<FileKind, FsError> {
        let visited = stat_at(parent, name.as_arg()).and_then(|stat| {
            if stat.kind != FileKind::Directory {
                self.visitor.leaf(parent.as_fd(), name, &stat)?;
            }
            Ok(stat.kind)
        });
        match visited {
            Ok(kind) => Ok(kind),
            Err(source) => self.settle(Err(source), name).map(|()| FileKind::Unknown),
        }
    }

    fn ascend(&mut self) -> Result<(), FsError> {
        let Some(done) = self.stack.pop() else {
            return Ok(());
        };
        self.reopen_top(&done)?;
        // The descriptor is borrowed from the stack while the visitor is borrowed mutably, hence the split.
        let parent = match self.stack.last() {
            Some(frame) => frame.fd.as_ref().map(AsFd::as_fd),
            None => Some(self.dir.as_fd()),
        };
        let left = match parent {
            Some(parent) => self.visitor.leave(parent, &done.name, &done.stat),
            None => Err(Errno::BADF),
        };
        self.settle(left, &done.name)
    }

    /// Opens the parent again if it was closed on the way down, and makes sure that it is still the parent:
    /// whoever moves a directory while it is walked must not lead the walk out of the tree.
    fn reopen_top(&mut self, child: &Frame) -> Result<(), FsError> {
        let Some(parent) = self.stack.last_mut().filter(|frame| frame.fd.is_none()) else {
            return Ok(());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = child
            .fd
            .as_ref()
            .ok_or(Errno::BADF)
            .and_then(|fd| rustix::fs::openat(fd, c"..", flags, Mode::empty()))
            .and_then(|fd| stat_at(&fd, c"").map(|stat| (fd, stat)));
        match opened {
            Ok((fd, stat)) if stat.is_same_file(&parent.stat) => {
                parent.fd = Some(fd);
                Ok(())
            }
            Ok(_) => Err(FsError::Moved {
                path: self.path_of(&child.name),
            }),
            Err(source) => {
                let path = self.path_of(&child.name);
                Err(FsError::io("reopen the parent of", &path, source))
            }
        }
    }

    /// Turns the kernel's answer into the visitor's decision.
    fn settle(&mut self, done: rustix::io::Result<()>, name: &Name) -> Result<(), FsError> {
        let operation = V::OPERATION;
        let error = match done {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Crossing gives EXDEV; removing what is mounted on gives EBUSY.
            Err(Errno::XDEV | Errno::BUSY) => FsError::MountPoint {
                operation,
                path: self.path_of(name),
            },
            Err(source) => FsError::io(operation, &self.path_of(name), source),
        };
        self.visitor.failed(error)
    }

    fn top_fd(&self, child: &Name) -> Result<BorrowedFd<'_>, FsError> {
        let Some(top) = self.stack.last() else {
            return Ok(self.dir.as_fd());
        };
        top.fd
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| FsError::Moved {
                path: self.path_of(child),
            })
    }

    fn path_of(&self, name: &Name) -> PathBuf {
        let mut path = self.dir.path().to_owned();
        path.extend(self.stack.iter().map(|frame| frame.name.as_os_str()));
        path.join(name.as_os_str())
    }
}

fn open_on_this_mount(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let how = ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS;
    match resolve(parent, name, flags, Mode::empty(), how) {
        // No longer a directory: whoever replaced it gets it visited next time.
        Err(Errno::LOOP | Errno::NOTDIR) => Err(Errno::NOENT),
        other => other,
    }
}

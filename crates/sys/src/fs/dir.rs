//! An owned directory descriptor, and what may be done beneath it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::stat::stat_at;
use super::{FileKind, FsError, Name, Stat};

/// openat2 gives EAGAIN when a rename races with a `..` in the path: the kernel asks for a retry, not for ever.
const RESOLVE_ATTEMPTS_MAX: u32 = 16;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// An open directory. Its descriptor is readable (not `O_PATH`), so that it can be listed and synced.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its kind, or [`FileKind::Unknown`] where the file system does not say without a stat.
    pub kind: FileKind,
}

impl Dir {
    /// Opens `path`, following links in it: it is the operator's choice, not a guest's.
    ///
    /// # Errors
    /// [`FsError::Io`] if it is missing, no directory, or not readable.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let fd = rustix::fs::openat(CWD, path, OPEN_DIRECTORY, Mode::empty())
            .map_err(|source| FsError::io("open directory", path, source))?;
        Ok(Self::from_parts(fd, path.to_owned()))
    }

    /// Creates `path` and missing parents with permissions `mode`, then opens it. Existing ones stay as they are.
    ///
    /// # Errors
    /// [`FsError::Io`] if a part cannot be created, or is no directory.
    pub fn create_all(path: &Path, mode: Mode) -> Result<Self, FsError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode.bits())
            .create(path)
            .map_err(|source| FsError::io("create directory", path, source))?;
        Self::open(path)
    }

    /// Wraps a descriptor that is known to be a readable directory; `path` is for messages only.
    #[must_use]
    pub fn from_parts(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// Where it was opened: for messages and for programs that take a path, never for removal.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry, for messages and for programs that take a path.
    #[must_use]
    pub fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(name.as_os_str())
    }

    /// A second descriptor of the same directory.
    ///
    /// # Errors
    /// [`FsError::Io`] when out of descriptors.
    pub fn try_clone(&self) -> Result<Self, FsError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|source| FsError::io("duplicate", &self.path, source))?;
        Ok(Self::from_parts(fd, self.path.clone()))
    }

    /// Opens a relative `path` beneath this directory; a link, magic link or `..` that leads out is refused
    /// (`openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`). `O_CLOEXEC` is added.
    ///
    /// # Errors
    /// [`FsError::Io`]: `ELOOP` for a link on the way, `EXDEV` for a way out, else as open(2).
    pub fn open_beneath(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, FsError> {
        self.resolve(path, flags, mode, BENEATH)
            .map_err(|source| FsError::io("open", &self.path.join(path), source))
    }

    /// Opens a relative `path` beneath this directory, following links as long as they stay beneath it
    /// (`openat2` with `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS`). `O_CLOEXEC` is added.
    ///
    /// # Errors
    /// [`FsError::Io`]: `EXDEV` for a way out, absolute links included, else as open(2).
    pub fn open_followed_beneath(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, FsError> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        self.resolve(path, flags, mode, beneath)
            .map_err(|source| FsError::io("open", &self.path.join(path), source))
    }

    /// Opens `path` as a process with this directory as its root would: links are followed, inside only.
    ///
    /// # Errors
    /// [`FsError::Io`] as open(2).
    pub fn open_in_root(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, FsError> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        self.resolve(path, flags, mode, inside)
            .map_err(|source| FsError::io("open", &self.path.join(path), source))
    }

    /// Opens the directory `name`; a link is refused.
    ///
    /// # Errors
    /// [`FsError::Io`] if it is missing or no directory.
    pub fn open_dir(&self, name: &Name) -> Result<Self, FsError> {
        let fd = self.open_name("open directory", name, OPEN_DIRECTORY, Mode::empty())?;
        Ok(Self::from_parts(fd, self.path_of(name)))
    }

    /// Opens the directory at a relative `path` beneath, no links on the way.
    ///
    /// # Errors
    /// As [`Dir::open_beneath`].
    pub fn open_dir_beneath(&self, path: &Path) -> Result<Self, FsError> {
        let fd = self.open_beneath(path, OPEN_DIRECTORY, Mode::empty())?;
        Ok(Self::from_parts(fd, self.path.join(path)))
    }

    /// Creates the directory `name` and opens it.
    ///
    /// # Errors
    /// [`FsError::is_already_exists`] if anything has that name, else [`FsError::Io`].
    pub fn create_dir(&self, name: &Name, mode: Mode) -> Result<Self, FsError> {
        rustix::fs::mkdirat(&self.fd, name.as_arg(), mode)
            .map_err(|source| self.io("create directory", name, source))?;
        self.open_dir(name)
    }

    /// Opens the directory `name`, creating it if it is missing.
    ///
    /// # Errors
    /// [`FsError::Io`] if it is no directory or cannot be created.
    pub fn ensure_dir(&self, name: &Name, mode: Mode) -> Result<Self, FsError> {
        match self.create_dir(name, mode) {
            Err(error) if error.is_already_exists() => self.open_dir(name),
            other => other,
        }
    }

    /// Opens the regular file `name` for reading; a link or another kind of file is refused.
    ///
    /// # Errors
    /// [`FsError::Io`] if it is missing or no regular file.
    pub fn open_file(&self, name: &Name) -> Result<File, FsError> {
        // Opening a FIFO would wait for a writer, and a terminal could become ours.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        self.open_regular(name, flags)
    }

    /// Opens the existing regular file `name` for reading and writing.
    ///
    /// # Errors
    /// [`FsError::Io`] if it is missing or no regular file.
    pub fn open_file_rw(&self, name: &Name) -> Result<File, FsError> {
        self.open_regular(name, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    /// Creates the file `name` for reading and writing; nothing may have that name yet.
    ///
    /// # Errors
    /// [`FsError::is_already_exists`] if anything has that name, else [`FsError::Io`].
    pub fn create_file(&self, name: &Name, mode: Mode) -> Result<File, FsError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        self.open_name("create", name, flags, mode).map(File::from)
    }

    /// Reads a whole small file.
    ///
    /// # Errors
    /// [`FsError::TooLarge`] above `limit_bytes`, else [`FsError::Io`].
    pub fn read(&self, name: &Name, limit_bytes: u64) -> Result<Vec<u8>, FsError> {
        let mut content = Vec::new();
        self.open_file(name)?
            .take(limit_bytes.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(|source| self.io("read", name, source))?;
        if u64::try_from(content.len()).is_ok_and(|length| length <= limit_bytes) {
            return Ok(content);
        }
        Err(FsError::TooLarge {
            path: self.path_of(name),
            limit_bytes,
        })
    }

    /// What the kernel knows about `name`, not following a link.
    ///
    /// # Errors
    /// [`FsError::is_not_found`] if nothing has that name, else [`FsError::Io`].
    pub fn stat(&self, name: &Name) -> Result<Stat, FsError> {
        stat_at(&self.fd, name.as_arg()).map_err(|source| self.io("stat", name, source))
    }

    /// What the kernel knows about this directory itself.
    ///
    /// # Errors
    /// [`FsError::Io`].
    pub fn stat_self(&self) -> Result<Stat, FsError> {
        stat_at(&self.fd, c"").map_err(|source| FsError::io("stat", &self.path, source))
    }

    /// Whether anything has that name.
    ///
    /// # Errors
    /// [`FsError::Io`] for anything but "not found".
    pub fn contains(&self, name: &Name) -> Result<bool, FsError> {
        match self.stat(name) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists the entries, without `.` and `..`, in the file system's order.
    ///
    /// # Errors
    /// [`FsError::Io`], here for the first read and from the iterator for later ones.
    pub fn entries(&self) -> Result<Entries, FsError> {
        // A descriptor of its own: reading moves a position that clones would share.
        let inner = rustix::fs::Dir::read_from(&self.fd)
            .map_err(|source| FsError::io("list", &self.path, source))?;
        Ok(Entries {
            inner,
            path: self.path.clone(),
        })
    }

    /// Moves `from` to `to` in `target`, replacing what is there. Not durable before both directories are synced.
    ///
    /// # Errors
    /// [`FsError::Io`].
    pub fn rename(&self, from: &Name, target: &Self, to: &Name) -> Result<(), FsError> {
        rustix::fs::renameat(&self.fd, from.as_arg(), &target.fd, to.as_arg())
            .map_err(|source| self.io("rename", from, source))
    }

    /// Moves `from` to `to` in `target` unless something is there.
    ///
    /// # Errors
    /// [`FsError::is_already_exists`] if something has that name, else [`FsError::Io`].
    pub fn rename_new(&self, from: &Name, target: &Self, to: &Name) -> Result<(), FsError> {
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.fd, from.as_arg(), &target.fd, to.as_arg(), flags)
            .map_err(|source| self.io("rename", from, source))
    }

    /// Gives the file `from` a second name `to` in `target`.
    ///
    /// # Errors
    /// [`FsError::is_already_exists`] if something has that name, else [`FsError::Io`] (`EXDEV` across file systems).
    pub fn hard_link(&self, from: &Name, target: &Self, to: &Name) -> Result<(), FsError> {
        let flags = AtFlags::empty();
        rustix::fs::linkat(&self.fd, from.as_arg(), &target.fd, to.as_arg(), flags)
            .map_err(|source| self.io("link", from, source))
    }

    /// Makes a FIFO (fifo(7)), whatever the umask is.
    ///
    /// # Errors
    /// [`FsError::Io`], also if the name is taken.
    pub fn create_fifo(&self, name: &Name, mode: Mode) -> Result<(), FsError> {
        let make = || {
            let path = name.as_os_str();
            rustix::fs::mknodat(&self.fd, path, rustix::fs::FileType::Fifo, mode, 0)?;
            rustix::fs::chmodat(&self.fd, path, mode, AtFlags::empty())
        };
        make().map_err(|source| self.io("make a FIFO at", name, source))
    }

    /// Removes a name that is not a directory. One that is already gone is no error.
    ///
    /// # Errors
    /// [`FsError::Io`].
    pub fn remove_file(&self, name: &Name) -> Result<(), FsError> {
        self.unlink(name, AtFlags::empty())
    }

    /// Removes an empty directory. One that is already gone is no error.
    ///
    /// # Errors
    /// [`FsError::Io`] if it is not empty or no directory.
    pub fn remove_dir(&self, name: &Name) -> Result<(), FsError> {
        self.unlink(name, AtFlags::REMOVEDIR)
    }

    /// Makes creations, renames and removals in this directory durable.
    ///
    /// # Errors
    /// [`FsError::Io`]; what was not durable before is then to be taken as lost.
    pub fn sync(&self) -> Result<(), FsError> {
        rustix::fs::fsync(&self.fd)
            .map_err(|source| FsError::io("sync directory", &self.path, source))
    }

    /// Makes everything on this file system durable: for a tree of many files one call is far cheaper than a
    /// sync of each (syncfs(2) reports write-back errors since Linux 5.8).
    ///
    /// # Errors
    /// [`FsError::Io`].
    pub fn sync_file_system(&self) -> Result<(), FsError> {
        rustix::fs::syncfs(&self.fd)
            .map_err(|source| FsError::io("sync the file system of", &self.path, source))
    }

    fn open_regular(&self, name: &Name, flags: OFlags) -> Result<File, FsError> {
        let fd = self.open_name("open", name, flags, Mode::empty())?;
        let stat = stat_at(&fd, c"").map_err(|source| self.io("stat", name, source))?;
        if stat.kind == FileKind::File {
            return Ok(File::from(fd));
        }
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
        Err(FsError::io("open", &self.path_of(name), source))
    }

    fn open_name(
        &self,
        operation: &'static str,
        name: &Name,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, FsError> {
        // One component without a link cannot leave the directory, so plain openat is enough and faster.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name.as_arg(), flags, mode)
            .map_err(|source| self.io(operation, name, source))
    }

    fn resolve(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
        how: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        resolve(self.fd.as_fd(), path, flags, mode, how)
    }

    fn unlink(&self, name: &Name, flags: AtFlags) -> Result<(), FsError> {
        match rustix::fs::unlinkat(&self.fd, name.as_arg(), flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(self.io("remove", name, source)),
        }
    }

    pub(super) fn io(
        &self,
        operation: &'static str,
        name: &Name,
        source: impl Into<std::io::Error>,
    ) -> FsError {
        FsError::io(operation, &self.path_of(name), source)
    }
}

/// openat2 with the retry the kernel asks for. openat2 refuses mode bits without a creating flag.
pub(super) fn resolve(
    dir: BorrowedFd<'_>,
    path: impl Arg + Copy,
    flags: OFlags,
    mode: Mode,
    how: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match rustix::fs::openat2(dir, path, flags, mode, how) {
            Err(Errno::AGAIN) if attempts < RESOLVE_ATTEMPTS_MAX => {}
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.fd
    }
}

/// The entries of a directory, from [`Dir::entries`].
#[derive(Debug)]
pub struct Entries {
    inner: rustix::fs::Dir,
    path: PathBuf,
}

impl Iterator for Entries {
    type Item = Result<Entry, FsError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.inner.next()? {
                Err(source) => return Some(Err(FsError::io("list", &self.path, source))),
                Ok(raw) => {
                    if let Some(name) = name_of(raw.file_name()) {
                        let kind = raw.file_type().into();
                        return Some(Ok(Entry { name, kind }));
                    }
                }
            }
        }
    }
}

/// The name of a listed entry; none for `.` and `..`.
pub(super) fn name_of(raw: &std::ffi::CStr) -> Option<Name> {
    use std::os::unix::ffi::OsStrExt;
    Name::new(std::ffi::OsStr::from_bytes(raw.to_bytes())).ok()
}

//! Making and reading files relative to a directory descriptor, never through a path from the process's root.
//!
//! Purpose: what unpacking and comparing layers needs of the kernel, in one place: `openat2` with a scope, device
//! nodes, owners, times and extended attributes. Names are bytes, as the kernel and tar have them.
//!
//! Invariants:
//! - a function that takes a *name* never follows a symbolic link at that name;
//! - [`open_directory_in_root`] is the only one that follows links, and those cannot lead out of `root`;
//! - all descriptors are close-on-exec.
//!
//! Ordering and crashes: nothing here syncs. Whoever commits the tree does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// Bits of a mode that `chmod` can set: permissions, set-id and sticky.
pub const MODE_BITS: u32 = 0o7777;

/// How deep [`remove_tree`] goes before it refuses; each level holds one descriptor.
const REMOVE_DEPTH_MAX: usize = 4096;

/// What kind of thing a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Something this kernel knows and Orlop does not.
    Unknown,
}

/// A point in time as the kernel keeps it for files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FileTime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 10^9.
    pub nanoseconds: u32,
}

/// What `lstat` says about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeStat {
    /// The kind of entry.
    pub kind: NodeKind,
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: FileTime,
    /// Last access.
    pub atime: FileTime,
    /// Number of the file system the entry is on.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Number of names the inode has.
    pub links: u64,
    /// Major and minor number of a device node; zeros otherwise.
    pub device_number: (u32, u32),
}

impl NodeStat {
    /// Whether this is overlayfs's mark for "deleted here": a character device 0:0.
    #[must_use]
    pub fn is_overlay_whiteout(&self) -> bool {
        self.kind == NodeKind::CharDevice && self.device_number == (0, 0)
    }
}

/// Opens the directory at `path`, resolving links and `..` as if `root` were `/`.
///
/// # Errors
/// The kernel's: `ENOENT`, `ENOTDIR`, `ELOOP`; `EXDEV` never, since a scoped lookup stays inside by definition.
pub fn open_directory_in_root(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    open2(root, path, directory_flags(), resolve)
}

/// Opens the directory at `path` beneath `root`; a symbolic link anywhere on the way is an error (`ELOOP`).
///
/// # Errors
/// The kernel's.
pub fn open_directory_beneath(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open2(root, path, directory_flags(), resolve)
}

/// Opens the regular file at one name for reading, without waiting on a FIFO put there instead.
///
/// # Errors
/// The kernel's; `ELOOP` for a symbolic link.
pub fn open_file(directory: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open2(directory, name, flags, ResolveFlags::BENEATH)
}

/// Makes a regular file that did not exist and opens it for writing, mode 0600.
///
/// # Errors
/// `EEXIST` when there is anything at the name, a dangling link included.
pub fn create_file(directory: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(
        directory,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?)
}

/// Makes a directory, mode 0700 until [`set_mode`].
///
/// # Errors
/// `EEXIST` when there is anything at the name.
pub fn make_directory(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(fs::mkdirat(directory, name, Mode::from_raw_mode(0o700))?)
}

/// Makes a symbolic link with any text.
///
/// # Errors
/// `EEXIST` when there is anything at the name.
pub fn make_symlink(directory: impl AsFd, name: &[u8], target: &[u8]) -> io::Result<()> {
    Ok(fs::symlinkat(target, directory, name)?)
}

/// Makes a device node or FIFO, mode 0600 until [`set_mode`].
///
/// # Errors
/// `EEXIST`; `EPERM` without the privilege; `EINVAL` for a kind that is not a node.
pub fn make_node(
    directory: impl AsFd,
    name: &[u8],
    kind: NodeKind,
    number: (u32, u32),
) -> io::Result<()> {
    let kind = match kind {
        NodeKind::CharDevice => FileType::CharacterDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
        NodeKind::Fifo => FileType::Fifo,
        NodeKind::File
        | NodeKind::Directory
        | NodeKind::Symlink
        | NodeKind::Socket
        | NodeKind::Unknown => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let device = fs::makedev(number.0, number.1);
    Ok(fs::mknodat(
        directory,
        name,
        kind,
        Mode::from_raw_mode(0o600),
        device,
    )?)
}

/// Gives an existing inode one more name; a link at the old name is linked itself, not followed.
///
/// # Errors
/// `EEXIST` at the new name, `ENOENT` at the old one, `EPERM` for directories, `EMLINK`.
pub fn make_hard_link(
    old: (impl AsFd, &[u8]),
    new_directory: impl AsFd,
    new_name: &[u8],
) -> io::Result<()> {
    Ok(fs::linkat(
        old.0,
        old.1,
        new_directory,
        new_name,
        AtFlags::empty(),
    )?)
}

/// What is at one name, links not followed.
///
/// # Errors
/// `ENOENT` and the kernel's others.
pub fn stat(directory: impl AsFd, name: &[u8]) -> io::Result<NodeStat> {
    Ok(to_stat(&fs::statat(
        directory,
        name,
        AtFlags::SYMLINK_NOFOLLOW,
    )?))
}

/// What an open descriptor refers to.
///
/// # Errors
/// The kernel's.
pub fn stat_fd(descriptor: impl AsFd) -> io::Result<NodeStat> {
    Ok(to_stat(&fs::fstat(descriptor)?))
}

/// The text of a symbolic link.
///
/// # Errors
/// `EINVAL` when the name is no link.
pub fn read_link(directory: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(fs::readlinkat(directory, name, Vec::new())?.into_bytes())
}

/// The names in a directory, sorted, without `.` and `..`.
///
/// # Errors
/// The kernel's.
pub fn list_directory(directory: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes the entry at one name, which is not a directory.
///
/// # Errors
/// `EISDIR` for a directory; the kernel's others.
pub fn remove_node(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(fs::unlinkat(directory, name, AtFlags::empty())?)
}

/// Removes whatever is at one name, a directory with all it holds; links are removed, not followed.
///
/// It never crosses into another file system: a mount point below is an error (`EXDEV`).
///
/// # Errors
/// `ELOOP` when the tree is deeper than 4096; the kernel's others. What was removed before stays removed.
pub fn remove_tree(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    remove_tree_at(directory, name, 0)
}

/// Sets the owner of what is at one name, links not followed. Clears set-id bits and file capabilities.
///
/// # Errors
/// The kernel's.
pub fn set_owner(directory: impl AsFd, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (fs::Uid::from_raw(uid), fs::Gid::from_raw(gid));
    Ok(fs::chownat(
        directory,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Sets the owner of an open file.
///
/// # Errors
/// The kernel's.
pub fn set_owner_fd(descriptor: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (fs::Uid::from_raw(uid), fs::Gid::from_raw(gid));
    Ok(fs::fchown(descriptor, Some(uid), Some(gid))?)
}

/// Sets the mode of an open file.
///
/// # Errors
/// The kernel's.
pub fn set_mode_fd(descriptor: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(fs::fchmod(
        descriptor,
        Mode::from_raw_mode(mode & MODE_BITS),
    )?)
}

/// Sets the mode of a node or directory at one name.
///
/// The name is opened without following a link first, since `fchmodat` would follow one.
///
/// # Errors
/// `ELOOP` for a symbolic link, which has no mode; the kernel's others.
pub fn set_mode(directory: impl AsFd, name: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = open2(directory, name, flags, ResolveFlags::NO_SYMLINKS)?;
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    Ok(fs::chmod(path, Mode::from_raw_mode(mode & MODE_BITS))?)
}

/// Sets both times of what is at one name, links not followed.
///
/// # Errors
/// The kernel's.
pub fn set_times(
    directory: impl AsFd,
    name: &[u8],
    atime: FileTime,
    mtime: FileTime,
) -> io::Result<()> {
    let times = timestamps(atime, mtime);
    Ok(fs::utimensat(
        directory,
        name,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Sets both times of an open file.
///
/// # Errors
/// The kernel's.
pub fn set_times_fd(descriptor: impl AsFd, atime: FileTime, mtime: FileTime) -> io::Result<()> {
    Ok(fs::futimens(descriptor, &timestamps(atime, mtime))?)
}

/// Writes all of `data` at `offset`, leaving a hole before it when the file is shorter.
///
/// # Errors
/// `ENOSPC` and the kernel's others.
pub fn write_all_at(descriptor: impl AsFd, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(&descriptor, data, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                data = &data[written..];
                offset += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Sets a file's length; new bytes are a hole.
///
/// # Errors
/// `EFBIG` beyond what the file system can address.
pub fn set_length(descriptor: impl AsFd, length: u64) -> io::Result<()> {
    Ok(fs::ftruncate(descriptor, length)?)
}

/// Sets an extended attribute of what is at one name, links not followed.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has none; `EPERM` for `user.*` on anything but files and directories.
pub fn set_attribute(
    directory: impl AsFd,
    name: &[u8],
    attribute: &[u8],
    value: &[u8],
) -> io::Result<()> {
    let path = proc_path(directory, name);
    Ok(fs::lsetxattr(
        path,
        attribute,
        value,
        fs::XattrFlags::empty(),
    )?)
}

/// Sets an extended attribute of an open file.
///
/// # Errors
/// As [`set_attribute`].
pub fn set_attribute_fd(descriptor: impl AsFd, attribute: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(fs::fsetxattr(
        descriptor,
        attribute,
        value,
        fs::XattrFlags::empty(),
    )?)
}

/// The value of one extended attribute; `None` when it is not set or the file system has none.
///
/// # Errors
/// The kernel's others.
pub fn attribute(
    directory: impl AsFd,
    name: &[u8],
    attribute: &[u8],
) -> io::Result<Option<Vec<u8>>> {
    read_attribute(&proc_path(directory, name), attribute)
}

/// All extended attributes of what is at one name, sorted by name; none where the file system has none.
///
/// # Errors
/// The kernel's others.
pub fn attributes(directory: impl AsFd, name: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = proc_path(directory, name);
    let mut names = match sized(|buffer| fs::llistxattr(&path, buffer)) {
        Ok(names) => names,
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    names.pop();
    let mut found = Vec::new();
    for attribute in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if let Some(value) = read_attribute(&path, attribute)? {
            found.push((attribute.to_vec(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// `openat2`, again when a concurrent rename made the kernel ask for it.
fn open2(
    directory: impl AsFd,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    loop {
        match fs::openat2(&directory, path, flags, Mode::empty(), resolve) {
            Ok(descriptor) => return Ok(descriptor),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn remove_tree_at(directory: impl AsFd, name: &[u8], depth: usize) -> io::Result<()> {
    match fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    if depth >= REMOVE_DEPTH_MAX {
        return Err(rustix::io::Errno::LOOP.into());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let inner = open2(&directory, name, directory_flags(), resolve)?;
    for child in list_directory(&inner)? {
        remove_tree_at(&inner, &child, depth + 1)?;
    }
    Ok(fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

fn timestamps(atime: FileTime, mtime: FileTime) -> fs::Timestamps {
    let convert = |time: FileTime| fs::Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    fs::Timestamps {
        last_access: convert(atime),
        last_modification: convert(mtime),
    }
}

/// The name through the descriptor's entry in `/proc`: extended attributes have no call relative to a directory
/// before Linux 6.13. The entry is the directory itself, so the lookup starts there and nowhere else.
fn proc_path(directory: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

fn read_attribute(path: &[u8], attribute: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match sized(|buffer| fs::lgetxattr(path, attribute, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads into a small buffer first, and once more into the largest the kernel allows.
fn sized(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    const LARGEST_BYTES: usize = 64 << 10;
    let mut buffer = vec![0; 256];
    let length = match read(&mut buffer) {
        Err(rustix::io::Errno::RANGE) => {
            buffer.resize(LARGEST_BYTES, 0);
            read(&mut buffer)?
        }
        other => other?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

fn to_stat(raw: &fs::Stat) -> NodeStat {
    NodeStat {
        kind: to_kind(FileType::from_raw_mode(raw.st_mode)),
        mode: raw.st_mode & MODE_BITS,
        uid: raw.st_uid,
        gid: raw.st_gid,
        size: u64::try_from(raw.st_size).unwrap_or(0),
        mtime: to_time(raw.st_mtime, raw.st_mtime_nsec),
        atime: to_time(raw.st_atime, raw.st_atime_nsec),
        device: raw.st_dev,
        inode: raw.st_ino,
        links: raw.st_nlink,
        device_number: (fs::major(raw.st_rdev), fs::minor(raw.st_rdev)),
    }
}

fn to_time(seconds: i64, nanoseconds: u64) -> FileTime {
    FileTime {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    }
}

fn to_kind(kind: FileType) -> NodeKind {
    match kind {
        FileType::RegularFile => NodeKind::File,
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::BlockDevice => NodeKind::BlockDevice,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::Unknown => NodeKind::Unknown,
    }
}

//! What the kernel knows about one file.

use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::path::Arg;

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
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
    /// A unix socket.
    Socket,
    /// Anything the kernel may invent, or a file system that does not say.
    Unknown,
}

impl From<FileType> for FileKind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => Self::Unknown,
        }
    }
}

/// What `statx(2)` says of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The kind of file.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky, without the kind: `0o7777` at most.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Bytes allocated on disk (`st_blocks` × 512).
    pub disk_bytes: u64,
    /// Number of names.
    pub links: u32,
    /// Inode number, unique within [`Stat::device`].
    pub inode: u64,
    /// Major and minor number of the file system.
    pub device: (u32, u32),
    /// Major and minor number of the device this file stands for.
    pub represents: (u32, u32),
    /// The mount it was reached through; none before Linux 5.8.
    pub mount_id: Option<u64>,
    /// Last change of content.
    pub modified: SystemTime,
}

impl Stat {
    /// Whether both are the same file, whatever the name.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.inode == other.inode && self.device == other.device
    }
}

/// Asks about `path` below `dir` without following a final link. An empty path asks about `dir` itself.
pub(super) fn stat_at(dir: impl AsFd, path: impl Arg) -> rustix::io::Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    rustix::fs::statx(dir, path, flags, mask).map(|raw| from_statx(&raw))
}

fn from_statx(raw: &Statx) -> Stat {
    let mode = u32::from(raw.stx_mode);
    let has_mount_id = raw.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Stat {
        kind: FileType::from_raw_mode(mode).into(),
        permissions: mode & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        len_bytes: raw.stx_size,
        disk_bytes: raw.stx_blocks.saturating_mul(512),
        links: raw.stx_nlink,
        inode: raw.stx_ino,
        device: (raw.stx_dev_major, raw.stx_dev_minor),
        represents: (raw.stx_rdev_major, raw.stx_rdev_minor),
        mount_id: has_mount_id.then_some(raw.stx_mnt_id),
        modified: system_time(raw.stx_mtime.tv_sec, raw.stx_mtime.tv_nsec),
    }
}

/// A file's time may lie before 1970, or be nonsense on a damaged disk: the latter reads as 1970.
fn system_time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

//! Flags, propagation and id maps of single mounts (`mount_setattr(2)`).

#![allow(
    unsafe_code,
    reason = "mount_setattr has no wrapper in rustix; this module is its only caller"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::mount::MountAttrFlags;

use super::MountError;

/// Flags to set and to clear on a mount. What is in neither stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Flags to set.
    pub(super) set: MountAttrFlags,
    /// Flags to clear.
    pub(super) clear: MountAttrFlags,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
        }
    }
}

impl Attributes {
    /// Sets `flags`, taking back an earlier [`Attributes::unset`].
    pub(super) fn set(&mut self, flags: MountAttrFlags) {
        self.set |= flags;
        self.clear &= !flags;
    }

    /// Clears `flags`, taking back an earlier [`Attributes::set`].
    pub(super) fn unset(&mut self, flags: MountAttrFlags) {
        self.clear |= flags;
        self.set &= !flags;
    }

    /// The access-time modes are one value of three bits, so the old one is cleared as a whole.
    pub(super) fn set_access_time(&mut self, mode: MountAttrFlags) {
        self.set &= !ACCESS_TIME_MASK;
        self.set |= mode;
        self.clear |= ACCESS_TIME_MASK;
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }
}

/// `MOUNT_ATTR__ATIME`: the field that holds relatime (0), noatime or strictatime.
const ACCESS_TIME_MASK: MountAttrFlags = MountAttrFlags::MOUNT_ATTR__ATIME;

/// How mounts and unmounts spread to copies of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Both ways.
    Shared,
    /// From the original to the copy only.
    Slave,
    /// Not at all, and the mount cannot be bound elsewhere.
    Unbindable,
}

impl Propagation {
    fn to_flags(self) -> libc::c_ulong {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Shared => libc::MS_SHARED,
            Self::Slave => libc::MS_SLAVE,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Whether a change is for one mount or for everything mounted beneath it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    One,
    Tree,
}

pub(super) fn change(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    depth: Depth,
) -> Result<(), MountError> {
    if attributes.is_empty() {
        return Ok(());
    }
    let request = Request {
        set: u64::from(attributes.set.bits()),
        clear: u64::from(attributes.clear.bits()),
        ..Request::default()
    };
    request.send(mount, depth, "set the flags of a mount")
}

pub(super) fn propagate(
    mount: BorrowedFd<'_>,
    propagation: Propagation,
    depth: Depth,
) -> Result<(), MountError> {
    let request = Request {
        propagation: propagation.to_flags(),
        ..Request::default()
    };
    request.send(mount, depth, "set the propagation of a mount")
}

/// Gives a detached tree the id map of a user namespace. The kernel allows it once per mount, and only before the
/// mount has been attached anywhere.
pub(super) fn map_ids(
    mount: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
    depth: Depth,
) -> Result<(), MountError> {
    let descriptor =
        u64::try_from(user_namespace.as_raw_fd()).expect("open descriptors are not negative");
    let request = Request {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits()),
        user_namespace: descriptor,
        ..Request::default()
    };
    request.send(mount, depth, "give a mount the id map of a user namespace")
}

/// `struct mount_attr`, version 0 (32 bytes).
#[repr(C)]
#[derive(Default)]
struct Request {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

impl Request {
    fn send(
        &self,
        mount: BorrowedFd<'_>,
        depth: Depth,
        operation: &'static str,
    ) -> Result<(), MountError> {
        let recursive = match depth {
            Depth::One => 0,
            Depth::Tree => libc::AT_RECURSIVE,
        };
        // SAFETY: the path is a NUL-terminated empty string and `self` is a `struct mount_attr` of the size given;
        // both live until the call returns, and the kernel only reads them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_fd().as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | recursive,
                std::ptr::from_ref(self),
                size_of::<Self>(),
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(MountError::Attributes {
            operation,
            source: io::Error::last_os_error(),
        })
    }
}

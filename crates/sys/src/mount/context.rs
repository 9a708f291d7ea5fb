//! A file system while it is configured (`fsopen(2)`), and the kernel's log about it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::MountError;
use super::options::Parameter;

/// `fsconfig` copies at most this much of a value, its NUL included.
const VALUE_BYTES_MAX: usize = 256;

/// More messages than the kernel's ring of eight can hold.
const MESSAGES_MAX: usize = 16;

/// A file system being configured. Dropping it leaves nothing behind.
pub(super) struct FsContext {
    descriptor: OwnedFd,
    fs_type: String,
}

impl FsContext {
    pub(super) fn open(fs_type: &str) -> Result<Self, MountError> {
        match fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(descriptor) => Ok(Self {
                descriptor,
                fs_type: fs_type.to_owned(),
            }),
            Err(errno) => Err(MountError::Create {
                fs_type: fs_type.to_owned(),
                messages: Vec::new(),
                source: errno.into(),
            }),
        }
    }

    pub(super) fn set(&self, parameter: &Parameter) -> Result<(), MountError> {
        let key = parameter.key.as_str();
        match &parameter.value {
            None => {
                fsconfig_set_flag(&self.descriptor, key).map_err(|errno| self.refused(key, errno))
            }
            Some(value) => self.set_text(key, value),
        }
    }

    pub(super) fn set_text(&self, key: &str, value: &str) -> Result<(), MountError> {
        fsconfig_set_string(&self.descriptor, key, value)
            .map_err(|errno| self.refused(&format!("{key}={value}"), errno))
    }

    /// Sets a key to a folder. A descriptor stands in for what a text cannot say: a path that is too long, or one
    /// with backslashes, which some kernels take off and others do not.
    pub(super) fn set_folder(
        &self,
        key: &str,
        path: &str,
        folder: BorrowedFd<'_>,
    ) -> Result<(), MountError> {
        if path.len() < VALUE_BYTES_MAX && !path.contains('\\') {
            return self.set_text(key, path);
        }
        // Overlay takes descriptors since Linux 6.13; the magic link works before that.
        let by_link = || {
            let link = format!("/proc/self/fd/{}", folder.as_raw_fd());
            fsconfig_set_string(&self.descriptor, key, link)
        };
        fsconfig_set_fd(&self.descriptor, key, folder)
            .or_else(|_refused| by_link())
            .map_err(|errno| self.refused(&format!("{key}={path}"), errno))
    }

    /// Creates the file system and a detached mount of it.
    pub(super) fn create(&self, flags: MountAttrFlags) -> Result<OwnedFd, MountError> {
        fsconfig_create(&self.descriptor)
            .and_then(|()| fsmount(&self.descriptor, FsMountFlags::FSMOUNT_CLOEXEC, flags))
            .map_err(|errno| MountError::Create {
                fs_type: self.fs_type.clone(),
                messages: self.messages(),
                source: errno.into(),
            })
    }

    fn refused(&self, key: &str, errno: Errno) -> MountError {
        MountError::Option {
            fs_type: self.fs_type.clone(),
            key: key.to_owned(),
            messages: self.messages(),
            source: errno.into(),
        }
    }

    /// What the kernel logged since the last call. A read gives one message and fails when there is none.
    fn messages(&self) -> Vec<String> {
        let mut buffer = [0_u8; 1024];
        let mut messages = Vec::new();
        while messages.len() < MESSAGES_MAX {
            match rustix::io::read(&self.descriptor, &mut buffer) {
                Ok(length) if length > 0 => messages.push(without_severity(&buffer[..length])),
                Ok(_) | Err(_) => break,
            }
        }
        messages
    }
}

/// Messages start with `e `, `w ` or `i `.
fn without_severity(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let text = text.trim_end();
    let rest = ["e ", "w ", "i "]
        .iter()
        .find_map(|severity| text.strip_prefix(severity));
    rest.unwrap_or(text).to_owned()
}

/// The kernel's error, for callers outside this module that have an [`Errno`].
pub(super) fn to_io(errno: Errno) -> io::Error {
    errno.into()
}

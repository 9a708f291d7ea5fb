//! Files that have no name until they are whole.

use std::fs::File;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};

use super::{Dir, FsError, Name};

impl Dir {
    /// Makes a file in this directory's file system that has no name: unless it gets one it goes with its descriptor,
    /// also when the process is killed.
    ///
    /// # Errors
    /// [`FsError::Io`]; `EOPNOTSUPP` where the file system cannot do that.
    pub fn create_unnamed(&self, mode: Mode) -> Result<File, FsError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        openat(self, ".", flags, mode)
            .map(File::from)
            .map_err(|source| FsError::io("create a file in", self.path(), source))
    }

    /// Gives a file of [`Dir::create_unnamed`] its name. Not durable before the directory is synced.
    ///
    /// # Errors
    /// [`FsError::is_already_exists`] if anything has that name, else [`FsError::Io`].
    pub fn name_file(&self, file: &File, name: &Name) -> Result<(), FsError> {
        use std::os::fd::AsRawFd;
        // By way of the magic link: an empty path would need a capability that a container may lack.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, link, self, name.as_os_str(), AtFlags::SYMLINK_FOLLOW)
            .map_err(|source| FsError::io("name", &self.path_of(name), source))
    }
}

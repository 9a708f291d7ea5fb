//! A lock on a folder tree that dies with its holder.

use std::fs::File;
use std::io::{Read, Write};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::{Dir, FsError, Mode, Name};

/// More than the digits of a process id; whatever else is in the file is not ours.
const HOLDER_BYTES_MAX: u64 = 16;

/// An exclusive flock(2), released when dropped or when the process ends, however it ends.
///
/// The file stays: removing it would let two processes lock two different files of one name.
#[derive(Debug)]
pub struct LockFile {
    // Held for its lock alone.
    _file: File,
}

impl LockFile {
    /// Takes the lock `name` in `dir` without waiting, and writes this process's id into it for whoever comes next.
    ///
    /// # Errors
    /// [`FsError::Locked`] if another open file holds it, be it of this process; else [`FsError::Io`].
    pub fn acquire(dir: &Dir, name: &Name) -> Result<Self, FsError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        let path = std::path::Path::new(name.as_os_str());
        let file = File::from(dir.open_beneath(path, flags, Mode::from(0o644))?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(FsError::Locked {
                    path: dir.path_of(name),
                    holder: read_holder(file),
                });
            }
            Err(source) => return Err(dir.io("lock", name, source)),
        }
        write_holder(&file).map_err(|source| dir.io("write", name, source))?;
        Ok(Self { _file: file })
    }
}

fn read_holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(HOLDER_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(mut file: &File) -> std::io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    static LOCK: Name = Name::from_static("lock");

    #[test]
    fn a_second_holder_is_told_who_the_first_is_until_it_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        let first = LockFile::acquire(&dir, &LOCK).unwrap();
        let refused = LockFile::acquire(&dir, &LOCK).unwrap_err();
        let me = std::process::id();
        assert!(
            matches!(refused, FsError::Locked { holder: Some(pid), .. } if pid == me),
            "{refused}"
        );
        drop(first);
        LockFile::acquire(&dir, &LOCK).unwrap();
    }
}

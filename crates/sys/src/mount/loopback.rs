//! Loop devices: block devices whose bytes are a file's (loop(4)).
//!
//! A device made here goes with its last user unless it is kept ([`LoopDevice::keep`]); its tag tells, as long as it is
//! there, whom it was made for, since the kernel gives numbers out again.
#![allow(
    unsafe_code,
    reason = "loop devices are configured by ioctls with pointers to structures"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

const CONTROL: &str = "/dev/loop-control";
/// Somebody else may take the free device between question and use: so often it is asked again.
const TRIES_MAX: usize = 64;

// linux/loop.h
const LOOP_SET_STATUS64: libc::c_ulong = 0x4c04;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const NAME_BYTES: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME_BYTES],
    crypt_name: [u8; NAME_BYTES],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    descriptor: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

impl LoopInfo {
    const EMPTY: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; NAME_BYTES],
        crypt_name: [0; NAME_BYTES],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// A loop device, open.
#[derive(Debug)]
pub struct LoopDevice {
    device: File,
    path: PathBuf,
}

impl LoopDevice {
    /// Makes a device of `file`. It goes when nobody has it open or mounted any more.
    ///
    /// # Errors
    /// The kernel's; `ENOENT` where it has no loop devices, `EBUSY` when all attempts were overtaken.
    pub fn attach(file: impl AsFd, read_only: bool, tag: &str) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        let descriptor = u32::try_from(file.as_fd().as_raw_fd());
        let mut config = LoopConfig {
            descriptor: descriptor.map_err(io::Error::other)?,
            block_size: 0,
            info: LoopInfo::EMPTY,
            reserved: [0; 8],
        };
        config.info.flags = AUTOCLEAR | if read_only { READ_ONLY } else { 0 };
        let tag = stored(tag);
        config.info.file_name[..tag.len()].copy_from_slice(tag);
        let mut last = io::Error::from_raw_os_error(libc::EBUSY);
        for _ in 0..TRIES_MAX {
            let device = Self::open(&PathBuf::from(format!("/dev/loop{}", free(&control)?)))?;
            // SAFETY: the descriptor is open, and `config` is laid out as `struct loop_config` and outlives the call.
            let done = unsafe {
                libc::ioctl(device.device.as_raw_fd(), LOOP_CONFIGURE, &raw const config)
            };
            if done == 0 {
                return Ok(device);
            }
            last = io::Error::last_os_error();
            if last.raw_os_error() != Some(libc::EBUSY) {
                break;
            }
        }
        Err(last)
    }

    /// Opens a device that may be there.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(path);
        // A device of a file that cannot be written opens for reading only.
        let device = device.or_else(|_| File::open(path))?;
        Ok(Self {
            device,
            path: path.to_owned(),
        })
    }

    /// Where it is, such as `/dev/loop7`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the one made with this tag, and still is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_tagged(&self, tag: &str) -> io::Result<bool> {
        let Some(info) = self.info()? else {
            return Ok(false);
        };
        let end = info.file_name.iter().position(|byte| *byte == 0);
        Ok(&info.file_name[..end.unwrap_or(NAME_BYTES)] == stored(tag))
    }

    /// Has it stay without users, or go with the last of them, which may be this one.
    ///
    /// # Errors
    /// The kernel's; `ENXIO` if it is a device of nothing.
    pub fn keep(&self, stay: bool) -> io::Result<()> {
        let Some(mut info) = self.info()? else {
            return Err(io::Error::from_raw_os_error(libc::ENXIO));
        };
        if stay {
            info.flags &= !AUTOCLEAR;
        } else {
            info.flags |= AUTOCLEAR;
        }
        // SAFETY: the descriptor is open, and `info` is laid out as `struct loop_info64` and outlives the call.
        let done =
            unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_STATUS64, &raw const info) };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Nothing if it is a device of nothing.
    fn info(&self) -> io::Result<Option<LoopInfo>> {
        let mut info = LoopInfo::EMPTY;
        // SAFETY: the descriptor is open, and `info` is laid out as `struct loop_info64` and may be written.
        let done =
            unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
        if done == 0 {
            return Ok(Some(info));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        }
    }
}

/// The number of a device that is not in use at this moment.
fn free(control: &File) -> io::Result<i32> {
    // SAFETY: the descriptor is open, and the call takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(number)
}

/// As much of a tag as there is room for, with a zero behind it: the end of a path tells more than its beginning.
fn stored(tag: &str) -> &[u8] {
    let bytes = tag.as_bytes();
    &bytes[bytes.len().saturating_sub(NAME_BYTES - 1)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_tag_the_end_is_kept() {
        assert_eq!(stored("/run/a"), b"/run/a");
        let long = format!("/run/{}/12/000", "x".repeat(80));
        assert_eq!(stored(&long).len(), 63);
        assert!(stored(&long).ends_with(b"x/12/000"));
    }
}

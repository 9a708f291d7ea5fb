//! A file system that stops answering, as an NFS volume does whose server is gone: by FUSE, with ourselves as the server.
//!
//! While it is dead nobody takes requests from the kernel. Whoever waits can be killed then, as with NFS; a server that had
//! taken the request and kept it would hold the process in the kernel for good.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use orlop_sys::mount::{Unmount, mount_all, unmount_all};
use orlop_types::Mount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsRawFd;
use rustix::fs::OFlags;

use crate::Scratch;

const DEVICE: &str = "/dev/fuse";

/// More than the kernel ever sends at once to who takes no writes of more than a page.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Between two looks at whether it is dead, or to end.
const LOOK_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Requests of `linux/fuse.h` that get an answer; of all others it is said that they are not there.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The one folder below the root; every name is its.
const FOLDER_NODE: u64 = 2;

const FOLDER_MODE: u32 = 0o040_755;

const ENOSYS: i32 = 38;

/// A mounted file system, alive at first. Every name below its root is an empty folder.
#[derive(Debug)]
pub struct DeadVolume {
    mountpoint: PathBuf,
    is_dead: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl DeadVolume {
    /// Mounts it in the scratch folder.
    ///
    /// # Errors
    /// There is no FUSE, or this is not root.
    pub fn mount(scratch: &Scratch) -> Result<Self> {
        let mountpoint = scratch.folder("volume")?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let device = rustix::fs::open(DEVICE, flags, rustix::fs::Mode::empty());
        let device = File::from(device.with_context(|| format!("cannot open {DEVICE}"))?);
        let mount = Mount {
            fs_type: "fuse".to_owned(),
            source: "dead-volume".to_owned(),
            target: String::new(),
            options: vec![
                format!("fd={}", device.as_raw_fd()),
                "rootmode=40000".to_owned(),
                "user_id=0".to_owned(),
                "group_id=0".to_owned(),
                "allow_other".to_owned(),
            ],
        };
        mount_all(&[mount], &mountpoint)?;
        let (is_dead, is_over) = (Arc::default(), Arc::default());
        let flags = (Arc::clone(&is_dead), Arc::clone(&is_over));
        let server = std::thread::spawn(move || serve(device, &flags.0, &flags.1));
        Ok(Self {
            mountpoint,
            is_dead,
            is_over,
            server: Some(server),
        })
    }

    /// A folder on it, which is looked up at every access.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.mountpoint.join("data")
    }

    /// Its server is gone, or back.
    pub fn set_dead(&self, is_dead: bool) {
        self.is_dead.store(is_dead, Ordering::SeqCst);
    }
}

/// Closing the device makes every request that waits fail.
impl Drop for DeadVolume {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let ended = self.server.take().map(JoinHandle::join);
        if let Some(Err(_panic)) = ended {
            crate::daemon::complain("the server of a dead volume panicked");
        }
        let how = Unmount {
            detach: true,
            recursive: true,
        };
        if let Err(error) = unmount_all(&self.mountpoint, how) {
            crate::daemon::complain(&format!("a dead volume stays: {error}"));
        }
    }
}

fn serve(mut device: File, is_dead: &AtomicBool, is_over: &AtomicBool) {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    while !is_over.load(Ordering::SeqCst) {
        if is_dead.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(20));
            continue;
        }
        let mut watched = [PollFd::new(&device, PollFlags::IN)];
        if poll(&mut watched, Some(&LOOK_INTERVAL)).is_err() || watched[0].revents().is_empty() {
            continue;
        }
        // It may have died while nobody asked.
        if is_dead.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(length) = device.read(&mut buffer) else {
            continue;
        };
        let answer = Request::read(&buffer[..length]).and_then(|request| request.answer());
        // Whoever asked may have gone.
        answer.map(|answer| device.write(&answer).ok());
    }
}

/// The head of `fuse_in_header`.
#[derive(Debug, Clone, Copy)]
struct Request {
    opcode: u32,
    unique: u64,
    node: u64,
}

impl Request {
    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            opcode: word(4)?,
            unique: long(8)?,
            node: long(16)?,
        })
    }

    fn answer(self) -> Option<Vec<u8>> {
        match self.opcode {
            FORGET | INTERRUPT | BATCH_FORGET => None,
            INIT => Some(self.message(0, &init())),
            GETATTR => Some(self.message(0, &[vec![0; 16], attributes(self.node)].concat())),
            LOOKUP => Some(self.message(0, &entry())),
            _ => Some(self.message(-ENOSYS, &[])),
        }
    }

    fn message(self, error: i32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(error.to_ne_bytes());
        message.extend(self.unique.to_ne_bytes());
        message.extend(body);
        message
    }
}

/// `fuse_init_out`: version 7.31, nothing special.
fn init() -> Vec<u8> {
    let words: [u32; 4] = [7, 31, 0, 0];
    let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    out.extend(12_u16.to_ne_bytes());
    out.extend(9_u16.to_ne_bytes());
    out.extend(4096_u32.to_ne_bytes());
    out.extend(1_u32.to_ne_bytes());
    out.resize(64, 0);
    out
}

/// `fuse_entry_out`, valid for no time at all.
fn entry() -> Vec<u8> {
    let mut out = FOLDER_NODE.to_ne_bytes().to_vec();
    out.resize(40, 0);
    out.extend(attributes(FOLDER_NODE));
    out
}

/// `fuse_attr` of a folder.
fn attributes(node: u64) -> Vec<u8> {
    let mut out = node.to_ne_bytes().to_vec();
    out.resize(60, 0);
    out.extend(FOLDER_MODE.to_ne_bytes());
    out.extend(2_u32.to_ne_bytes());
    out.resize(88, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_lengths_the_kernel_insists_on() {
        let of = |opcode| {
            let request = Request {
                opcode,
                unique: 7,
                node: 1,
            };
            request.answer().map(|answer| answer.len())
        };
        assert_eq!(of(INIT), Some(16 + 64));
        assert_eq!(of(GETATTR), Some(16 + 16 + 88));
        assert_eq!(of(LOOKUP), Some(16 + 40 + 88));
        assert_eq!((of(FORGET), of(35)), (None, Some(16)));
    }
}

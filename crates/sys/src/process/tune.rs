//! What a process says about itself to the kernel and to the allocator.
#![allow(unsafe_code, reason = "mallopt exists only in libc")]

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

const SCORE_FILE: &str = "/proc/self/oom_score_adj";

/// How willingly the kernel kills a process when memory runs out, −1000 (never) to 1000 (first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OomScore(pub i16);

impl OomScore {
    /// The score of this process, which its children inherit.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn current() -> io::Result<Self> {
        let text = fs::read_to_string(SCORE_FILE)?;
        let score = text.trim().parse();
        score
            .map(Self)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Sets the score of this process. Lowering it needs `CAP_SYS_RESOURCE`, unless it has been that low before.
    ///
    /// # Errors
    /// The kernel refuses.
    #[allow(
        clippy::disallowed_methods,
        reason = "a file of the kernel: it is atomic and needs no sync"
    )]
    pub fn apply(self) -> io::Result<()> {
        fs::write(SCORE_FILE, self.0.to_string())
    }
}

/// Runs `start` with `score`, so that a child started in there inherits it, and returns to the former score.
///
/// Only for single-threaded programs: the score belongs to the whole process.
///
/// # Errors
/// What `start` says. That the score could not be changed is left alone: the child then inherits ours.
pub fn with_oom_score<T>(score: OomScore, start: impl FnOnce() -> T) -> T {
    let own = OomScore::current().ok().filter(|own| *own != score);
    let changed = own.filter(|_| score.apply().is_ok());
    let started = start();
    if let Some(own) = changed {
        // Lowering may be refused here; then the score stays the higher one, which is safe for others.
        drop(own.apply());
    }
    started
}

/// Makes orphaned descendants children of this process, so that it learns how they end.
///
/// # Errors
/// The kernel refuses.
pub fn become_subreaper() -> io::Result<()> {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).map_err(io::Error::from)
}

/// The first descriptor after the standard ones, which [`super::Spawn::extra_fd`] of the parent has handed over.
///
/// # Errors
/// There is none, or it was taken before.
pub fn take_inherited_fd() -> io::Result<OwnedFd> {
    const FIRST: i32 = 3;
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::other(
            "the inherited descriptor was taken before",
        ));
    }
    // SAFETY: only looked at; a number that is not open is answered with EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(FIRST) };
    let flags = rustix::io::fcntl_getfd(fd)?;
    if flags.contains(rustix::io::FdFlags::CLOEXEC) {
        // Everything that this program opened itself closes on exec: this one is somebody else's.
        return Err(io::Error::other("no descriptor was inherited"));
    }
    rustix::io::fcntl_setfd(fd, flags | rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: open, inherited as just checked, and given out once.
    Ok(unsafe { OwnedFd::from_raw_fd(FIRST) })
}

/// Makes glibc's allocator give memory back at once, for processes of which a node has hundreds.
pub fn keep_heap_small() {
    const TRIM_BYTES: i32 = 16 << 10;
    const MMAP_BYTES: i32 = 64 << 10;
    // SAFETY: mallopt takes numbers only. It fails only for unknown parameters, which changes nothing.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_BYTES);
        libc::mallopt(libc::M_TOP_PAD, 0);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

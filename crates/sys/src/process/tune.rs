//! What a process says about itself to the kernel and to the allocator.
#![allow(unsafe_code, reason = "mallopt exists only in libc")]

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const SCORE_FILE: &str = "/proc/self/oom_score_adj";
const MAPS_FILE: &str = "/proc/self/smaps";
const PROGRAM_LINK: &str = "/proc/self/exe";

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

/// Gives memory back that an idle process does not need: free heap, and pages of programs and libraries that the kernel
/// reads again from its cache when they are touched.
///
/// Only for single-threaded programs.
///
/// # Errors
/// `/proc` is not there. What could be given back before was.
pub fn shed_memory() -> io::Result<()> {
    let maps = fs::read_to_string(MAPS_FILE)?;
    drop_pages(clean_file_pages(&maps, |path| path.starts_with('/')));
    trim_heap();
    Ok(())
}

/// As [`shed_memory`] for programs with threads: of all mappings only the program's own, because no thread ever takes
/// those away. Its next work maps what it touches again, 64 KiB with every fault.
///
/// # Errors
/// `/proc` is not there. What could be given back before was.
pub fn shed_memory_of_threads() -> io::Result<()> {
    trim_heap();
    let program = fs::read_link(PROGRAM_LINK)?;
    let maps = fs::read_to_string(MAPS_FILE)?;
    drop_pages(clean_file_pages(&maps, |path| Path::new(path) == program));
    Ok(())
}

fn drop_pages(ranges: Vec<(usize, usize)>) {
    for (start, length) in ranges {
        let address = std::ptr::without_provenance_mut(start);
        // SAFETY: the range is a private mapping of a file, not writable and without a single page of its own (no
        // relocation has been written to it), so every dropped page comes back as it was; a failure changes nothing.
        // Nobody has unmapped it since it was listed: there is no other thread, or it is the program itself.
        unsafe { libc::madvise(address, length, libc::MADV_DONTNEED) };
    }
}

/// Read-only mappings of files that hold nothing but the file, as `(start, length)`.
fn clean_file_pages(smaps: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(range) = mapping(line, &is_wanted) {
            candidate = range;
        } else if line.starts_with("Anonymous:")
            && line.ends_with(" 0 kB")
            && let Some(range) = candidate.take()
        {
            found.push(range);
        }
    }
    found
}

/// Whether a line begins a mapping, and its range if it is one of a wanted file that nobody writes to.
///
/// `55d0-55d4 r-xp 00001000 fe:00 1234      /bin/x`
fn mapping(line: &str, is_wanted: impl Fn(&str) -> bool) -> Option<Option<(usize, usize)>> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let mode = words.next()?;
    let path = words.nth(3).unwrap_or_default().trim_start();
    let is_clean = matches!(mode, "r-xp" | "r--p") && is_wanted(path);
    Some(is_clean.then(|| (start, end.saturating_sub(start))))
}

/// Gives free heap back to the kernel, in all arenas. Other threads wait for theirs meanwhile.
fn trim_heap() {
    // SAFETY: the allocator takes its own locks and releases only what is free.
    unsafe { libc::malloc_trim(0) };
}

/// Has all threads share this many heaps. Without it glibc makes up to eight for each processor, and what one thread
/// has freed is no use to the others. To be called before the first thread is started.
pub fn limit_heap_arenas(arenas_max: i32) {
    // SAFETY: mallopt takes numbers only. It fails only for unknown parameters, which changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas_max) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_untouched_pages_of_wanted_files_are_shed() {
        let smaps = "1000-3000 r-xp 0 fe:00 1            /bin/x y\nAnonymous:             0 kB\n\
            3000-4000 r--p 0 fe:00 1            /bin/x y\nAnonymous:             4 kB\n\
            4000-5000 rw-p 0 fe:00 1            /bin/x y\nAnonymous:             0 kB\n\
            5000-6000 r--p 0 00:00 0            [vvar]\nAnonymous:             0 kB\n\
            6000-7000 r--s 0 fe:00 1            /bin/x y\nAnonymous:             0 kB\n\
            7000-8000 r--p 0 00:00 0 \nAnonymous:             0 kB\n\
            8000-9000 r--p 0 fe:00 1            /lib/z\nAnonymous:             0 kB\n";
        let all = clean_file_pages(smaps, |path| path.starts_with('/'));
        assert_eq!(all, [(0x1000, 0x2000), (0x8000, 0x1000)]);
        let own = clean_file_pages(smaps, |path| path == "/bin/x y");
        assert_eq!(own, [(0x1000, 0x2000)]);
    }

    #[test]
    fn threads_go_on_while_their_program_is_shed() {
        let pages = || {
            let smaps = fs::read_to_string(MAPS_FILE).unwrap();
            let program = fs::read_link(PROGRAM_LINK).unwrap();
            clean_file_pages(&smaps, |path| Path::new(path) == program)
        };
        assert!(!pages().is_empty());
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| (0..1000).map(|n: u64| n.to_string().len()).sum::<usize>());
            for _ in 0..10 {
                shed_memory_of_threads().unwrap();
            }
            assert_eq!(busy.join().unwrap(), 2890);
        });
        assert!(!pages().is_empty());
    }

    #[test]
    fn freed_heap_is_given_back_while_other_threads_allocate() {
        const PIECES: usize = 20_000;
        let resident = || {
            let text = fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
            pages * 4096
        };
        // Pieces small enough to come from the heap; the last one keeps the top of the heap in use.
        let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; 4096]).collect();
        let last = pieces.pop();
        let full = resident();
        drop(pieces);
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| (1..1000).map(|size| vec![1_u8; size].len()).sum::<usize>());
            trim_heap();
            assert_eq!(busy.join().unwrap(), 499_500);
        });
        assert!(resident() + (PIECES as u64 * 4096) / 2 < full);
        drop(last);
    }

    #[test]
    fn a_process_goes_on_after_shedding() {
        shed_memory().unwrap();
        assert!(OomScore::current().is_ok());
    }
}

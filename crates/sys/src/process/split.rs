//! Going on as two processes, without executing a program again.
#![allow(unsafe_code, reason = "fork exists only in libc")]

use std::io;

use rustix::fs::{Mode, OFlags};

/// Which of the two processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The one that was there before, with the id of the new one.
    Parent(i32),
    /// The new one: in a process group of its own, with `/dev/null` for standard descriptors.
    Child,
}

/// Goes on as two processes that have the same memory and descriptors, for a program that leaves a server behind:
/// loading and linking it once more would take as long as all it has done so far.
///
/// Only for programs of one thread. Neither ends the other or waits for it.
///
/// # Errors
/// This program has more threads, or the machine is out of processes or descriptors. Then there is one process.
pub fn split() -> io::Result<Half> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        let reason = "a program of several threads cannot go on as two processes";
        return Err(io::Error::other(reason));
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open(c"/dev/null", flags, Mode::empty())?;
    // SAFETY: this is the only thread, as just seen: no other one holds a lock or has memory half changed that the
    // child would be left with.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let detached = rustix::process::setpgid(None, None)
                .and_then(|()| rustix::stdio::dup2_stdin(&null))
                .and_then(|()| rustix::stdio::dup2_stdout(&null))
                .and_then(|()| rustix::stdio::dup2_stderr(&null));
            if detached.is_err() {
                // Whoever reads the parent's output would wait for this process; and the parent's word is the one that counts.
                std::process::exit(1);
            }
            Ok(Half::Child)
        }
        child => Ok(Half::Parent(child)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_several_threads_is_refused() {
        // The test runner's own thread is there besides this one.
        assert!(split().is_err());
    }
}

//! Child processes: started without leaks, waited for without losses.
//!
//! Purpose: the one home of starting programs. A child gets exactly the descriptors it is given, default signal
//! dispositions and an empty signal mask, by `posix_spawn`, so that a large or threaded parent pays no fork and no
//! code of ours runs between clone and exec. A program of one thread may leave its own server behind ([`split()`]).
//!
//! Non-goals: asynchronous waiting (poll [`Child::pidfd`]), privileges; but for [`confine()`], namespaces.
//!
//! Ordering: a [`Child`] holds a pidfd, so signals and waits never hit a process that took over its id.
//! Cancellation: dropping a [`Child`] neither ends nor reaps it. Crash: children go on.
//!
//! Entry points: [`Spawn`], [`run()`], [`reap_next`], [`split()`].

mod confine;
mod memory;
mod run;
mod spawn;
mod split;
mod stranger;
mod tree;
mod tune;

use std::io;

use rustix::process::{Pid, WaitOptions};

pub use confine::{confine, enter_and_unshare, enter_as_superuser};
pub use memory::memory_bytes;
pub use run::{Finished, RunError, in_memory, run, sealed_in_memory};
pub use spawn::{Child, Input, Spawn, SpawnError};
pub use split::{Half, split};
pub use stranger::Stranger;
pub use tree::kill_tree;
pub use tune::{
    OomScore, become_subreaper, keep_heap_small, limit_heap_arenas, shed_memory,
    shed_memory_of_threads, take_inherited_fd, with_oom_score,
};

/// What the kernel says about the end of a process: `wait(2)`'s status, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RawStatus(pub i32);

impl RawStatus {
    /// The code the process itself ended with.
    #[must_use]
    pub fn exit_code(self) -> Option<i32> {
        libc::WIFEXITED(self.0).then(|| libc::WEXITSTATUS(self.0))
    }

    /// The signal that ended the process.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        libc::WIFSIGNALED(self.0).then(|| libc::WTERMSIG(self.0))
    }

    /// One number as shells and containerd give it: the code, or 128 plus the signal. It cannot tell the two apart.
    #[must_use]
    pub fn shell_code(self) -> u32 {
        let code = self
            .exit_code()
            .or_else(|| self.signal().map(|signal| 128 + signal));
        code.and_then(|code| u32::try_from(code).ok())
            .unwrap_or(255)
    }
}

/// Takes the next ended child off the kernel's list, if there is one. For programs that own all their children.
///
/// # Errors
/// The kernel refuses for a reason other than there being no child.
pub fn reap_next() -> io::Result<Option<(i32, RawStatus)>> {
    loop {
        return match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => Ok(Some((
                pid.as_raw_nonzero().get(),
                RawStatus(status.as_raw()),
            ))),
            Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Whether a process exists, a zombie included.
#[must_use]
pub fn exists(pid: i32) -> bool {
    // rustix takes negative numbers, which mean groups elsewhere, as a fault of the program.
    let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw);
    pid.is_some_and(|pid| {
        !matches!(
            rustix::process::test_kill_process(pid),
            Err(rustix::io::Errno::SRCH)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_raw_status_tells_an_exit_with_137_from_a_kill() {
        let exited = RawStatus(0x8900);
        let killed = RawStatus(9);
        assert_eq!((exited.exit_code(), exited.signal()), (Some(137), None));
        assert_eq!((killed.exit_code(), killed.signal()), (None, Some(9)));
        assert_eq!((exited.shell_code(), killed.shell_code()), (137, 137));
    }

    #[test]
    fn process_one_exists_and_zero_is_nobody() {
        assert!(exists(1));
        assert!(!exists(0));
        assert!(!exists(-1));
    }
}

//! A process that does nothing but hold a new user namespace until it has been pinned.
#![allow(
    unsafe_code,
    reason = "ptrace exists only in libc; unshare is unsafe in general"
)]

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use orlop_types::IdRange;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_parent_process_death_signal,
    waitpid,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::Kind;
use crate::process::{Child, Input, Spawn};

/// What the process says when it has its namespaces.
const READY: &[u8] = b"ready";

/// The most that is read of what it says instead.
const ANSWER_BYTES_MAX: usize = 4096;

/// Between its word and its stop lies one system call.
const STOP_LOOK: Duration = Duration::from_micros(100);

/// Moves this program into a new user namespace, and into new ones that belong to it, then stops for ever: its starter
/// traces it, so that it cannot run on, and ends it. The arguments are the starter's number and the other namespaces' names.
///
/// Only for programs of one thread. Ends with its starter, whatever happens.
///
/// # Errors
/// The kernel refuses, the starter has gone, or the arguments are wrong. There is no other way to return.
pub fn hold(mut args: impl Iterator<Item = String>) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "the command line is wrong");
    let starter = args.next().and_then(|word| word.parse().ok());
    let starter: i32 = starter.ok_or_else(wrong)?;
    let kinds: Option<Vec<_>> = args.map(|word| Kind::named(&word)).collect();
    let flags = kinds
        .ok_or_else(wrong)?
        .into_iter()
        .fold(UnshareFlags::NEWUSER, |flags, kind| flags | kind.flag());
    die_with(starter)?;
    // SAFETY: the program has one thread and shares neither descriptors nor memory with another.
    unsafe { unshare_unsafe(flags) }?;
    // A change of credentials may have taken the arrangement back.
    die_with(starter)?;
    // SAFETY: PTRACE_TRACEME takes no further argument. Where a security module refuses it, the stop below is an ordinary
    // one, and what was arranged above still ends this process.
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    io::stdout().write_all(READY)?;
    io::stdout().flush()?;
    loop {
        kill_process(getpid(), Signal::STOP)?;
        die_with(starter)?;
    }
}

fn die_with(starter: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if parent == starter {
        return Ok(());
    }
    Err(io::Error::other("whoever started this process has gone"))
}

/// A holder that is stopped. Ended and reaped when dropped.
pub(super) struct Held {
    child: Child,
}

impl Held {
    /// Starts `holder`, a program that calls [`hold`], and waits until it is stopped. To be called, used and dropped on one
    /// thread: a tracer is a thread, and the holder ends with it.
    pub(super) fn start(holder: Spawn<'_>, limit: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + limit;
        let (mut said, sayer) = io::pipe()?;
        let child = holder
            .stdout(Input::Fd(sayer.as_fd()))
            .stderr(Input::Fd(sayer.as_fd()))
            .start()
            .map_err(|error| io::Error::new(error.source.kind(), error))?;
        let held = Self { child };
        drop(sayer);
        let mut answer = Vec::new();
        while answer != READY {
            await_readable(&said, deadline)?;
            let mut bytes = [0; 256];
            let count = said.read(&mut bytes)?;
            answer.extend_from_slice(&bytes[..count]);
            if count == 0 || answer.len() > ANSWER_BYTES_MAX {
                let answer = String::from_utf8_lossy(&answer).trim().to_owned();
                return Err(io::Error::other(answer));
            }
        }
        held.await_stop(deadline)?;
        held.bind_to_tracer();
        Ok(held)
    }

    fn await_stop(&self, deadline: Instant) -> io::Result<()> {
        let pid = Pid::from_raw(self.child.pid());
        let options = WaitOptions::UNTRACED | WaitOptions::NOHANG;
        while Instant::now() < deadline {
            match waitpid(pid, options)? {
                Some((_, status)) if status.stopped() => return Ok(()),
                Some(_) => return Err(io::Error::other("the holder ended")),
                None => std::thread::sleep(STOP_LOOK),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The kernel ends it with its tracer, on top of what it arranged itself.
    fn bind_to_tracer(&self) {
        // SAFETY: the request takes numbers only; it fails for a process that this thread does not trace, which changes
        // nothing.
        unsafe {
            libc::ptrace(
                libc::PTRACE_SETOPTIONS,
                self.child.pid(),
                0,
                libc::PTRACE_O_EXITKILL,
            )
        };
    }

    /// A file of it in `/proc`. The number is its own: it is a child of this process that nobody has reaped.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.pid()))
    }

    /// Whether it still runs: then what was opened before was opened of this process.
    pub(super) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.child.pidfd(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Writes a map and reads it back: what the kernel took is what was meant.
    pub(super) fn map(&self, name: &'static str, ranges: &[IdRange]) -> io::Result<()> {
        let lines: Vec<_> = ranges.iter().map(ToString::to_string).collect();
        let text = lines.join("\n");
        let path = self.file(name);
        // The kernel takes a map in one write.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)?
            .write_all(text.as_bytes())?;
        let taken = std::fs::read_to_string(&path)?;
        if words(&taken) == words(&text) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the kernel took {taken:?} for {text:?}"
        )))
    }
}

/// The kernel may show ranges in another order, and in columns.
fn words(map: &str) -> Vec<Vec<&str>> {
    let mut lines: Vec<Vec<_>> = map
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    lines.sort();
    lines
}

impl Drop for Held {
    fn drop(&mut self) {
        // A child that is not reaped can be signalled and waited for; a stop does not keep it from being killed, but may
        // be what is told first.
        if self.child.signal(Signal::KILL).is_ok() {
            let is_stop = |status: crate::process::RawStatus| {
                status.exit_code().is_none() && status.signal().is_none()
            };
            while self.child.wait().is_ok_and(is_stop) {}
        }
    }
}

fn await_readable(pipe: impl AsFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).unwrap_or_default();
    let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
    loop {
        return match poll(&mut fds, Some(&timeout)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

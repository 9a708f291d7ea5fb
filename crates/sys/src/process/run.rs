//! Runs a program to its end, with a deadline and a bound on what it may say.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use super::{Input, RawStatus, Spawn, SpawnError};

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: RawStatus,
    /// What it wrote to descriptor 1, cut at the limit.
    pub stdout: Vec<u8>,
    /// What it wrote to descriptor 2, cut at the limit.
    pub stderr: Vec<u8>,
}

/// Why there is no [`Finished`].
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It did not end in time, and was killed.
    #[error("no end within {timeout:?}")]
    TimedOut {
        /// The time given.
        timeout: Duration,
    },
    /// Pipes or waiting failed.
    #[error("cannot follow the program")]
    Io(#[from] io::Error),
}

/// Starts `spawn`, collects both outputs up to `limit_bytes` each, and waits. On its deadline the program is killed.
///
/// Not for programs that reap all children themselves ([`super::reap_next`]).
///
/// # Errors
/// See [`RunError`]. The program has ended in every case.
pub fn run(spawn: Spawn<'_>, timeout: Duration, limit_bytes: usize) -> Result<Finished, RunError> {
    let (stdout_reader, stdout_writer) = pipe()?;
    let (stderr_reader, stderr_writer) = pipe()?;
    let child = spawn
        .stdout(Input::Fd(stdout_writer.as_fd()))
        .stderr(Input::Fd(stderr_writer.as_fd()))
        .start()?;
    drop((stdout_writer, stderr_writer));
    let mut outputs = [
        Output::new(stdout_reader, limit_bytes),
        Output::new(stderr_reader, limit_bytes),
    ];
    let deadline = Instant::now() + timeout;
    let in_time = collect(&child, &mut outputs, deadline);
    if !matches!(in_time, Ok(true)) {
        child.signal(Signal::KILL)?;
    }
    let status = child.wait()?;
    if !in_time? {
        return Err(RunError::TimedOut { timeout });
    }
    for output in &mut outputs {
        output.read_ready()?;
    }
    let [stdout, stderr] = outputs.map(|output| output.bytes);
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// A file in memory that holds `content`, to be a program's standard input: unlike a pipe it cannot block its writer.
/// `name` shows in `/proc`.
///
/// # Errors
/// The kernel has no memory or no descriptor left.
pub fn in_memory(name: &str, content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// An executable in memory that nobody can change any more, to be started as `/proc/self/fd/N`: what can reach a process's
/// executable through `/proc` finds neither the file on disk nor anything to write to.
///
/// # Errors
/// `program` cannot be read, or the kernel has no memory or no descriptor left.
pub fn sealed_in_memory(name: &str, program: &std::path::Path) -> io::Result<File> {
    let mut program = File::open(program)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    io::copy(&mut program, &mut file)?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o555))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // Only our end: a program does not expect its own output to be non-blocking.
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader, writer))
}

/// Reads until the child has ended; `false` when the deadline came first.
fn collect(child: &super::Child, outputs: &mut [Output; 2], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::from_borrowed_fd(child.pidfd(), PollFlags::IN)];
        for output in outputs.iter().filter(|output| !output.ended) {
            fds.push(PollFd::new(&output.pipe, PollFlags::IN));
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = !fds[0].revents().is_empty();
        drop(fds);
        if ended {
            return Ok(true);
        }
        for output in &mut *outputs {
            output.read_ready()?;
        }
    }
}

struct Output {
    pipe: File,
    bytes: Vec<u8>,
    limit_bytes: usize,
    ended: bool,
}

impl Output {
    fn new(pipe: OwnedFd, limit_bytes: usize) -> Self {
        Self {
            pipe: pipe.into(),
            bytes: Vec::new(),
            limit_bytes,
            ended: false,
        }
    }

    /// Reads what is there. Beyond the limit bytes are dropped, so that the program never blocks on us.
    fn read_ready(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while !self.ended {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    let room = self.limit_bytes.saturating_sub(self.bytes.len());
                    self.bytes.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Spawn<'static> {
        Spawn::new("sh").arg("-c").arg(script)
    }

    fn text(script: &str) -> (u32, String, String) {
        let done = run(shell(script), Duration::from_secs(20), 1 << 20).unwrap();
        (
            done.status.shell_code(),
            String::from_utf8(done.stdout).unwrap(),
            String::from_utf8(done.stderr).unwrap(),
        )
    }

    #[test]
    fn output_and_status_are_collected() {
        let expected = (3, "out".to_owned(), "err".to_owned());
        assert_eq!(text("printf out; printf err >&2; exit 3"), expected);
    }

    #[test]
    fn no_descriptor_leaks_into_a_child_even_without_close_on_exec() {
        let leak = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
        // The listing itself holds one more descriptor open.
        let (_, out, _) = text("ls /proc/self/fd | wc -l");
        assert_eq!(out.trim(), "4");
    }

    #[test]
    fn extra_descriptors_arrive_in_order_whatever_their_numbers_were() {
        let null = File::open("/dev/null").unwrap();
        let zero = File::open("/dev/zero").unwrap();
        let spawn = shell("readlink /proc/$$/fd/3 /proc/$$/fd/4")
            .extra_fd(zero.as_fd())
            .extra_fd(null.as_fd());
        let done = run(spawn, Duration::from_secs(20), 100).unwrap();
        assert_eq!(done.stdout, b"/dev/zero\n/dev/null\n");
    }

    #[test]
    fn signals_are_neither_blocked_nor_ignored_in_a_child() {
        /// 32 and 33, which glibc keeps for itself and ignores in everything it spawns.
        const GLIBC_OWN: u64 = 0x1_8000_0000;
        let (_, out, _) = text("grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2");
        let masks: Vec<u64> = out
            .lines()
            .map(|line| u64::from_str_radix(line, 16).unwrap() & !GLIBC_OWN)
            .collect();
        assert_eq!(masks, [0, 0]);
    }

    #[test]
    fn environment_and_folder_are_as_given() {
        let spawn = shell("echo $A; pwd").env("A", "b").dir("/");
        let done = run(spawn, Duration::from_secs(20), 100).unwrap();
        assert_eq!(done.stdout, b"b\n/\n");
    }

    #[test]
    fn what_exceeds_the_limit_is_dropped_without_blocking_the_program() {
        let done = run(shell("yes | head -c 1000000"), Duration::from_secs(20), 10).unwrap();
        assert_eq!(done.stdout, b"y\ny\ny\ny\ny\n");
        assert_eq!(done.status, RawStatus(0));
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let refused = run(shell("sleep 1000"), Duration::from_millis(50), 10);
        assert!(matches!(refused, Err(RunError::TimedOut { .. })));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let refused = run(Spawn::new("/no/such"), Duration::from_secs(1), 10);
        let Err(RunError::Spawn(error)) = refused else {
            panic!("it started");
        };
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "cannot start \"/no/such\"");
    }
}

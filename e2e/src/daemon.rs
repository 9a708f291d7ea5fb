//! A server that is started for a run and ended with it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use orlop_sys::process::{Child, Input, RawStatus, Spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

/// How long a server may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at something that is about to happen.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The last lines of a log that are told when a server fails.
const LOG_LINES_TOLD: usize = 20;

/// A folder that gets the whole log of a server that was running when a test failed.
const LOGS_VARIABLE: &str = "ORLOP_E2E_LOGS";

/// A running server. Dropping it ends it: first with SIGTERM, then with SIGKILL.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Daemon {
    /// Starts a program with both its outputs in the file `log`, to which it adds.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, spawn: Spawn<'_>, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let output = Input::Fd(file.as_fd());
        let child = spawn.own_group().stdout(output).stderr(output).start()?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            ended: false,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// The server ends before, or it takes too long; the end of its log is in the message.
    pub fn wait_until(&self, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            let over = wait_for_end(self.child.pidfd(), LOOK_INTERVAL);
            if over || Instant::now() >= deadline {
                let what = if over { "ended" } else { "does not answer" };
                bail!("{} {what}:\n{}", self.name, self.log_end());
            }
        }
        Ok(())
    }

    /// Asks it to end, waits, and gives its status; one that does not listen is killed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn end(mut self) -> Result<RawStatus> {
        self.end_with(Signal::TERM)
    }

    /// Kills it where it stands.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(mut self) -> Result<RawStatus> {
        self.end_with(Signal::KILL)
    }

    fn end_with(&mut self, signal: Signal) -> Result<RawStatus> {
        self.ended = true;
        self.child.signal(signal)?;
        if !wait_for_end(self.child.pidfd(), PATIENCE) {
            complain(&format!("{} does not end, and is killed", self.name));
            self.child.signal(Signal::KILL)?;
        }
        let status = self.child.wait();
        status.with_context(|| format!("cannot wait for {}", self.name))
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let first = lines.len().saturating_sub(LOG_LINES_TOLD);
        lines[first..].join("\n")
    }

    fn keep_log(&self) {
        let Some(folder) = std::env::var_os(LOGS_VARIABLE).map(PathBuf::from) else {
            return;
        };
        let kept = folder.join(format!("{}-{}.log", self.name, self.pid()));
        if let Err(error) = std::fs::copy(&self.log, &kept) {
            complain(&format!("cannot keep {}: {error}", kept.display()));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if std::thread::panicking() {
            complain(&format!(
                "the log of {} ends:\n{}",
                self.name,
                self.log_end()
            ));
            self.keep_log();
        }
        if let Err(error) = self.end_with(Signal::TERM) {
            complain(&format!("{error:#}"));
        }
    }
}

/// Whether the process ends within `timeout`.
pub(crate) fn wait_for_end(process: impl AsFd, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        let mut watched = [PollFd::new(&process, PollFlags::IN)];
        match poll(&mut watched, left.as_ref()) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Tells of what goes wrong while everything is taken away, which fails nothing.
pub(crate) fn complain(text: &str) {
    // Nobody may be there to read it.
    writeln!(std::io::stderr(), "{text}").ok();
}

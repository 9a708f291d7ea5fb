//! What the server knows of a container and its processes.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use orlop_sys::cgroup::{Cgroup, MemoryCounters, OomWatch};
use orlop_sys::process::RawStatus;
use orlop_types::exit::Moment;

use crate::fault::Fault;
use crate::runtime::Runtime;
use crate::stdio::{Kept, Terms};

/// Who waits for an answer: a connection and its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) connection: u32,
    pub(super) stream: u32,
}

/// Where a process stands. `Paused` is the container's matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The runtime is making it; nobody else may touch it.
    Creating,
    /// There, not started. An exec has no process id yet.
    Created,
    /// The runtime is starting it.
    Starting,
    /// Runs.
    Running,
    /// Ended.
    Stopped,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exit {
    pub(super) status: u32,
    pub(super) at: Moment,
}

/// A process: the container's own, or an exec.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) terms: Terms,
    pub(super) state: State,
    pub(super) pid: i32,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) started: Moment,
    pub(super) exit: Option<Exit>,
    pub(super) waiters: Vec<Caller>,
    pub(super) kept: Kept,
    /// An exec's OCI process, until it is started.
    pub(super) spec: Vec<u8>,
    /// The last signal sent for a caller, and the OOM kills counted before.
    pub(super) sent_signal: Option<(i32, u64)>,
    /// Who waits for the deletion, and when it no longer waits for output.
    pub(super) deleting: Option<(Caller, Duration)>,
}

impl Process {
    pub(super) fn new(terms: Terms, spec: Vec<u8>, state: State) -> Self {
        Self {
            terms,
            state,
            pid: 0,
            pidfd: None,
            started: Moment::default(),
            exit: None,
            waiters: Vec::new(),
            kept: Kept::default(),
            spec,
            sent_signal: None,
            deleting: None,
        }
    }
}

/// A container and all its processes.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) bundle: PathBuf,
    pub(super) runtime: Runtime,
    pub(super) has_rootfs: bool,
    pub(super) own_pid_namespace: bool,
    pub(super) paused: bool,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) baseline: Vec<MemoryCounters>,
    pub(super) host_oom_kills: Option<u64>,
    pub(super) oom_watch: Option<OomWatch>,
    /// OOM kills already told, and when the last one was seen.
    pub(super) oom_kills_told: u64,
    pub(super) oom_seen: Option<Duration>,
    pub(super) init: Process,
    pub(super) execs: BTreeMap<String, Process>,
    /// Init's end, held back until the execs have ended.
    pub(super) held_exit: Option<(RawStatus, Moment)>,
}

impl Container {
    /// A process by exec id; empty for the container's own.
    pub(super) fn process(&self, exec: &str) -> Result<&Process, Fault> {
        match exec.is_empty() {
            true => Some(&self.init),
            false => self.execs.get(exec),
        }
        .ok_or_else(|| Fault::NotFound(format!("process {exec} does not exist: not found")))
    }

    /// As [`Container::process`], to change.
    pub(super) fn process_mut(&mut self, exec: &str) -> Result<&mut Process, Fault> {
        match exec.is_empty() {
            true => Some(&mut self.init),
            false => self.execs.get_mut(exec),
        }
        .ok_or_else(|| Fault::NotFound(format!("process {exec} does not exist: not found")))
    }

    /// The exec id of a living process; empty for the container's own.
    pub(super) fn living(&self, pid: i32) -> Option<&str> {
        let lives = |process: &Process| process.pid == pid && process.exit.is_none();
        // An end that is held back was reaped: its number may be somebody else's by now.
        if lives(&self.init) && self.held_exit.is_none() {
            return Some("");
        }
        self.execs
            .iter()
            .find(|(_, process)| lives(process))
            .map(|(id, _)| id.as_str())
    }

    /// Whether an exec still runs or is being started.
    pub(super) fn has_living_execs(&self) -> bool {
        self.execs.values().any(|process| match process.state {
            State::Starting | State::Running => true,
            State::Creating | State::Created | State::Stopped => false,
        })
    }

    /// OOM kills counted in the container's own group now.
    pub(super) fn oom_kills(&self) -> u64 {
        let kills = self.cgroup.as_ref().and_then(Cgroup::oom_kills);
        kills.unwrap_or(0)
    }
}

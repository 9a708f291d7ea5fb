//! Calls of the OCI runtime that are under way. Each has a deadline, after which it is killed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use orlop_sys::process::{Child, Input, RawStatus, Spawn, with_oom_score};
use rustix::process::Signal;

use super::Server;
use super::container::Caller;
use crate::bundle;
use crate::clock;
use crate::fault::Fault;
use crate::log;
use crate::runtime::last_error;

/// What happens when the call has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    /// Takes back a create that failed, whose fault is then told.
    Undo {
        message: String,
        step: &'static str,
    },
    Start,
    Exec {
        exec: String,
    },
    Kill,
    /// Ends what init left behind in a shared PID namespace.
    KillRest,
    Pause,
    Resume,
    Update,
    Delete,
    /// An event on its way by the engine's binary.
    Publish,
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Undo { step, .. } => step,
            Self::Start => "start",
            Self::Exec { .. } => "exec",
            Self::Kill | Self::KillRest => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Publish => "publish",
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(match self {
            Self::Create | Self::Delete | Self::Undo { .. } => 60,
            Self::Start | Self::Exec { .. } => 30,
            Self::Kill
            | Self::KillRest
            | Self::Pause
            | Self::Resume
            | Self::Update
            | Self::Publish => 15,
        })
    }
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) container: String,
    pub(super) step: Step,
    pub(super) caller: Option<Caller>,
    child: Child,
    log: PathBuf,
    deadline: Option<Duration>,
    silent: bool,
    /// Where the runtime sends a terminal's master.
    pub(super) console: Option<Console>,
}

/// A socket that receives one terminal.
#[derive(Debug)]
pub(super) struct Console {
    pub(super) listener: OwnedFd,
    pub(super) path: PathBuf,
}

impl Drop for Console {
    fn drop(&mut self) {
        // Gone already is as good.
        std::fs::remove_file(&self.path).ok();
    }
}

/// What a new job is about.
pub(super) struct Order<'fd> {
    pub(super) container: String,
    pub(super) step: Step,
    pub(super) caller: Option<Caller>,
    pub(super) call: Spawn<'fd>,
    pub(super) log: PathBuf,
    pub(super) console: Option<Console>,
}

impl Job {
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Whether a process may end before this job says which one it is.
    pub(super) fn makes_a_process(&self) -> bool {
        matches!(self.step, Step::Create | Step::Exec { .. })
    }

    /// What the runtime says about its end.
    fn outcome(&self, status: RawStatus) -> Result<(), Fault> {
        let log = bundle::read_bounded(&self.log).unwrap_or_default();
        // It is of no use to anyone else.
        std::fs::remove_file(&self.log).ok();
        let step = self.step.name();
        if self.silent {
            return Err(Fault::RuntimeSilent {
                step,
                seconds: self.step.timeout().as_secs(),
            });
        }
        if status.exit_code() == Some(0) {
            return Ok(());
        }
        let message =
            last_error(&String::from_utf8_lossy(&log)).unwrap_or_else(|| match status.signal() {
                Some(signal) => format!("it was killed by signal {signal}"),
                None => format!(
                    "it ended with code {} and said nothing",
                    status.shell_code()
                ),
            });
        Err(Fault::Runtime { step, message })
    }
}

impl Server {
    /// Starts a runtime call; the outcome comes to [`Server::finish_job`].
    pub(super) fn start_job(&mut self, order: Order<'_>) -> Result<(), Fault> {
        let start = || order.call.start();
        let child = match self.inherited_score {
            Some(score) => with_oom_score(score, start),
            None => start(),
        };
        let child = child.map_err(Fault::RuntimeMissing)?;
        let deadline = Some(clock::boot() + order.step.timeout());
        let job = Job {
            container: order.container,
            step: order.step,
            caller: order.caller,
            log: order.log,
            deadline,
            silent: false,
            console: order.console,
            child,
        };
        self.jobs.insert(job.child.pid(), job);
        Ok(())
    }

    /// A call of a container's runtime without descriptors.
    pub(super) fn start_plain(
        &mut self,
        id: &str,
        caller: Option<Caller>,
        step: Step,
        args: &[&str],
    ) -> Result<(), Fault> {
        let (mut call, log) = self.runtime_call(id, step.name_of_command(), "")?;
        call = call.args(args).arg(id);
        self.start_job(Order {
            container: id.to_owned(),
            step,
            caller,
            call,
            log,
            console: None,
        })
    }

    /// The beginning of a call, with a log file of its own.
    pub(super) fn runtime_call<'fd>(
        &mut self,
        id: &str,
        command: &str,
        hint: &str,
    ) -> Result<(Spawn<'fd>, PathBuf), Fault> {
        let number = self.number();
        let container = self.container(id)?;
        let log = container.bundle.join(format!("log-{number}{hint}.json"));
        Ok((container.runtime.call(&log, command), log))
    }

    /// Gives a container's creation no more than `limit` from now.
    pub(super) fn hurry_creation(&mut self, id: &str, limit: Duration) {
        let latest = clock::boot() + limit;
        let jobs = self.jobs.values_mut();
        for job in jobs.filter(|job| job.container == id && job.step == Step::Create) {
            job.deadline = job.deadline.map(|deadline| deadline.min(latest));
        }
    }

    pub(super) fn end_silent_jobs(&mut self, now: Duration) {
        for job in self.jobs.values_mut() {
            if job.deadline.is_some_and(|deadline| now >= deadline) {
                job.deadline = None;
                job.silent = true;
                if let Err(error) = job.child.signal(Signal::KILL) {
                    log::warn(&format!("cannot end {}: {error}", job.step.name()));
                }
            }
        }
    }

    pub(super) fn finish_job(&mut self, mut job: Job, status: RawStatus) {
        let outcome = job.outcome(status);
        let id = job.container.clone();
        match job.step.clone() {
            Step::Create => self.created(&mut job, outcome),
            Step::Undo { message, step } => {
                if let Err(fault) = outcome {
                    log::info(&format!("nothing to take back: {}", fault.chain()));
                }
                self.withdraw(&id);
                self.answer_job(&job, Err(Fault::Runtime { step, message }));
            }
            Step::Start => self.started(&id, job.caller, outcome),
            Step::Exec { exec } => self.exec_started(&mut job, &exec, outcome),
            Step::Kill => self.answer_job(&job, outcome.map_err(kill_fault)),
            Step::KillRest => {
                if let Err(fault) = outcome {
                    log::info(&fault.chain());
                }
                self.release_held_exit(&id);
            }
            Step::Pause => self.paused(&job, outcome, true),
            Step::Resume => self.paused(&job, outcome, false),
            Step::Update => self.answer_job(&job, outcome),
            Step::Delete => self.deleted(&id, job.caller, outcome),
            Step::Publish => {
                if let Err(fault) = outcome {
                    log::warn(&fault.chain());
                }
            }
        }
        if !self.jobs.values().any(Job::makes_a_process) {
            self.early.clear();
        }
    }

    /// Answers with nothing but success or failure.
    pub(super) fn answer_job(&mut self, job: &Job, outcome: Result<(), Fault>) {
        self.answer_if_asked(job.caller, outcome.map(|()| Vec::new()));
    }

    pub(super) fn answer_if_asked(
        &mut self,
        caller: Option<Caller>,
        outcome: Result<Vec<u8>, Fault>,
    ) {
        if let Some(caller) = caller {
            self.answer(caller, outcome);
        }
    }

    /// Sends the next event by the engine's binary, one at a time.
    pub(super) fn publish_by_binary(&mut self) {
        if self.jobs.values().any(|job| job.step == Step::Publish) {
            return;
        }
        let Some((topic, event)) = self.publisher.take() else {
            return;
        };
        let started = input_of(&event).and_then(|input| {
            let call = Spawn::new(&self.publish_binary)
                .args(["--address", &self.address, "publish", "--topic", topic])
                .args(["--namespace", &self.namespace])
                .stdin(Input::Fd(input.as_fd()));
            self.start_job(Order {
                container: String::new(),
                step: Step::Publish,
                caller: None,
                call,
                log: PathBuf::new(),
                console: None,
            })
        });
        if let Err(fault) = started {
            log::warn(&fault.chain());
        }
    }
}

impl Step {
    fn name_of_command(&self) -> &'static str {
        if matches!(self, Self::Undo { .. }) {
            "delete"
        } else {
            self.name()
        }
    }
}

/// Bytes to be read from a descriptor.
pub(super) fn input_of(bytes: &[u8]) -> Result<OwnedFd, Fault> {
    orlop_sys::process::in_memory("input", bytes)
        .map(OwnedFd::from)
        .map_err(|error| Fault::io("make", "an input", error))
}

/// Clients look for "not found" when a process has ended already.
fn kill_fault(fault: Fault) -> Fault {
    let text = fault.chain();
    let gone = [
        "process already finished",
        "container not running",
        "no such process",
        "does not exist",
    ];
    match gone.iter().any(|words| text.to_lowercase().contains(words)) {
        true => Fault::NotFound("process already finished: not found".to_owned()),
        false => fault,
    }
}

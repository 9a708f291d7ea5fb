//! The task service: what each method means. Versions 2 and 3 have the same messages on the wire.

use std::os::fd::AsFd;

use orlop_api::any::pack;
use orlop_api::containerd::events;
use orlop_api::containerd::runc::v1::ProcessDetails;
use orlop_api::containerd::task::{v2, v3 as api};
use orlop_api::containerd::v1::types as task;
use orlop_api::{Any, Message};
use orlop_sys::process::Input;
use orlop_sys::signal::send_by_pidfd;

use super::container::{Caller, Process, State};
use super::jobs::{Job, Order, Step, input_of};
use super::{SIGKILL, Server};
use crate::clock;
use crate::fault::Fault;
use crate::stats;
use crate::stdio::Terms;

/// Ours: what containerd's protocol has no word for.
const OWN_SERVICE: &str = "orlop.shim.v1.Shim";
/// An OCI process is a command line and an environment: the kernel takes no more than this anyway.
const SPEC_BYTES_MAX: usize = 2 << 20;

/// What becomes of a call: an answer now, or later.
type Now = Result<Option<Vec<u8>>, Fault>;

impl Server {
    /// Does what a call asks for.
    pub(super) fn dispatch(&mut self, caller: Caller, service: &str, method: &str, payload: &[u8]) {
        let outcome = match service {
            api::task_service::SERVICE | v2::task_service::SERVICE => {
                self.task(caller, method, payload)
            }
            OWN_SERVICE if method == "ReopenLog" => self.reopen_log(payload),
            _ => Err(Fault::Unsupported(format!(
                "service {service} method {method} is not served here"
            ))),
        };
        match outcome {
            Ok(Some(answer)) => self.answer(caller, Ok(answer)),
            Ok(None) => {}
            Err(fault) => self.answer(caller, Err(fault)),
        }
    }

    fn task(&mut self, caller: Caller, method: &str, payload: &[u8]) -> Now {
        match method {
            "State" => self.state(&decode(payload)?),
            "Create" => later(self.create(caller, decode(payload)?)),
            "Start" => later(self.start(caller, &decode(payload)?)),
            "Delete" => later(self.delete(caller, &decode(payload)?)),
            "Pids" => self.pids(&decode(payload)?),
            "Pause" => self.pause(
                caller,
                &decode::<api::PauseRequest>(payload)?.id,
                Step::Pause,
            ),
            "Resume" => self.pause(
                caller,
                &decode::<api::ResumeRequest>(payload)?.id,
                Step::Resume,
            ),
            "Checkpoint" => Err(Fault::Unsupported(
                "checkpoints are not implemented".to_owned(),
            )),
            "Kill" => self.kill(caller, &decode(payload)?),
            "Exec" => self.exec(decode(payload)?),
            "ResizePty" => self.resize(&decode(payload)?),
            "CloseIO" => self.close_io(&decode(payload)?),
            "Update" => later(self.update(caller, decode(payload)?)),
            "Wait" => self.wait(caller, &decode(payload)?),
            "Stats" => self.stats(&decode(payload)?),
            "Connect" => self.connect(&decode(payload)?),
            "Shutdown" => self.shutdown(),
            other => Err(Fault::Unsupported(format!(
                "the task service has no method {other}"
            ))),
        }
    }

    fn state(&self, request: &api::StateRequest) -> Now {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let status = match process.state {
            State::Creating => {
                return Err(Fault::State(format!(
                    "container {} is being created",
                    request.id
                )));
            }
            State::Created | State::Starting => task::Status::Created,
            State::Running if container.paused => task::Status::Paused,
            State::Running => task::Status::Running,
            State::Stopped => task::Status::Stopped,
        };
        let id = if request.exec_id.is_empty() {
            &request.id
        } else {
            &request.exec_id
        };
        answer(&api::StateResponse {
            id: id.clone(),
            bundle: container.bundle.display().to_string(),
            pid: wire_pid(process),
            status: status.into(),
            stdin: process.terms.stdin.clone(),
            stdout: process.terms.stdout.clone(),
            stderr: process.terms.stderr.clone(),
            terminal: process.terms.terminal,
            exit_status: process.exit.map_or(0, |exit| exit.status),
            exited_at: process.exit.map(|exit| clock::timestamp(exit.at)),
            exec_id: request.exec_id.clone(),
        })
    }

    fn pids(&self, request: &api::PidsRequest) -> Now {
        let container = self.container(&request.id)?;
        let pids = match &container.cgroup {
            None => Vec::new(),
            Some(cgroup) => cgroup
                .processes()
                .map_err(|error| Fault::io("list", "the processes of the cgroup", error))?,
        };
        let info = |pid: i32| {
            let exec = container
                .execs
                .iter()
                .find(|(_, process)| process.pid == pid)?;
            Some(pack(&ProcessDetails {
                exec_id: exec.0.clone(),
            }))
        };
        let processes = pids.into_iter().map(|pid| task::ProcessInfo {
            pid: u32::try_from(pid).unwrap_or(0),
            info: info(pid),
        });
        answer(&api::PidsResponse {
            processes: processes.collect(),
        })
    }

    fn pause(&mut self, caller: Caller, id: &str, step: Step) -> Now {
        let container = self.container(id)?;
        if container.init.state != State::Running {
            return Err(Fault::State(format!("container {id} is not running")));
        }
        later(self.start_plain(id, Some(caller), step, &[]))
    }

    pub(super) fn paused(&mut self, job: &Job, outcome: Result<(), Fault>, paused: bool) {
        let id = job.container.clone();
        if outcome.is_ok()
            && let Ok(container) = self.container_mut(&id)
        {
            container.paused = paused;
            if paused {
                self.publisher
                    .publish("/tasks/paused", &events::TaskPaused { container_id: id });
            } else {
                self.publisher
                    .publish("/tasks/resumed", &events::TaskResumed { container_id: id });
            }
        }
        self.answer_job(job, outcome);
    }

    fn kill(&mut self, caller: Caller, request: &api::KillRequest) -> Now {
        let signal = i32::try_from(request.signal).unwrap_or(0);
        if !(1..=64).contains(&signal) {
            return Err(Fault::Invalid(format!(
                "{} is not a signal",
                request.signal
            )));
        }
        let container = self.container_mut(&request.id)?;
        let kills = container.oom_kills();
        let paused = container.paused;
        let process = container.process_mut(&request.exec_id)?;
        let pidfd = match (process.state, &process.pidfd) {
            (State::Creating, _) | (_, None) if process.exit.is_none() => {
                return Err(Fault::State("the process is not started yet".to_owned()));
            }
            (_, Some(pidfd)) => pidfd,
            (_, None) => {
                return Err(Fault::NotFound(
                    "process already finished: not found".to_owned(),
                ));
            }
        };
        process.sent_signal = Some((signal, kills));
        // The runtime thaws a frozen group, without which the signal would never arrive.
        let by_runtime =
            request.exec_id.is_empty() && (request.all || (paused && signal == SIGKILL));
        if by_runtime {
            return later(self.kill_by_runtime(caller, request));
        }
        match send_by_pidfd(pidfd.as_fd(), signal) {
            Ok(()) => Ok(Some(Vec::new())),
            Err(error) if error.raw_os_error() == Some(3) => Err(Fault::NotFound(
                "process already finished: not found".to_owned(),
            )),
            Err(error) => Err(Fault::io("signal", "the process", error)),
        }
    }

    fn kill_by_runtime(&mut self, caller: Caller, request: &api::KillRequest) -> Result<(), Fault> {
        let (mut call, log) = self.runtime_call(&request.id, "kill", "")?;
        if request.all {
            call = call.arg("--all");
        }
        let call = call.arg(&request.id).arg(request.signal.to_string());
        let container = request.id.clone();
        self.start_job(Order {
            container,
            step: Step::Kill,
            caller: Some(caller),
            call,
            log,
            console: None,
        })
    }

    fn exec(&mut self, request: api::ExecProcessRequest) -> Now {
        let exec = orlop_types::ExecId::new(&request.exec_id)
            .map_err(|error| Fault::Invalid(error.to_string()))?;
        let container = self.container_mut(&request.id)?;
        if container.execs.contains_key(exec.as_str()) {
            return Err(Fault::AlreadyExists(format!(
                "process {exec} already exists"
            )));
        }
        if container.init.state != State::Running {
            return Err(Fault::State(format!(
                "container {} is not running",
                request.id
            )));
        }
        let spec = request.spec.unwrap_or_default().value;
        if spec.len() > SPEC_BYTES_MAX {
            return Err(Fault::Invalid(format!(
                "the process has {} bytes, more than {SPEC_BYTES_MAX}",
                spec.len()
            )));
        }
        let terms = Terms {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        container.execs.insert(
            exec.as_str().to_owned(),
            Process::new(terms, spec, State::Created),
        );
        let event = events::TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
        };
        self.publisher.publish("/tasks/exec-added", &event);
        done()
    }

    fn resize(&self, request: &api::ResizePtyRequest) -> Now {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        if let Some(terminal) = &process.kept.terminal {
            let size = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
            let size = rustix::termios::Winsize {
                ws_row: size(request.height),
                ws_col: size(request.width),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(terminal, size)
                .map_err(|error| Fault::io("resize", "the terminal", error))?;
        }
        done()
    }

    fn close_io(&mut self, request: &api::CloseIoRequest) -> Now {
        let process = self
            .container_mut(&request.id)?
            .process_mut(&request.exec_id)?;
        if request.stdin {
            process.kept.close_stdin();
        }
        done()
    }

    fn update(&mut self, caller: Caller, request: api::UpdateTaskRequest) -> Result<(), Fault> {
        let resources: Any = request
            .resources
            .ok_or_else(|| Fault::Invalid("an update needs resources".to_owned()))?;
        let input = input_of(&resources.value)?;
        let (call, log) = self.runtime_call(&request.id, "update", "")?;
        let call = call
            .args(["--resources", "-"])
            .arg(&request.id)
            .stdin(Input::Fd(input.as_fd()));
        let container = request.id;
        self.start_job(Order {
            container,
            step: Step::Update,
            caller: Some(caller),
            call,
            log,
            console: None,
        })
    }

    fn wait(&mut self, caller: Caller, request: &api::WaitRequest) -> Now {
        let process = self
            .container_mut(&request.id)?
            .process_mut(&request.exec_id)?;
        match process.exit {
            Some(exit) => answer(&api::WaitResponse {
                exit_status: exit.status,
                exited_at: Some(clock::timestamp(exit.at)),
            }),
            None => {
                process.waiters.push(caller);
                Ok(None)
            }
        }
    }

    fn stats(&self, request: &api::StatsRequest) -> Now {
        let container = self.container(&request.id)?;
        let cgroup = container.cgroup.as_ref().filter(|cgroup| cgroup.exists());
        let cgroup =
            cgroup.ok_or_else(|| Fault::NotFound("cgroup does not exist: not found".to_owned()))?;
        answer(&api::StatsResponse {
            stats: Some(stats::metrics(cgroup)),
        })
    }

    fn connect(&self, request: &api::ConnectRequest) -> Now {
        if self.ending.is_some() {
            // Who told it to end learns so whether it does.
            return Err(Fault::State("the shim is ending".to_owned()));
        }
        let task_pid = self
            .container(&request.id)
            .map_or(0, |container| wire_pid(&container.init));
        answer(&api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn shutdown(&mut self) -> Now {
        if self.containers.is_empty() {
            self.ending = Some(clock::boot() + super::FAREWELL);
        }
        done()
    }

    fn reopen_log(&self, payload: &[u8]) -> Now {
        let request: api::StateRequest = decode(payload)?;
        self.container(&request.id)?
            .process(&request.exec_id)?
            .kept
            .reopen_log()?;
        done()
    }
}

fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Fault> {
    M::decode(payload)
        .map_err(|error| Fault::Invalid(format!("the request cannot be decoded: {error}")))
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "every method ends in the same type"
)]
fn answer(message: &impl Message) -> Now {
    Ok(Some(message.encode_to_vec()))
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "every method ends in the same type"
)]
fn done() -> Now {
    Ok(Some(Vec::new()))
}

fn later(asked: Result<(), Fault>) -> Now {
    asked.map(|()| None)
}

fn wire_pid(process: &Process) -> u32 {
    u32::try_from(process.pid).unwrap_or(0)
}

//! Ends of processes: recorded in the bundle, then published, then told to waiters.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use orlop_api::Message;
use orlop_api::containerd::events;
use orlop_api::containerd::task::v3 as api;
use orlop_sys::cgroup::{Cgroup, MemoryCounters};
use orlop_sys::process::RawStatus;
use orlop_types::exit::{Evidence, ExitRecord, MemoryDelta, Moment, decide_cause};

use super::Server;
use super::container::{Container, Exit, State};
use super::jobs::{Order, Step};
use crate::bundle::{self, ExitKey};
use crate::clock;
use crate::fault::Fault;
use crate::log;

impl Server {
    /// The end of a known process.
    pub(super) fn process_ended(&mut self, id: &str, exec: &str, status: RawStatus, at: Moment) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if !exec.is_empty() {
            self.conclude(id, exec, status, at);
            return self.release_held_exit(id);
        }
        container.held_exit = Some((status, at));
        self.settle_start(id);
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if !container.own_pid_namespace
            && let Err(fault) = self.kill_rest(id)
        {
            log::warn(&fault.chain());
        }
        self.release_held_exit(id);
    }

    fn kill_rest(&mut self, id: &str) -> Result<(), Fault> {
        let (call, log) = self.runtime_call(id, "kill", "")?;
        let call = call.args(["--all", id, "KILL"]);
        let container = id.to_owned();
        self.start_job(Order {
            container,
            step: Step::KillRest,
            caller: None,
            call,
            log,
            console: None,
        })
    }

    /// Tells init's end once no exec lives, the runtime has finished starting it, and the rest was killed.
    pub(super) fn release_held_exit(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let is_being_started = container.init.state == State::Starting;
        let is_being_killed = self
            .jobs
            .values()
            .any(|job| job.container == id && job.step == Step::KillRest);
        if container.has_living_execs() || is_being_started || is_being_killed {
            return;
        }
        if let Some((status, at)) = container.held_exit.take() {
            self.conclude(id, "", status, at);
        }
    }

    /// Hands a process the end that came before the runtime had named it.
    pub(super) fn claim_early(&mut self, id: &str, exec: &str) {
        let Ok(pid) = self
            .container(id)
            .and_then(|container| Ok(container.process(exec)?.pid))
        else {
            return;
        };
        if let Some(index) = self.early.iter().position(|(early, _, _)| *early == pid)
            && let Some((_, status, at)) = self.early.remove(index)
        {
            self.process_ended(id, exec, status, at);
        }
    }

    fn conclude(&mut self, id: &str, exec: &str, status: RawStatus, at: Moment) {
        self.check_ooms();
        let namespace = self.namespace.clone();
        let Ok(container) = self.container_mut(id) else {
            return;
        };
        let record = record_of(container, exec, status, at);
        let key = ExitKey {
            bundle: container.bundle.clone(),
            namespace,
            container: id.to_owned(),
            exec: exec.to_owned(),
        };
        if let Err(fault) = bundle::record_exit(&key, record) {
            log::warn(&format!(
                "the end of {id} {exec} is not recorded: {}",
                fault.chain()
            ));
        }
        let Ok(process) = container.process_mut(exec) else {
            return;
        };
        process.state = State::Stopped;
        process.pidfd = None;
        process.exit = Some(Exit {
            status: status.shell_code(),
            at,
        });
        let waiters = std::mem::take(&mut process.waiters);
        let event = events::TaskExit {
            container_id: id.to_owned(),
            id: if exec.is_empty() {
                id.to_owned()
            } else {
                exec.to_owned()
            },
            pid: u32::try_from(process.pid).unwrap_or(0),
            exit_status: status.shell_code(),
            exited_at: Some(clock::timestamp(at)),
        };
        if exec.is_empty() {
            container.oom_watch = None;
        }
        self.publisher.publish("/tasks/exit", &event);
        let answer = api::WaitResponse {
            exit_status: event.exit_status,
            exited_at: event.exited_at,
        }
        .encode_to_vec();
        for caller in waiters {
            self.answer(caller, Ok(answer.clone()));
        }
    }

    /// Looks at every container's OOM counter; tells of those that have moved.
    pub(super) fn check_ooms(&mut self) {
        for (id, container) in &mut self.containers {
            let Some(watch) = &mut container.oom_watch else {
                continue;
            };
            watch.drain();
            if !container.cgroup.as_ref().is_some_and(Cgroup::exists) {
                // Version 1 announces the end of a group for ever.
                self.poller.remove(watch.as_fd());
                continue;
            }
            let kills = container.oom_kills();
            if kills > container.oom_kills_told {
                container.oom_kills_told = kills;
                container.oom_seen = Some(clock::boot());
                let event = events::TaskOom {
                    container_id: id.clone(),
                };
                self.publisher.publish("/tasks/oom", &event);
            }
        }
    }
}

fn record_of(container: &Container, exec: &str, status: RawStatus, at: Moment) -> ExitRecord {
    let after = container
        .cgroup
        .as_ref()
        .map(Cgroup::memory_chain)
        .unwrap_or_default();
    let memory = deltas(container, &after);
    let (pid, started, sent) = container
        .process(exec)
        .map_or((0, Moment::default(), None), |process| {
            (process.pid, process.started, process.sent_signal)
        });
    let before = container
        .baseline
        .first()
        .and_then(|own| own.oom_kill)
        .unwrap_or(0);
    let age = container
        .oom_seen
        .map(|seen| Duration::from_nanos(at.boot_ns).saturating_sub(seen));
    let cause = decide_cause(&Evidence {
        signal: status.signal(),
        is_init: exec.is_empty(),
        sent_signal: sent.map(|(signal, _)| signal),
        oom_kills_before_signal: sent.map_or(0, |(_, kills)| kills.saturating_sub(before)),
        counters_known: after.first().is_some_and(|own| own.oom_kill.is_some()),
        oom_kill_age_ns: age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        memory: &memory,
    });
    let host_before = container.host_oom_kills;
    ExitRecord {
        pid,
        raw_status: Some(status.0),
        exit_status: status.shell_code(),
        started_at: started,
        exited_at: at,
        cause,
        memory,
        host_oom_kills: host_oom_kills()
            .zip(host_before)
            .map(|(now, then)| now.saturating_sub(then)),
    }
}

/// How the counters moved since the container was made. Version 1 has no counter of OOMs: the watch has.
fn deltas(container: &Container, after: &[MemoryCounters]) -> Vec<MemoryDelta> {
    let seen = container
        .oom_watch
        .as_ref()
        .map(|watch| watch.local_ooms())
        .unwrap_or_default();
    after
        .iter()
        .map(|group| {
            let before = container
                .baseline
                .iter()
                .find(|before| before.path == group.path);
            let since = |now: Option<u64>, then: Option<u64>| {
                now.map(|now| now.saturating_sub(then.unwrap_or(0)))
            };
            let watched = seen
                .iter()
                .find(|(path, _)| *path == group.path)
                .map(|(_, count)| *count);
            MemoryDelta {
                path: group.path.clone(),
                oom: since(group.oom, before.and_then(|before| before.oom)).or(watched),
                oom_kill: since(group.oom_kill, before.and_then(|before| before.oom_kill)),
                limit_hits: since(
                    group.limit_hits,
                    before.and_then(|before| before.limit_hits),
                ),
                limit_bytes: group.limit_bytes,
                peak_bytes: group.peak_bytes,
            }
        })
        .collect()
}

/// OOM kills on the machine since it started.
pub(super) fn host_oom_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

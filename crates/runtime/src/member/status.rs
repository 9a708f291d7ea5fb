//! How members stand: derived from their rows and tasks at the moment of asking, kept nowhere.

use std::sync::Arc;
use std::time::SystemTime;

use orlop_base::blocking;
use orlop_meta::{Container, ErrorKind, View as Records};
use orlop_types::{ContainerId, Namespace, SandboxId};

use super::end::{self, Circumstances};
use super::record::{Facts, Standing};
use super::{Member, MemberError, MemberState, signal};
use crate::Error;
use crate::actor::{TaskKey, View};
use crate::core::Core;
use crate::machine::{Exit, Phase, Step, Transition};
use crate::runtime::Runtime;

impl Member {
    /// One word for where it is.
    #[must_use]
    pub const fn standing(&self) -> &'static str {
        match (&self.state, self.removing) {
            (_, true) => "being removed",
            (MemberState::Created, false) => "created",
            (MemberState::Running, false) => "running",
            (MemberState::Exited(_), false) => "exited",
            (MemberState::Unknown(_), false) => "unknown",
        }
    }
}

impl Runtime {
    /// One member.
    ///
    /// # Errors
    /// No such member.
    pub async fn member(&self, namespace: &Namespace, id: &ContainerId) -> Result<Member, Error> {
        let (core, key) = (Arc::clone(&self.core), key(namespace, id));
        blocking::run("read member", move || {
            let records = core.db.namespace(&key.namespace);
            let row = find(&records, &key.container)?;
            member(&core, &key.namespace, &records, row)?
                .ok_or_else(|| not_found(&key.container).into())
        })
        .await
        .map_err(Error::Daemon)?
    }

    /// The members of a pod, or of all pods, by id. One whose record cannot be understood is logged and left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn members(
        &self,
        namespace: &Namespace,
        pod: Option<&SandboxId>,
    ) -> Result<Vec<Member>, Error> {
        let (core, namespace) = (Arc::clone(&self.core), namespace.clone());
        let filters: Vec<String> = pod
            .map(|pod| format!("sandbox=={pod}"))
            .into_iter()
            .collect();
        blocking::run("list members", move || {
            let records = core.db.namespace(&namespace);
            let rows = records.containers().list(&filters);
            let rows = rows.map_err(|source| unreadable("*", source))?;
            let mut members = Vec::with_capacity(rows.len());
            for row in rows {
                let id = row.id.clone();
                match member(&core, &namespace, &records, row) {
                    Ok(member) => members.extend(member),
                    Err(error) => {
                        let error = orlop_types::chain(&error);
                        tracing::error!(container = %id, error, "a container of a pod cannot be listed");
                    }
                }
            }
            Ok(members)
        })
        .await
        .map_err(Error::Daemon)?
    }
}

pub(super) fn key(namespace: &Namespace, id: &ContainerId) -> TaskKey {
    TaskKey {
        namespace: namespace.clone(),
        container: id.clone(),
    }
}

pub(super) fn not_found(id: &ContainerId) -> MemberError {
    MemberError::NotFound {
        container: id.to_string(),
    }
}

/// A row; what is not there is no member.
pub(super) fn find(records: &Records, id: &ContainerId) -> Result<Container, Error> {
    match records.containers().find(id) {
        Ok(row) => Ok(row),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(not_found(id).into()),
        Err(source) => Err(unreadable(id.as_str(), source)),
    }
}

fn unreadable(id: &str, source: orlop_meta::Error) -> Error {
    Error::Record {
        container: id.to_owned(),
        attempt: "read",
        source,
    }
}

/// What a row and its task say; `None` for rows that are no members.
pub(super) fn member(
    core: &Core,
    namespace: &Namespace,
    records: &Records,
    row: Container,
) -> Result<Option<Member>, Error> {
    let Some(facts) = Facts::read(&row)? else {
        return Ok(None);
    };
    let standing = Standing::read(&row)?;
    let Ok(pod) = SandboxId::new(&row.sandbox) else {
        return Ok(None);
    };
    let view = core
        .handle(&key(namespace, &row.id))
        .map(|handle| handle.view.borrow().clone());
    let life = Life::of(core, records, &row, view.as_ref(), &standing);
    Ok(Some(Member {
        pod,
        state: life.state,
        created_at: row.created_at,
        started_at: life.started_at,
        pid: life.pid,
        limits: standing.limits,
        user: facts.user,
        log_path: facts.log_path,
        stop_signal: signal::name(facts.stop_signal),
        config: facts.config,
        image: facts.image,
        runtime: row.runtime.name,
        snapshotter: row.snapshotter,
        snapshot_key: row.snapshot_key,
        removing: standing.removing,
        target_pid: facts.target_pid,
        transitions: life.transitions,
        id: row.id,
    }))
}

struct Life {
    state: MemberState,
    started_at: Option<SystemTime>,
    pid: Option<u32>,
    transitions: Vec<Transition>,
}

impl Life {
    /// From the task while there is one, from what it left after that.
    fn of(
        core: &Core,
        records: &Records,
        row: &Container,
        view: Option<&View>,
        standing: &Standing,
    ) -> Self {
        let last = Runtime::last_task(row);
        let (phase, exit, transitions, pid) = match view {
            Some(view) => (
                Some(view.phase),
                view.exit.clone(),
                view.transitions.clone(),
                view.pid,
            ),
            None => {
                let (exit, transitions) = last
                    .map(|last| (last.exit, last.transitions))
                    .unwrap_or_default();
                (None, exit, transitions, 0)
            }
        };
        let started_at = started_at(&transitions, exit.as_ref());
        let state = if let Some(exit) = &exit {
            let around = Circumstances {
                started_at,
                booted_at: end::booted_at(core.now()),
                stop_asked_at: standing.stop_asked_at,
            };
            MemberState::Exited(end::of_exit(exit, around))
        } else if let Some(failed) = &standing.failed_start {
            MemberState::Exited(end::of_failed_start(failed))
        } else if matches!(phase, Some(Phase::Running | Phase::Paused)) {
            MemberState::Running
        } else if phase.is_none() && records.tasks().find(&row.id).is_ok() {
            MemberState::Unknown(
                "the record of its task cannot be understood by this version; it may still run"
                    .to_owned(),
            )
        } else {
            MemberState::Created
        };
        let is_running = state == MemberState::Running;
        Self {
            state,
            started_at,
            pid: (is_running && pid != 0).then_some(pid),
            transitions,
        }
    }
}

/// When the process was started: the end of the start, or what the shim saw.
fn started_at(transitions: &[Transition], exit: Option<&Exit>) -> Option<SystemTime> {
    let start = transitions
        .iter()
        .find(|transition| transition.step == Step::Start);
    let done = start.filter(|start| start.error.is_none())?;
    // An end that overtakes the acknowledgement of its start must not seem to come before it.
    let acknowledged = done.ended.unwrap_or(done.began);
    Some(exit.map_or(acknowledged, |exit| acknowledged.min(exit.at)))
}

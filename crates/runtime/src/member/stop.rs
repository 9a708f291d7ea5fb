//! Ending members.
//!
//! Cancellation: a caller that leaves stops the waiting, and with it the SIGKILL that would follow; the signal sent stays
//! sent. Ordering: several callers may wait at once; only the first one's signal is sent, SIGKILL excepted.

use std::time::{Duration, Instant};

use orlop_base::blocking;
use orlop_types::{ContainerId, ErrorKind, Namespace};

use super::MemberError;
use super::record::Facts;
use super::signal::KILL;
use super::status::{find, key, not_found};
use crate::Error;
use crate::machine::Phase;
use crate::runtime::Runtime;

/// How long a process may take to go after SIGKILL. One that waits for a dead disk or network does not go.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// How long the end of a process that could not be signalled may take to be known.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// How long a start under way may hold a stop up.
const START_LIMIT: Duration = Duration::from_secs(60);

impl Runtime {
    /// Asks a member to end, and makes it end after `grace`; at once if that is zero. Returns when it has ended. What does
    /// not run or is not there is as good as stopped.
    ///
    /// # Errors
    /// It does not end, or the shim failed.
    pub async fn stop_member(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        grace: Duration,
    ) -> Result<(), Error> {
        self.wait_for_start(namespace, id).await;
        if !self.may_run(namespace, id) {
            return Ok(());
        }
        let first = self.note_request(namespace, id).await?;
        if self.is_frozen(namespace, id) {
            // A frozen process takes no signal but SIGKILL, and not even that with cgroups of version 1.
            let thawed = self.resume(namespace, id).await;
            thawed.or_else(|error| if is_over(&error) { Ok(()) } else { Err(error) })?;
        }
        if !grace.is_zero() {
            if let Some(signal) = first {
                self.signal(namespace, id, signal).await?;
            }
            if self.ends_within(namespace, id, grace).await {
                return Ok(());
            }
        }
        self.signal(namespace, id, KILL).await?;
        if self.ends_within(namespace, id, KILL_LIMIT).await {
            return Ok(());
        }
        Err(self.still_running(namespace, id).into())
    }

    /// A process whose start is under way cannot be told to end, and would run after this call.
    async fn wait_for_start(&self, namespace: &Namespace, id: &ContainerId) {
        let Some(handle) = self.core.handle(&key(namespace, id)) else {
            return;
        };
        let mut view = handle.view;
        let is_starting =
            |phase| matches!(phase, Phase::Creating(_) | Phase::Created | Phase::Starting);
        let decided = view.wait_for(|view| !is_starting(view.phase));
        // Whatever comes of it, the phase is looked at again.
        drop(tokio::time::timeout(START_LIMIT, decided).await);
    }

    /// Records the first request to end; the signal to send if this is it.
    async fn note_request(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<Option<u32>, Error> {
        let (core, at) = (std::sync::Arc::clone(&self.core), key(namespace, id));
        let row = blocking::run("read member", move || {
            find(&core.db.namespace(&at.namespace), &at.container)
        });
        let row = row.await.map_err(Error::Daemon)??;
        let facts = Facts::read(&row)?.ok_or_else(|| not_found(id))?;
        let now = self.core.now();
        let is_first = self
            .change_standing(namespace, id, move |standing| {
                let is_first = standing.stop_asked_at.is_none();
                standing.stop_asked_at.get_or_insert(now);
                is_first
            })
            .await?;
        Ok(is_first.then_some(facts.stop_signal))
    }

    fn is_frozen(&self, namespace: &Namespace, id: &ContainerId) -> bool {
        self.view(namespace, id)
            .is_ok_and(|view| view.phase == Phase::Paused)
    }

    async fn signal(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        signal: u32,
    ) -> Result<(), Error> {
        // In a shared process namespace nothing but the cgroup tells which processes are its own.
        let all = signal == KILL;
        match self.kill(namespace, id, None, signal, all).await {
            Ok(()) => Ok(()),
            Err(error) if is_over(&error) => Ok(()),
            // The OCI runtime has no code for a process that ended while it looked for it.
            Err(_ended) if self.ends_within(namespace, id, SETTLE_LIMIT).await => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the process ended in time. Its task may be gone by then.
    async fn ends_within(&self, namespace: &Namespace, id: &ContainerId, limit: Duration) -> bool {
        let began = Instant::now();
        let Some(handle) = self.core.handle(&key(namespace, id)) else {
            return true;
        };
        let mut view = handle.view;
        let left = limit.saturating_sub(began.elapsed());
        let ended = view.wait_for(|view| view.exit.is_some());
        match tokio::time::timeout(left, ended).await {
            Ok(Ok(_ended)) => true,
            // The task is gone, or the daemon is going; only the first says that the process ended.
            Ok(Err(_closed)) => self.core.handle(&key(namespace, id)).is_none(),
            Err(_elapsed) => false,
        }
    }

    fn still_running(&self, namespace: &Namespace, id: &ContainerId) -> MemberError {
        let pid = self.view(namespace, id).map_or(0, |view| view.pid);
        MemberError::StillRunning {
            container: id.to_string(),
            waited: KILL_LIMIT,
            pid,
            state: process_state(pid),
        }
    }
}

/// Whether a failure says that the process has ended: then it need not be told to. A shim whose connection ended has its
/// container ended, too, and that is waited for.
fn is_over(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::FailedPrecondition | ErrorKind::Unavailable
    )
}

/// The kernel's line of a process's state, and where in the kernel it waits.
fn process_state(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    let state = state.map_or("gone", str::trim);
    let place = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    if place.is_empty() || place == "0" {
        state.to_owned()
    } else {
        format!("{state}, waiting in {place}")
    }
}

//! Starting and removing members.
//!
//! Crash: a start is a task's creation and is undone or gone on with as any; a removal is on record first and repeated by
//! the next daemon. Cancellation: both run to their end. Ordering: one at a time per member.

use std::sync::Arc;
use std::time::Duration;

use orlop_base::blocking;
use orlop_base::task::TaskKind;
use orlop_meta::{Container, ErrorKind};
use orlop_types::{ContainerId, Namespace, SandboxId, SnapshotKey, SnapshotterName};

use super::record::{Facts, FailedStart, Standing, standing_field};
use super::status::{find, key};
use super::{Member, MemberError, MemberProcesses, MemberState, volumes};
use crate::Error;
use crate::actor::TaskKey;
use crate::attach::AttachableStreams;
use crate::bundle::Bundle;
use crate::core::Core;
use crate::machine::Phase;
use crate::record::Streams;
use crate::runtime::{CreateTask, Runtime, gone};

/// Starts or removes one member, whether or not its caller waits.
const CALL: TaskKind = TaskKind::cooperative("call on a container of a pod");

/// The longest line in a log before it is split, in bytes (containerd's `max_container_log_line_size`).
const LOG_LINE_BYTES_MAX: u32 = 16 << 10;

impl Runtime {
    /// Starts a member that was never started.
    ///
    /// # Errors
    /// No such member, its pod is not ready, it was started before, or a step failed: then the member has ended with the
    /// reason `StartError`.
    pub async fn start_member(&self, namespace: &Namespace, id: &ContainerId) -> Result<(), Error> {
        let (runtime, namespace, owned) = (self.clone(), namespace.clone(), id.clone());
        let started = self.core.tasks.spawn(CALL, move |_token| async move {
            runtime.start_at_once(&namespace, &owned).await
        });
        started.join().await.map_err(|_ended| gone(id))?
    }

    async fn start_at_once(&self, namespace: &Namespace, id: &ContainerId) -> Result<(), Error> {
        // The pod is held first: whoever stops it waits for members, and must not be waited for by one.
        let pod = self.member(namespace, id).await?.pod;
        let _ready = self.hold_pod(namespace, &pod).await?;
        let change = self.core.calls.change(id);
        let refused = |state: &str| MemberError::Refused {
            container: id.to_string(),
            attempt: "start",
            state: state.to_owned(),
        };
        let _turn = change.at_once("being started").map_err(refused)?;
        let member = self.member(namespace, id).await?;
        if member.state != MemberState::Created || member.removing {
            return Err(refused(member.standing()).into());
        }
        let started = self.run_member(namespace, &member).await;
        if let Err(error) = &started {
            self.keep_failed_start(namespace, id, error).await;
        }
        started
    }

    async fn run_member(&self, namespace: &Namespace, member: &Member) -> Result<(), Error> {
        self.check_target(namespace, member).await?;
        self.remount_images(namespace, member).await?;
        let request = CreateTask {
            container: member.id.clone(),
            rootfs: Vec::new(),
            streams: self.streams(namespace, member)?,
            checkpoint: String::new(),
            options: None,
            shim_path: String::new(),
        };
        self.create(namespace, request).await?;
        self.start(namespace, &member.id, None).await.map(drop)
    }

    /// The log is written by the shim itself, or by a program beside it, so that it goes on while the daemon is away.
    fn streams(&self, namespace: &Namespace, member: &Member) -> Result<Streams, Error> {
        let wanted = AttachableStreams {
            log: member.log_path.clone(),
            max_line_bytes: LOG_LINE_BYTES_MAX,
            stdin: member.config.stdin,
            stdin_once: member.config.stdin_once,
            terminal: member.config.terminal,
        };
        if !self.core.is_foreign(&member.runtime)? {
            return Ok(wanted.into());
        }
        let settings = &self.core.settings;
        let bundle = Bundle::new(&settings.state_folder, namespace, &member.id);
        Ok(wanted.through_logger(&settings.pods.init_binary, &bundle.path()))
    }

    /// What it sees of images may have gone with a reboot.
    async fn remount_images(&self, namespace: &Namespace, member: &Member) -> Result<(), Error> {
        if !volumes::any(&member.config) {
            return Ok(());
        }
        let (core, namespace, member) = (Arc::clone(&self.core), namespace.clone(), member.clone());
        blocking::run("remount images", move || {
            volumes::remount(&core, &namespace, &member)
        })
        .await
        .map_err(Error::Daemon)?
    }

    /// A process id may be another's by now, and its namespace another pod's.
    async fn check_target(&self, namespace: &Namespace, member: &Member) -> Result<(), Error> {
        let MemberProcesses::Of(target) = &member.config.security.processes else {
            return Ok(());
        };
        let found = self.member(namespace, target).await;
        let same = found.is_ok_and(|found| found.pid.is_some() && found.pid == member.target_pid);
        if same {
            return Ok(());
        }
        let error = MemberError::BadConfig {
            name: member.config.name.clone(),
            field: "target container",
            value: target.to_string(),
            fault: "it has ended since this container was made",
        };
        Err(error.into())
    }

    /// What came of a start that failed is taken away, and why it failed is kept.
    async fn keep_failed_start(&self, namespace: &Namespace, id: &ContainerId, error: &Error) {
        if let Err(error) = self.delete_task(namespace, id).await {
            tracing::warn!(container = %id, error = orlop_types::chain(&error), "a task that did not start cannot be deleted");
        }
        let failed = FailedStart {
            at: self.core.now(),
            message: orlop_types::chain(error),
        };
        let kept = self.change_standing(namespace, id, move |standing| {
            standing.failed_start = Some(failed);
        });
        if let Err(error) = kept.await {
            tracing::warn!(container = %id, error = orlop_types::chain(&error), "cannot record that a start failed");
        }
    }

    /// Ends a member if it runs, and removes it with everything it had but its log. What is not there is removed.
    ///
    /// # Errors
    /// Something cannot be taken away: then the same call tries again.
    pub async fn remove_member(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<(), Error> {
        let (runtime, namespace, owned) = (self.clone(), namespace.clone(), id.clone());
        let removed = self.core.tasks.spawn(CALL, move |_token| async move {
            runtime.remove_in_turn(&namespace, &owned).await
        });
        removed.join().await.map_err(|_ended| gone(id))?
    }

    async fn remove_in_turn(&self, namespace: &Namespace, id: &ContainerId) -> Result<(), Error> {
        let change = self.core.calls.change(id);
        let _turn = change.wait("being removed").await;
        let marked = self.change_standing(namespace, id, |standing| standing.removing = true);
        match marked.await {
            Ok(()) => {}
            Err(Error::Member(MemberError::NotFound { .. })) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.stop_member(namespace, id, Duration::ZERO).await?;
        self.delete_task(namespace, id).await?;
        let (core, key) = (Arc::clone(&self.core), key(namespace, id));
        blocking::run("remove member", move || {
            let records = core.db.namespace(&key.namespace);
            let row = find(&records, &key.container)?;
            records
                .containers()
                .delete(&key.container)
                .map_err(|source| written(&key.container, source))?;
            remove_snapshot(&records, &row);
            release_images(&core, &key, &row);
            Ok(())
        })
        .await
        .map_err(Error::Daemon)?
    }

    /// Deletes a task that does not run; one that is not there is deleted. A task whose process has just ended is being
    /// deleted by its actor, and found gone.
    pub(super) async fn delete_task(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<(), Error> {
        match self.delete(namespace, id).await {
            Ok(_) | Err(Error::NoTask { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends all members of a pod at once, side by side.
    ///
    /// # Errors
    /// The first of what went wrong; the others were ended all the same.
    pub async fn stop_members(&self, namespace: &Namespace, pod: &SandboxId) -> Result<(), Error> {
        let (runtime, scope) = (self.clone(), namespace.clone());
        self.for_each(namespace, pod, move |id| {
            let (runtime, scope) = (runtime.clone(), scope.clone());
            async move { runtime.stop_member(&scope, &id, Duration::ZERO).await }
        })
        .await
    }

    /// Removes all members of a pod, side by side, ending those that run.
    ///
    /// # Errors
    /// The first of what went wrong; the others were removed all the same.
    pub async fn remove_members(
        &self,
        namespace: &Namespace,
        pod: &SandboxId,
    ) -> Result<(), Error> {
        let (runtime, scope) = (self.clone(), namespace.clone());
        self.for_each(namespace, pod, move |id| {
            let (runtime, scope) = (runtime.clone(), scope.clone());
            async move { runtime.remove_member(&scope, &id).await }
        })
        .await
    }

    async fn for_each<Work>(
        &self,
        namespace: &Namespace,
        pod: &SandboxId,
        work: impl Fn(ContainerId) -> Work,
    ) -> Result<(), Error>
    where
        Work: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let ids = self.member_ids(namespace, pod).await?;
        let calls: Vec<_> = ids
            .into_iter()
            .map(|id| {
                let work = work(id.clone());
                (id, self.core.tasks.spawn(CALL, move |_token| work))
            })
            .collect();
        let mut failure = None;
        for (id, call) in calls {
            let outcome = call.join().await.unwrap_or_else(|_ended| Err(gone(&id)));
            if let Err(error) = outcome {
                tracing::warn!(container = %id, pod = %pod, error = orlop_types::chain(&error), "a container of a pod resists");
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// All rows of a pod, also those whose records cannot be understood.
    async fn member_ids(
        &self,
        namespace: &Namespace,
        pod: &SandboxId,
    ) -> Result<Vec<ContainerId>, Error> {
        let (core, namespace, pod) = (Arc::clone(&self.core), namespace.clone(), pod.clone());
        let rows = blocking::run("list members", move || {
            let filter = format!("sandbox=={pod}");
            core.db.namespace(&namespace).containers().list(&[filter])
        });
        let rows = rows.await.map_err(Error::Daemon)?;
        let rows = rows.map_err(|source| Error::Record {
            container: "*".to_owned(),
            attempt: "read",
            source,
        })?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// Changes what of a member's record may change; gives what `change` gives.
    pub(super) async fn change_standing<T: Send + 'static>(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        change: impl FnOnce(&mut Standing) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (core, key) = (Arc::clone(&self.core), key(namespace, id));
        blocking::run("write member", move || {
            let _alone = core.calls.record();
            let records = core.db.namespace(&key.namespace);
            let mut row = find(&records, &key.container)?;
            let before = Standing::read(&row)?;
            let mut standing = before.clone();
            let answer = change(&mut standing);
            if standing == before {
                return Ok(answer);
            }
            standing.store(&mut row);
            let (rows, fields) = (records.containers(), [standing_field()]);
            let outcome = if standing.outlives(&before) {
                rows.update(&row, &fields)
            } else {
                rows.update_relaxed(&row, &fields)
            };
            outcome
                .map(|_row| answer)
                .map_err(|source| written(&key.container, source))
        })
        .await
        .map_err(Error::Daemon)?
    }

    /// Whether a task's process may still run.
    pub(super) fn may_run(&self, namespace: &Namespace, id: &ContainerId) -> bool {
        let phase = self.view(namespace, id).map(|view| view.phase);
        matches!(phase, Ok(Phase::Starting | Phase::Running | Phase::Paused))
    }
}

pub(super) fn written(id: &ContainerId, source: orlop_meta::Error) -> Error {
    Error::Record {
        container: id.to_string(),
        attempt: "written",
        source,
    }
}

/// A row that cannot be understood has its images released with the pod.
fn release_images(core: &Core, key: &TaskKey, row: &Container) {
    let pod = SandboxId::new(&row.sandbox);
    if let (Ok(Some(facts)), Ok(pod)) = (Facts::read(row), pod) {
        volumes::release(core, &key.namespace, (&pod, &key.container), &facts.config);
    }
}

/// At once rather than at the next collection, because the kubelet removes containers to get space. What stays is
/// collected.
fn remove_snapshot(records: &orlop_meta::View, row: &Container) {
    let parsed = (
        SnapshotterName::new(&row.snapshotter),
        SnapshotKey::new(&row.snapshot_key),
    );
    let (Ok(snapshotter), Ok(snapshot)) = parsed else {
        return;
    };
    match records.snapshots(&snapshotter).remove(&snapshot) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::debug!(container = %row.id, %error, "a root file system is left to the next collection");
        }
        Ok(_) | Err(_) => {}
    }
}

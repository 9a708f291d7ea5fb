//! The operations on tasks: what every façade calls.

use std::sync::Arc;
use std::time::SystemTime;

use orlop_api::Any;
use orlop_base::blocking;
use orlop_base::clock::SharedClock;
use orlop_base::task::TaskTree;
use orlop_base::telemetry::spans;
use orlop_meta::{Container, Db, NewTask};
use orlop_ttrpc::client::ClientError;
use orlop_types::{ContainerId, ExecId, Mount, Namespace, SnapshotKey, SnapshotterName};
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::Error;
use crate::actor::{ACTOR, Actor, Handle, Message, TaskKey, View};
use crate::container::AUTO_REMOVE_LABEL;
use crate::core::{Core, Settings};
use crate::machine::{Effect, Event, Phase, Task};
use crate::mapping::Mapping;
use crate::process::{ProcessState, init_state};
use crate::record::{Plan, Streams, TaskRecord, VERSION};
use crate::shim::Shim;
use crate::{container, member, network};

/// What a task is created with, over its container's record.
#[derive(Debug, Clone)]
pub struct CreateTask {
    /// The container.
    pub container: ContainerId,
    /// The mounts that make its root file system.
    pub rootfs: Vec<Mount>,
    /// The process's standard streams.
    pub streams: Streams,
    /// A checkpoint to start from; empty for none.
    pub checkpoint: String,
    /// Options for the shim, over the container's own.
    pub options: Option<Any>,
    /// The shim to use instead of the one that the container's runtime names; empty for none.
    pub shim_path: String,
}

/// The tasks of all namespaces. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) core: Arc<Core>,
}

impl Runtime {
    /// A runtime that knows of no task yet; call [`Self::recover`] before serving.
    #[must_use]
    pub fn new(settings: Settings, db: Db, clock: SharedClock, tasks: TaskTree) -> Self {
        Self {
            core: Core::new(settings, db, clock, tasks),
        }
    }

    /// Goes on with what an earlier daemon left: running tasks are adopted with their shims, exits that happened
    /// meanwhile are learnt, half-made tasks are undone. Returns how many tasks there are.
    ///
    /// # Errors
    /// The database cannot be read. A record that cannot be understood is logged and left as it is.
    pub async fn recover(&self) -> Result<usize, Error> {
        let db = self.core.db.clone();
        let stored = blocking::run("read tasks", move || db.tasks())
            .await
            .map_err(Error::Daemon)?;
        let stored = stored.map_err(|source| Error::Record {
            container: "*".to_owned(),
            attempt: "read",
            source,
        })?;
        let mut recovering = Vec::with_capacity(stored.len());
        for task in stored {
            let key = TaskKey {
                namespace: task.namespace,
                container: task.container,
            };
            // One record that this version cannot read must not keep the node's other containers from being adopted.
            let record = match TaskRecord::decode(task.record_version, &task.record) {
                Ok(record) => record,
                Err(source) => {
                    let container = key.container.to_string();
                    let error = Error::ForeignRecord { container, source };
                    let error = orlop_types::chain(&error);
                    tracing::error!(namespace = %key.namespace, error, "a task cannot be recovered; its container may still run");
                    continue;
                }
            };
            let (mut actor, handle) =
                Actor::new(Arc::clone(&self.core), key.clone(), record, Vec::new());
            self.core.adopt(&key, &handle)?;
            // Side by side: a shim that hangs must not keep the others from being adopted.
            recovering.push(self.core.tasks.spawn(ACTOR, move |_token| async move {
                actor.recover().await;
                actor
            }));
        }
        let count = recovering.len();
        for recovered in recovering {
            if let Ok(actor) = recovered.join().await {
                self.run(actor);
            }
        }
        let core = Arc::clone(&self.core);
        let released =
            blocking::run("release leases", move || container::release_leases(&core)).await;
        released
            .map_err(Error::Daemon)?
            .map_err(|source| Error::Record {
                container: "*".to_owned(),
                attempt: "read",
                source,
            })?;
        let core = Arc::clone(&self.core);
        blocking::run("sweep logs", move || container::sweep_logs(&core))
            .await
            .map_err(Error::Daemon)?;
        self.recover_pods().await?;
        self.recover_members().await?;
        Ok(count)
    }

    /// Creates a task; its process waits to be started. Returns the process id.
    ///
    /// # Errors
    /// There is one already, the runtime is unknown, or a step failed: then all of them have been undone.
    pub async fn create(&self, namespace: &Namespace, request: CreateTask) -> Result<u32, Error> {
        let key = TaskKey {
            namespace: namespace.clone(),
            container: request.container.clone(),
        };
        let container = self.container(&key).await?;
        let id = request.container.clone();
        let rootfs = self
            .rootfs(&key, &container, request.rootfs.clone())
            .await?;
        let plan = self.plan_task(&key, &container, request, rootfs)?;
        let (task, mut effects) = Task::create(plan.network_namespace.is_some(), self.core.now());
        // Writing the record for the first time is done below, before anybody else knows of the task.
        effects.retain(|effect| *effect != Effect::Persist);
        let record = TaskRecord {
            task,
            plan,
            addresses: Vec::new(),
            bootstrap: None,
        };
        let stored = record.encode();
        let (mut actor, handle) = Actor::new(
            Arc::clone(&self.core),
            key.clone(),
            record,
            container.spec.value,
        );
        // From here on a second create for the container is refused, naming the step this one is in.
        self.core.adopt(&key, &handle)?;
        if let Err(error) = self.announce(&key, stored).await {
            self.core.forget(&key);
            return Err(error);
        }
        // Spawned, so that a caller that leaves does not leave a half-made task.
        let (core, span) = (Arc::clone(&self.core), spans::carried());
        let creating = self.core.tasks.spawn(ACTOR, move |_token| async move {
            let outcome = actor.create(effects).instrument(span).await;
            if actor.is_gone() {
                core.forget(&key);
                return (outcome, None);
            }
            (outcome, Some(actor))
        });
        let (outcome, actor) = creating.join().await.map_err(|_ended| gone(&id))?;
        if let Some(actor) = actor {
            self.run(actor);
        }
        outcome.map(|()| handle.view.borrow().pid)
    }

    /// What a task is created with, from its container and what was asked for.
    fn plan_task(
        &self,
        key: &TaskKey,
        container: &Container,
        request: CreateTask,
        rootfs: Vec<Mount>,
    ) -> Result<Plan, Error> {
        let streams = streams_or_log(request.streams, container);
        let (mut shim_binary, configured) = self.core.runtime(&container.runtime.name)?;
        if !request.shim_path.is_empty() {
            shim_binary = request.shim_path.into();
        }
        let own_options = container.runtime.options.as_ref().map(|typed| Any {
            type_url: typed.type_url.clone(),
            value: typed.value.clone(),
        });
        let is_member = member::is_member(container);
        Ok(Plan {
            shim_binary,
            options: request
                .options
                .or(own_options)
                .or(configured)
                .map(Into::into),
            rootfs,
            mapping: Some(container)
                .filter(|_| is_member)
                .and_then(|container| Mapping::of_spec(&container.spec.value)),
            streams,
            network_namespace: network::namespace_path(key, container),
            keep_end: is_member || Self::log_path(container).is_some(),
            delete_ended: is_member,
            group: if is_member {
                container.sandbox.clone()
            } else {
                String::new()
            },
            auto_remove: container.labels.value(AUTO_REMOVE_LABEL).is_some(),
            checkpoint: request.checkpoint,
        })
    }

    /// Starts the init process, or a further one. Returns its process id.
    ///
    /// # Errors
    /// No such task or process, it is not waiting to be started, or the OCI runtime failed.
    pub async fn start(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<u32, Error> {
        if let Some(exec) = exec {
            let shim = self.shim(namespace, container)?;
            return shim
                .start(exec.as_str())
                .await
                .map_err(|source| failed(container, "start a process", source));
        }
        self.ask(namespace, container, Event::StartRequested)
            .await?;
        Ok(self.view(namespace, container).map_or(0, |view| view.pid))
    }

    /// Deletes a task that is not running. Returns how its process ended.
    ///
    /// # Errors
    /// No such task, it still runs, or something could not be undone: then the same call tries again.
    pub async fn delete(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<ProcessState, Error> {
        let handle = self.handle(namespace, container)?;
        self.ask(namespace, container, Event::DeleteRequested)
            .await?;
        Ok(init_state(container, &handle.view.borrow()))
    }

    /// Waits for a process to end. Returns exit status and time.
    ///
    /// # Errors
    /// No such task or process, or it was deleted meanwhile.
    pub async fn wait(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<(u32, SystemTime), Error> {
        if let Some(exec) = exec {
            let shim = self.shim(namespace, container)?;
            let ended = shim
                .wait(exec.as_str())
                .await
                .map_err(|source| failed(container, "wait", source))?;
            return Ok((ended.exit_status, ended.at));
        }
        let mut view = self.handle(namespace, container)?.view;
        let ended = view
            .wait_for(|view| view.exit.is_some())
            .await
            .map_err(|_closed| gone(container))?;
        ended
            .exit
            .as_ref()
            .map(|exit| (exit.code, exit.at))
            .ok_or_else(|| gone(container))
    }

    /// Freezes a running task.
    ///
    /// # Errors
    /// No such task, or the OCI runtime failed.
    pub async fn pause(&self, namespace: &Namespace, container: &ContainerId) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        shim.pause()
            .await
            .map_err(|source| failed(container, "pause", source))?;
        self.tell(namespace, container, Event::Paused, Phase::Running)
            .await
    }

    /// Thaws a frozen task.
    ///
    /// # Errors
    /// No such task, or the OCI runtime failed.
    pub async fn resume(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        shim.resume()
            .await
            .map_err(|source| failed(container, "resume", source))?;
        self.tell(namespace, container, Event::Resumed, Phase::Paused)
            .await
    }

    /// Hands an actor its place among the daemon's tasks.
    fn run(&self, actor: Actor) {
        self.core.tasks.spawn(ACTOR, move |token| actor.run(token));
    }

    pub(crate) async fn container(&self, key: &TaskKey) -> Result<Container, Error> {
        let (db, key) = (self.core.db.clone(), key.clone());
        let id = key.container.to_string();
        let read = blocking::run("read container", move || {
            db.namespace(&key.namespace)
                .containers()
                .find(&key.container)
        });
        read.await
            .map_err(Error::Daemon)?
            .map_err(|source| Error::Record {
                container: id,
                attempt: "read",
                source,
            })
    }

    /// The mounts of the root file system: the caller's, or those of the container's snapshot.
    async fn rootfs(
        &self,
        key: &TaskKey,
        container: &Container,
        given: Vec<Mount>,
    ) -> Result<Vec<Mount>, Error> {
        let parsed = (
            SnapshotterName::new(&container.snapshotter),
            SnapshotKey::new(&container.snapshot_key),
        );
        let (true, (Ok(snapshotter), Ok(snapshot))) = (given.is_empty(), parsed) else {
            return Ok(given);
        };
        let (db, namespace, id) = (
            self.core.db.clone(),
            key.namespace.clone(),
            key.container.to_string(),
        );
        let read = blocking::run("read mounts", move || {
            db.namespace(&namespace)
                .snapshots(&snapshotter)
                .mounts(&snapshot)
        });
        read.await
            .map_err(Error::Daemon)?
            .map_err(|source| Error::Record {
                container: id,
                attempt: "read",
                source,
            })
    }

    /// Writes the record of a task that is about to be created.
    async fn announce(&self, key: &TaskKey, record: Vec<u8>) -> Result<(), Error> {
        let (db, key) = (self.core.db.clone(), key.clone());
        let id = key.container.to_string();
        let bundle = self
            .core
            .settings
            .state_folder
            .join(key.namespace.as_str())
            .join(key.container.as_str());
        let task = NewTask {
            container: key.container.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            record_version: VERSION,
            record,
        };
        let write = blocking::run("announce task", move || {
            db.namespace(&key.namespace).tasks().create(&task).map(drop)
        });
        write
            .await
            .map_err(Error::Daemon)?
            .map_err(|source| Error::Record {
                container: id,
                attempt: "written",
                source,
            })
    }

    async fn ask(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        event: Event,
    ) -> Result<(), Error> {
        let handle = self.handle(namespace, container)?;
        let (answer, answered) = oneshot::channel();
        let message = Message::Ask(event, spans::carried(), answer);
        if handle.inbox.send(message).await.is_ok()
            && let Ok(outcome) = answered.await
        {
            return outcome;
        }
        // The actor has ended: because the task is gone by now, or because the daemon is going.
        self.handle(namespace, container)?;
        Err(gone(container))
    }

    /// Tells the actor what the shim has done, and waits until the task is in `from` no more.
    async fn tell(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        event: Event,
        from: Phase,
    ) -> Result<(), Error> {
        let mut handle = self.handle(namespace, container)?;
        handle
            .inbox
            .send(Message::Happened(event))
            .await
            .map_err(|_closed| gone(container))?;
        // Whoever asks next must not find the task as it was.
        let left = handle.view.wait_for(|view| view.phase != from).await;
        left.map(drop).map_err(|_closed| gone(container))
    }

    fn handle(&self, namespace: &Namespace, container: &ContainerId) -> Result<Handle, Error> {
        let key = TaskKey {
            namespace: namespace.clone(),
            container: container.clone(),
        };
        self.core.handle(&key).ok_or_else(|| Error::NoTask {
            container: container.to_string(),
        })
    }

    pub(crate) fn view(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<View, Error> {
        self.handle(namespace, container)
            .map(|handle| handle.view.borrow().clone())
    }

    pub(crate) fn shim(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Shim, Error> {
        self.view(namespace, container)?
            .shim
            .ok_or_else(|| gone(container))
    }
}

/// A container made by [`Runtime::create_container`] that nobody is attached to writes its log, through the shim, so that
/// it goes on while the daemon is away.
fn streams_or_log(streams: Streams, container: &Container) -> Streams {
    let unattached =
        streams.stdin.is_empty() && streams.stdout.is_empty() && streams.stderr.is_empty();
    let (true, Some(log)) = (unattached, Runtime::log_path(container)) else {
        return streams;
    };
    let log = format!("cri-log://{}", uri_path(log));
    let stderr = if streams.terminal {
        String::new()
    } else {
        log.clone()
    };
    Streams {
        stdout: log,
        stderr,
        ..streams
    }
}

/// A path as it stands in a URI: what would end it or start an escape is escaped (RFC 3986).
pub(crate) fn uri_path(path: &std::path::Path) -> String {
    let text = path.to_string_lossy();
    text.replace('%', "%25")
        .replace('?', "%3F")
        .replace('#', "%23")
}

pub(crate) fn gone(container: &ContainerId) -> Error {
    Error::Gone {
        container: container.to_string(),
    }
}

pub(crate) fn failed(container: &ContainerId, attempt: &'static str, source: ClientError) -> Error {
    Error::Shim {
        container: container.to_string(),
        attempt,
        source,
    }
}

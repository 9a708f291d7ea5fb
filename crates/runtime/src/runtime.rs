//! The operations on tasks: what every façade calls.

use std::sync::Arc;
use std::time::SystemTime;

use orlop_api::Any;
use orlop_api::containerd::task::v3::{ExecProcessRequest, StateResponse};
use orlop_api::containerd::v1::types::ProcessInfo;
use orlop_base::blocking;
use orlop_base::clock::SharedClock;
use orlop_base::task::TaskTree;
use orlop_meta::{Container, Db, NewTask};
use orlop_ttrpc::client::ClientError;
use orlop_types::exit::ExitCause;
use orlop_types::{ContainerId, ExecId, Mount, Namespace, SnapshotKey, SnapshotterName};
use tokio::sync::oneshot;

use crate::Error;
use crate::actor::{ACTOR, Actor, Handle, Message, TaskKey, View};
use crate::core::{Core, Settings};
use crate::machine::{Event, Exit, Phase, Task, Transition};
use crate::network;
use crate::record::{Plan, Streams, TaskRecord, VERSION};
use crate::shim::Shim;

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
}

/// A further process in a running task.
#[derive(Debug, Clone)]
pub struct Exec {
    /// Its id.
    pub id: ExecId,
    /// Its standard streams.
    pub streams: Streams,
    /// An OCI process as JSON, typed as containerd types it.
    pub spec: Any,
}

/// A process as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessState {
    /// The container.
    pub container: ContainerId,
    /// The further process; absent for the init process.
    pub exec: Option<ExecId>,
    /// Its id in the host's pid namespace; 0 before it is known.
    pub pid: u32,
    /// Where it is.
    pub status: Status,
    /// Its standard streams.
    pub streams: Streams,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// Where a process is, in the words of containerd's task service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Created or being created.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Stopped,
    /// Frozen.
    Paused,
    /// The shim says something else.
    Unknown,
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
    /// The database cannot be read, or holds a record that no version of Orlop wrote.
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
            let container = task.container.to_string();
            let record = TaskRecord::decode(&task.record)
                .map_err(|source| Error::ForeignRecord { container, source })?;
            let key = TaskKey {
                namespace: task.namespace,
                container: task.container,
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
        let rootfs = self.rootfs(&key, &container, request.rootfs).await?;
        let streams = streams_or_log(request.streams, &container);
        let (shim_binary, configured) = self.core.runtime(&container.runtime.name)?;
        let own_options = container.runtime.options.as_ref().map(|typed| Any {
            type_url: typed.type_url.clone(),
            value: typed.value.clone(),
        });
        let plan = Plan {
            shim_binary,
            options: request
                .options
                .or(own_options)
                .or(configured)
                .map(Into::into),
            rootfs,
            streams,
            network_namespace: network::namespace_path(&key, &container),
            checkpoint: request.checkpoint,
        };
        let (task, effects) = Task::create(plan.network_namespace.is_some(), self.core.now());
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
        let core = Arc::clone(&self.core);
        let creating = self.core.tasks.spawn(ACTOR, move |_token| async move {
            let outcome = actor.create(effects).await;
            if actor.is_gone() {
                core.forget(&key);
                return (outcome, None);
            }
            (outcome, Some(actor))
        });
        let (outcome, actor) = creating
            .join()
            .await
            .map_err(|_ended| gone(&request.container))?;
        if let Some(actor) = actor {
            self.run(actor);
        }
        outcome.map(|()| handle.view.borrow().pid)
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

    /// Removes a further process that has ended. Returns its process id, exit status and time.
    ///
    /// # Errors
    /// No such task or process, or it still runs.
    pub async fn delete_exec(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: &ExecId,
    ) -> Result<(u32, u32, SystemTime), Error> {
        let shim = self.shim(namespace, container)?;
        let ended = shim
            .delete(exec.as_str())
            .await
            .map_err(|source| failed(container, "delete a process", source))?;
        Ok((ended.pid, ended.exit_status, ended.at))
    }

    /// Defines a further process; it waits to be started.
    ///
    /// # Errors
    /// No such task, a process of that id, or the shim refused.
    pub async fn exec(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Exec,
    ) -> Result<(), Error> {
        let request = ExecProcessRequest {
            id: container.to_string(),
            exec_id: exec.id.to_string(),
            terminal: exec.streams.terminal,
            stdin: exec.streams.stdin,
            stdout: exec.streams.stdout,
            stderr: exec.streams.stderr,
            spec: Some(exec.spec),
        };
        let shim = self.shim(namespace, container)?;
        shim.exec(&request)
            .await
            .map_err(|source| failed(container, "define a process", source))
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

    /// Sends a signal to a process, or to all processes of the task.
    ///
    /// # Errors
    /// No such task or process, it has ended, or the OCI runtime failed.
    pub async fn kill(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
        signal: u32,
        all: bool,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        let exec = exec.map_or("", ExecId::as_str);
        shim.kill(exec, signal, all)
            .await
            .map_err(|source| failed(container, "signal", source))
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
        self.tell(namespace, container, Event::Paused).await
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
        self.tell(namespace, container, Event::Resumed).await
    }

    /// Changes the size of a process's terminal, in characters.
    ///
    /// # Errors
    /// No such task or process, or it has no terminal.
    pub async fn resize(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
        (width, height): (u32, u32),
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        let exec = exec.map_or("", ExecId::as_str);
        shim.resize(exec, width, height)
            .await
            .map_err(|source| failed(container, "resize the terminal", source))
    }

    /// Closes a process's standard input.
    ///
    /// # Errors
    /// No such task or process.
    pub async fn close_stdin(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        let exec = exec.map_or("", ExecId::as_str);
        shim.close_stdin(exec)
            .await
            .map_err(|source| failed(container, "close standard input", source))
    }

    /// The processes of a task, in the host's pid namespace.
    ///
    /// # Errors
    /// No such task, or the OCI runtime failed.
    pub async fn pids(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Vec<ProcessInfo>, Error> {
        let shim = self.shim(namespace, container)?;
        shim.pids()
            .await
            .map(|answer| answer.processes)
            .map_err(|source| failed(container, "list processes", source))
    }

    /// Changes the limits of a task: OCI Linux resources as JSON, typed as containerd types them.
    ///
    /// # Errors
    /// No such task, or the OCI runtime refused.
    pub async fn update(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        resources: Any,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        shim.update(resources)
            .await
            .map_err(|source| failed(container, "update", source))
    }

    /// Writes a checkpoint of a task into `path`.
    ///
    /// # Errors
    /// No such task, or the OCI runtime cannot do it.
    pub async fn checkpoint(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        path: &str,
        options: Option<Any>,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        shim.checkpoint(path, options)
            .await
            .map_err(|source| failed(container, "checkpoint", source))
    }

    /// A task's figures, as the cgroup metrics message of containerd for this machine's cgroup version.
    ///
    /// # Errors
    /// No such task, or the shim failed.
    pub async fn stats(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Option<Any>, Error> {
        let shim = self.shim(namespace, container)?;
        shim.stats()
            .await
            .map_err(|source| failed(container, "read figures", source))
    }

    /// A process as it is now.
    ///
    /// # Errors
    /// No such task or process.
    pub async fn state(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<ProcessState, Error> {
        let view = self.view(namespace, container)?;
        let Some(exec) = exec else {
            return Ok(init_state(container, &view));
        };
        let shim = self.shim(namespace, container)?;
        let answer = shim
            .state(exec.as_str())
            .await
            .map_err(|source| failed(container, "tell a process's state", source))?;
        Ok(exec_state(container, exec, answer))
    }

    /// The init processes of all tasks of a namespace.
    #[must_use]
    pub fn list(&self, namespace: &Namespace) -> Vec<ProcessState> {
        let own = self
            .core
            .handles()
            .into_iter()
            .filter(|(key, _)| key.namespace == *namespace);
        let mut states: Vec<_> = own
            .map(|(key, handle)| init_state(&key.container, &handle.view.borrow()))
            .collect();
        states.sort_by(|a, b| a.container.cmp(&b.container));
        states
    }

    /// How a task's start went so far, oldest step first.
    ///
    /// # Errors
    /// No such task.
    pub fn transitions(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Vec<Transition>, Error> {
        self.view(namespace, container).map(|view| view.transitions)
    }

    /// A task's network: where its namespace is pinned and which addresses it has; `None` for tasks without one.
    ///
    /// # Errors
    /// No such task.
    pub fn network(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Option<(std::path::PathBuf, Vec<String>)>, Error> {
        let view = self.view(namespace, container)?;
        Ok(view
            .plan
            .network_namespace
            .map(|path| (path, view.addresses)))
    }

    /// The process id of the shim that holds a task.
    ///
    /// # Errors
    /// No such task, or the shim does not answer.
    pub async fn shim_pid(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<u32, Error> {
        let shim = self.shim(namespace, container)?;
        shim.shim_pid()
            .await
            .map_err(|source| failed(container, "tell its process id", source))
    }

    /// Hands an actor its place among the daemon's tasks.
    fn run(&self, actor: Actor) {
        self.core.tasks.spawn(ACTOR, move |token| actor.run(token));
    }

    async fn container(&self, key: &TaskKey) -> Result<Container, Error> {
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
        handle
            .inbox
            .send(Message::Ask(event, answer))
            .await
            .map_err(|_closed| gone(container))?;
        answered.await.map_err(|_closed| gone(container))?
    }

    async fn tell(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        event: Event,
    ) -> Result<(), Error> {
        let handle = self.handle(namespace, container)?;
        handle
            .inbox
            .send(Message::Happened(event))
            .await
            .map_err(|_closed| gone(container))
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

    fn view(&self, namespace: &Namespace, container: &ContainerId) -> Result<View, Error> {
        self.handle(namespace, container)
            .map(|handle| handle.view.borrow().clone())
    }

    fn shim(&self, namespace: &Namespace, container: &ContainerId) -> Result<Shim, Error> {
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
fn uri_path(path: &std::path::Path) -> String {
    let text = path.to_string_lossy();
    text.replace('%', "%25")
        .replace('?', "%3F")
        .replace('#', "%23")
}

fn gone(container: &ContainerId) -> Error {
    Error::Gone {
        container: container.to_string(),
    }
}

fn failed(container: &ContainerId, attempt: &'static str, source: ClientError) -> Error {
    Error::Shim {
        container: container.to_string(),
        attempt,
        source,
    }
}

fn init_state(container: &ContainerId, view: &View) -> ProcessState {
    let status = match view.phase {
        Phase::Creating(_) | Phase::Created | Phase::Starting => Status::Created,
        Phase::Running => Status::Running,
        Phase::Paused => Status::Paused,
        Phase::Stopped | Phase::Deleting => Status::Stopped,
    };
    ProcessState {
        container: container.clone(),
        exec: None,
        pid: view.pid,
        status,
        streams: view.plan.streams.clone(),
        exit: view.exit.clone(),
    }
}

fn exec_state(container: &ContainerId, exec: &ExecId, answer: StateResponse) -> ProcessState {
    use orlop_api::containerd::v1::types::Status as Wire;
    let status = match Wire::try_from(answer.status) {
        Ok(Wire::Created) => Status::Created,
        Ok(Wire::Running) => Status::Running,
        Ok(Wire::Stopped) => Status::Stopped,
        Ok(Wire::Paused | Wire::Pausing) => Status::Paused,
        Ok(Wire::Unknown) | Err(_) => Status::Unknown,
    };
    let at = answer.exited_at.and_then(|stamp| stamp.try_into().ok());
    let exit = at.filter(|_| status == Status::Stopped);
    ProcessState {
        container: container.clone(),
        exec: Some(exec.clone()),
        pid: answer.pid,
        status,
        streams: Streams {
            stdin: answer.stdin,
            stdout: answer.stdout,
            stderr: answer.stderr,
            terminal: answer.terminal,
        },
        exit: exit.map(|at| Exit {
            code: answer.exit_status,
            at,
            cause: ExitCause::Unknown,
            record: None,
        }),
    }
}

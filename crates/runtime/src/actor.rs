//! One actor per task: it owns the machine's state, executes its effects, and takes one event at a time.
//!
//! Crash: the record in the database is always at least as far as the effects. Cancellation: a caller that goes away
//! does not stop what it asked for. Ordering: requests and exits are taken in the order they arrive; what needs no
//! machine (signals, exec, figures) goes to the shim directly and does not wait here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use orlop_api::containerd::task::v3::CreateTaskRequest;
use orlop_base::blocking;
use orlop_base::task::TaskKind;
use orlop_meta::{Event as Announcement, TaskUpdate};
use orlop_types::exit::ExitCause;
use orlop_types::{ContainerId, Namespace};
use tokio::sync::{mpsc, oneshot, watch};

use crate::bundle::Bundle;
use crate::core::Core;
use crate::machine::{Effect, Event, Exit, Notice, Phase, Step, Transition};
use crate::record::{TaskRecord, VERSION};
use crate::shim::{Ended, Launch, Shim, cleanup, connect, launch};
use crate::{Error, exit, network};

/// Runs one task's machine; at shutdown the step under way is finished.
pub(crate) const ACTOR: TaskKind = TaskKind::cooperative("container task");

/// Waits for one process to end; holds nothing.
const WAITER: TaskKind = TaskKind::dropped("exit waiter");

/// How long a step may take before it is given up and undone.
const STEP_LIMIT: Duration = Duration::from_secs(90);

/// How long a shim that was told to end may take before the bundle goes.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Whose task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TaskKey {
    pub(crate) namespace: Namespace,
    pub(crate) container: ContainerId,
}

/// What anybody may see of a task at any time.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
    pub(crate) transitions: Vec<Transition>,
    pub(crate) shim: Option<Shim>,
    pub(crate) plan: crate::record::Plan,
    pub(crate) addresses: Vec<String>,
}

/// What is sent to an actor.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody asks, and waits for the outcome.
    Ask(Event, oneshot::Sender<Result<(), Error>>),
    /// Something happened.
    Happened(Event),
}

/// The way to one actor.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) inbox: mpsc::Sender<Message>,
    pub(crate) view: watch::Receiver<View>,
}

pub(crate) struct Actor {
    core: Arc<Core>,
    key: TaskKey,
    record: TaskRecord,
    bundle: Bundle,
    /// The OCI spec, needed only until the bundle is written.
    spec: Vec<u8>,
    shim: Option<Shim>,
    notices: Vec<Notice>,
    /// What the shim said when it deleted the container.
    ended: Option<Ended>,
    /// The first thing that went wrong with the request under way.
    failure: Option<Error>,
    /// Whether something could not be undone: then the record stays, for the next try.
    undo_failed: bool,
    /// Whether the record is deleted.
    gone: bool,
    view: watch::Sender<View>,
    inbox: mpsc::Receiver<Message>,
    own_inbox: mpsc::WeakSender<Message>,
}

/// Messages waiting for one actor; a caller beyond that waits.
const INBOX_LENGTH: usize = 8;

impl Actor {
    /// An actor that has done nothing yet, and the way to it.
    pub(crate) fn new(
        core: Arc<Core>,
        key: TaskKey,
        record: TaskRecord,
        spec: Vec<u8>,
    ) -> (Self, Handle) {
        let (sender, inbox) = mpsc::channel(INBOX_LENGTH);
        let bundle = Bundle::new(&core.settings.state_folder, &key.namespace, &key.container);
        let (view, receiver) = watch::channel(View {
            phase: record.task.phase,
            pid: record.task.pid.unwrap_or(0),
            exit: record.task.exit.clone(),
            transitions: record.task.transitions.clone(),
            shim: None,
            plan: record.plan.clone(),
            addresses: record.addresses.clone(),
        });
        let handle = Handle {
            inbox: sender.clone(),
            view: receiver,
        };
        let own_inbox = sender.downgrade();
        let actor = Self {
            core,
            key,
            record,
            bundle,
            spec,
            shim: None,
            notices: Vec::new(),
            ended: None,
            failure: None,
            undo_failed: false,
            gone: false,
            view,
            inbox,
            own_inbox,
        };
        (actor, handle)
    }

    /// Creates the task; the record has been written. On failure everything has been undone and the actor is done.
    pub(crate) async fn create(&mut self, effects: Vec<Effect>) -> Result<(), Error> {
        self.execute(effects).await;
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Goes on with a task that an earlier daemon left: connects to its shim, or finds out how it ended.
    pub(crate) async fn recover(&mut self) {
        self.shim = self.reconnect().await;
        let shim_answers = self.shim.is_some();
        self.take(Event::Recovered { shim_answers }).await;
        if shim_answers && self.record.task.exit.is_none() && self.record.task.pid.is_some() {
            self.watch_exit();
        }
        self.show();
        if let Some(error) = self.failure.take() {
            tracing::warn!(namespace = %self.key.namespace, container = %self.key.container, %error, "a task was not recovered in full");
        }
    }

    /// Takes messages until the task is gone or the daemon ends.
    pub(crate) async fn run(mut self, cancelled: orlop_base::task::CancellationToken) {
        while !self.is_gone() {
            let message = tokio::select! {
                message = self.inbox.recv() => message,
                () = cancelled.cancelled() => None,
            };
            match message {
                Some(Message::Ask(event, answer)) => {
                    let outcome = self.ask(event).await;
                    // A caller that left wants no answer.
                    drop(answer.send(outcome));
                }
                Some(Message::Happened(event)) => {
                    self.take(event).await;
                    self.report_failure();
                }
                None => return,
            }
        }
        self.core.forget(&self.key);
    }

    /// Whether the record is deleted and nothing is left to do.
    pub(crate) const fn is_gone(&self) -> bool {
        self.gone
    }

    async fn ask(&mut self, event: Event) -> Result<(), Error> {
        let effects = self.record.task.step(event, self.core.now())?;
        self.execute(effects).await;
        self.failure.take().map_or(Ok(()), Err)
    }

    async fn take(&mut self, event: Event) {
        match self.record.task.step(event, self.core.now()) {
            Ok(effects) => self.execute(effects).await,
            Err(refused) => {
                tracing::debug!(container = %self.key.container, %refused, "an outcome came too late")
            }
        }
    }

    fn report_failure(&mut self) {
        if let Some(error) = self.failure.take() {
            tracing::warn!(namespace = %self.key.namespace, container = %self.key.container, %error, "a task's step failed");
        }
    }

    /// Executes effects in order; outcomes may add further ones.
    async fn execute(&mut self, effects: Vec<Effect>) {
        let mut queue = VecDeque::from(effects);
        self.undo_failed = false;
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Persist => {
                    // A step that could not be announced is not done: it failed.
                    if let (Err(error), Some(Effect::Do(step))) =
                        (self.persist().await, queue.front().copied())
                    {
                        queue.pop_front();
                        queue.extend(self.failed(step, error));
                    }
                }
                Effect::Do(step) => {
                    let outcome = tokio::time::timeout(STEP_LIMIT, self.perform(step)).await;
                    let more = match outcome.unwrap_or_else(|_elapsed| Err(self.too_slow(step))) {
                        Ok(pid) => self.next(Event::Done { step, pid }),
                        Err(error) => self.failed(step, error),
                    };
                    queue.extend(more);
                }
                Effect::Undo(step) => self.undo(step).await,
                Effect::Forget if self.undo_failed => {}
                Effect::Forget => self.forget().await,
                Effect::ReadExitRecord => {
                    let exit = self
                        .read_exit()
                        .await
                        .unwrap_or_else(|| exit::unseen(self.core.now()));
                    queue.extend(self.next(Event::Exited(exit)));
                }
                Effect::Publish(notice) => self.notices.push(notice),
            }
            self.show();
        }
    }

    fn next(&mut self, event: Event) -> Vec<Effect> {
        // Outcomes are never refused; only requests are.
        self.record
            .task
            .step(event, self.core.now())
            .unwrap_or_default()
    }

    fn failed(&mut self, step: Step, error: Error) -> Vec<Effect> {
        let text = crate::error::with_sources(&error);
        self.failure.get_or_insert(error);
        self.next(Event::Failed { step, error: text })
    }

    fn too_slow(&self, step: Step) -> Error {
        Error::Deadline {
            container: self.key.container.to_string(),
            step,
            limit: STEP_LIMIT,
        }
    }

    async fn perform(&mut self, step: Step) -> Result<Option<u32>, Error> {
        match step {
            Step::Bundle => {
                let (bundle, spec) = (self.bundle.clone(), std::mem::take(&mut self.spec));
                let networked = self.record.task.networked;
                blocking::run("create bundle", move || bundle.create(&spec, networked))
                    .await
                    .map_err(Error::Daemon)??;
                Ok(None)
            }
            Step::Network => {
                let (core, key, path) = (
                    Arc::clone(&self.core),
                    self.key.clone(),
                    self.network_namespace(),
                );
                let attached = blocking::run_long("attach network", move || {
                    network::attach(&core.settings.network, &key, &path)
                })
                .await;
                self.record.addresses = attached.map_err(Error::Daemon)??;
                Ok(None)
            }
            Step::Shim => {
                let bootstrap = launch(self.launch()).await?;
                let shim = connect(&bootstrap, &self.key.container, &self.core.tasks).await;
                // Kept even if connecting failed: the undo has to find the shim.
                self.record.bootstrap = Some(bootstrap);
                self.shim =
                    Some(shim.map_err(|source| self.shim_error("to be connected", source))?);
                Ok(None)
            }
            Step::Create => {
                let shim = self.shim()?;
                let pid = shim
                    .create(&self.create_request())
                    .await
                    .map_err(|source| self.shim_error("create", source))?;
                self.watch_exit();
                Ok(Some(pid))
            }
            Step::Start => {
                let shim = self.shim()?;
                shim.start("")
                    .await
                    .map_err(|source| self.shim_error("start", source))?;
                Ok(None)
            }
        }
    }

    /// Best effort and idempotent; the first error is kept, the others are logged.
    async fn undo(&mut self, step: Step) {
        let outcome = match step {
            Step::Bundle => self.undo_bundle().await,
            Step::Network => self.undo_network().await,
            Step::Shim => self.undo_shim().await,
            Step::Create | Step::Start => self.undo_create().await,
        };
        if let Err(error) = outcome {
            tracing::warn!(namespace = %self.key.namespace, container = %self.key.container, %step, %error, "cannot undo");
            self.undo_failed = true;
            self.failure.get_or_insert(error);
        }
    }

    async fn undo_create(&mut self) -> Result<(), Error> {
        let Some(shim) = self.shim.clone().filter(|shim| !shim.is_lost()) else {
            // Nobody is left to ask: the shim's own executable kills and removes what there is.
            return if self.record.bootstrap.is_some() {
                cleanup(self.launch()).await
            } else {
                Ok(())
            };
        };
        match shim.delete("").await {
            Ok(ended) => {
                self.ended = Some(ended);
                Ok(())
            }
            Err(error)
                if error
                    .status()
                    .is_some_and(|status| status.code == orlop_ttrpc::Code::NotFound) =>
            {
                Ok(())
            }
            Err(error) if error.is_connection_lost() => cleanup(self.launch()).await,
            Err(source) => Err(self.shim_error("delete", source)),
        }
    }

    async fn undo_shim(&mut self) -> Result<(), Error> {
        let shim = match self.shim.take() {
            Some(shim) => Some(shim),
            None => self.reconnect().await,
        };
        let Some(shim) = shim.filter(|shim| !shim.is_lost()) else {
            return Ok(());
        };
        shim.shutdown()
            .await
            .map_err(|source| self.shim_error("shut down", source))?;
        // A shim that still serves other containers of its pod stays, and is not waited for.
        if tokio::time::timeout(SHUTDOWN_LIMIT, shim.closed())
            .await
            .is_err()
        {
            tracing::debug!(container = %self.key.container, "the shim stays");
        }
        Ok(())
    }

    async fn undo_network(&mut self) -> Result<(), Error> {
        let (core, key, path) = (
            Arc::clone(&self.core),
            self.key.clone(),
            self.network_namespace(),
        );
        blocking::run_long("detach network", move || {
            network::detach(&core.settings.network, &key, &path)
        })
        .await
        .map_err(Error::Daemon)?
    }

    fn network_namespace(&self) -> std::path::PathBuf {
        self.record
            .plan
            .network_namespace
            .clone()
            .unwrap_or_default()
    }

    async fn undo_bundle(&self) -> Result<(), Error> {
        let bundle = self.bundle.clone();
        blocking::run("remove bundle", move || bundle.remove())
            .await
            .map_err(Error::Daemon)?
    }

    async fn reconnect(&self) -> Option<Shim> {
        let bootstrap = self.record.bootstrap.as_ref()?;
        let shim = connect(bootstrap, &self.key.container, &self.core.tasks)
            .await
            .ok()?;
        // A socket alone proves nothing: the shim has to answer for this container.
        shim.shim_pid().await.ok().map(|_pid| shim)
    }

    /// Has the end of the init process sent to this actor, however it becomes known.
    fn watch_exit(&self) {
        let (Some(shim), Some(inbox)) = (self.shim.clone(), self.own_inbox.upgrade()) else {
            return;
        };
        let bundle = self.bundle.clone();
        let core = Arc::clone(&self.core);
        self.core.tasks.spawn(WAITER, move |_token| async move {
            let event = match shim.wait("").await {
                Ok(ended) => Event::Exited(observed(bundle, ended).await),
                Err(_lost) => Event::Recovered {
                    shim_answers: false,
                },
            };
            // Closed: the task is being deleted, or the daemon ends; the record says where to go on.
            drop(inbox.send(Message::Happened(event)).await);
            drop(core);
        });
    }

    async fn read_exit(&self) -> Option<Exit> {
        read_exit_record(self.bundle.clone()).await
    }

    async fn persist(&mut self) -> Result<(), Error> {
        let update = TaskUpdate {
            state: Some(self.record.state()),
            shim_address: self
                .record
                .bootstrap
                .as_ref()
                .map(|bootstrap| bootstrap.socket.to_string_lossy().into_owned()),
            pid: self.record.task.pid,
            exit: self
                .record
                .task
                .exit
                .as_ref()
                .map(|exit| (exit.code, exit.at)),
            record: Some((VERSION, self.record.encode())),
            events: self.announcements(),
        };
        let (db, key) = (self.core.db.clone(), self.key.clone());
        let written = blocking::run("write task", move || {
            db.namespace(&key.namespace)
                .tasks()
                .update(&key.container, &update)
                .map(drop)
        })
        .await;
        self.written(written)
    }

    async fn forget(&mut self) {
        let (db, key, events) = (self.core.db.clone(), self.key.clone(), self.announcements());
        let deleted = blocking::run("delete task", move || {
            db.namespace(&key.namespace)
                .tasks()
                .delete(&key.container, &events)
        })
        .await;
        match self.written(deleted) {
            Ok(()) => self.gone = true,
            Err(error) => drop(self.failure.get_or_insert(error)),
        }
    }

    fn written(
        &self,
        outcome: Result<Result<(), orlop_meta::Error>, blocking::BlockingError>,
    ) -> Result<(), Error> {
        let container = self.key.container.to_string();
        outcome
            .map_err(Error::Daemon)?
            .map_err(|source| Error::Record {
                container,
                attempt: "written",
                source,
            })
    }

    fn announcements(&mut self) -> Vec<Announcement> {
        std::mem::take(&mut self.notices)
            .into_iter()
            .map(|notice| self.announcement(notice))
            .collect()
    }

    fn announcement(&self, notice: Notice) -> Announcement {
        let container = self.key.container.clone();
        let pid = self.record.task.pid.unwrap_or(0);
        let (exit_status, exited_at) = self.end();
        match notice {
            Notice::Created => {
                let streams = self.record.plan.streams.clone();
                Announcement::TaskCreate {
                    container,
                    bundle: self.bundle.path().to_string_lossy().into_owned(),
                    rootfs: self.record.plan.rootfs.clone(),
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                    terminal: streams.terminal,
                    checkpoint: self.record.plan.checkpoint.clone(),
                    pid,
                }
            }
            Notice::Started => Announcement::TaskStart { container, pid },
            Notice::Exited => {
                let cause = self
                    .record
                    .task
                    .exit
                    .as_ref()
                    .map(|exit| exit::word(exit.cause));
                let process = container.to_string();
                Announcement::TaskExit {
                    container,
                    process,
                    pid,
                    exit_status,
                    exited_at,
                    cause,
                }
            }
            Notice::Paused => Announcement::TaskPaused { container },
            Notice::Resumed => Announcement::TaskResumed { container },
            Notice::Deleted => {
                let process = String::new();
                Announcement::TaskDelete {
                    container,
                    process,
                    pid,
                    exit_status,
                    exited_at,
                }
            }
        }
    }

    /// Exit status and time in nanoseconds since 1970: the observed one, or what the shim said on deletion.
    fn end(&self) -> (u32, i64) {
        let observed = self
            .record
            .task
            .exit
            .as_ref()
            .map(|exit| (exit.code, exit.at));
        let told = self.ended.map(|ended| (ended.exit_status, ended.at));
        let Some((code, at)) = observed.or(told) else {
            return (0, 0);
        };
        let nanos = at
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        (code, i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    fn create_request(&self) -> CreateTaskRequest {
        let plan = &self.record.plan;
        CreateTaskRequest {
            id: self.key.container.to_string(),
            bundle: self.bundle.path().to_string_lossy().into_owned(),
            rootfs: plan.rootfs.iter().map(wire_mount).collect(),
            terminal: plan.streams.terminal,
            stdin: plan.streams.stdin.clone(),
            stdout: plan.streams.stdout.clone(),
            stderr: plan.streams.stderr.clone(),
            checkpoint: plan.checkpoint.clone(),
            parent_checkpoint: String::new(),
            options: plan.options.clone().map(Into::into),
        }
    }

    fn launch(&self) -> Launch {
        let settings = &self.core.settings;
        Launch {
            binary: self.record.plan.shim_binary.clone(),
            namespace: self.key.namespace.clone(),
            container: self.key.container.clone(),
            bundle: self.bundle.path(),
            address: settings.address.clone(),
            ttrpc_address: settings.ttrpc_address.clone(),
            publish_binary: settings.publish_binary.clone(),
            options: self.record.plan.options.clone().map(Into::into),
        }
    }

    fn shim(&self) -> Result<Shim, Error> {
        self.shim.clone().ok_or_else(|| Error::Gone {
            container: self.key.container.to_string(),
        })
    }

    fn shim_error(&self, attempt: &'static str, source: orlop_ttrpc::client::ClientError) -> Error {
        Error::Shim {
            container: self.key.container.to_string(),
            attempt,
            source,
        }
    }

    fn show(&self) {
        let task = &self.record.task;
        self.view.send_modify(|view| {
            view.phase = task.phase;
            view.pid = task.pid.unwrap_or(0);
            view.exit.clone_from(&task.exit);
            view.transitions.clone_from(&task.transitions);
            view.shim.clone_from(&self.shim);
            view.addresses.clone_from(&self.record.addresses);
        });
    }
}

/// What the shim told, with the raw status and the cause that only its record has.
async fn observed(bundle: Bundle, ended: Ended) -> Exit {
    match read_exit_record(bundle).await {
        Some(exit) if exit.code == ended.exit_status => exit,
        Some(_) | None => Exit {
            code: ended.exit_status,
            at: ended.at,
            cause: ExitCause::Unknown,
            record: None,
        },
    }
}

async fn read_exit_record(bundle: Bundle) -> Option<Exit> {
    let read = blocking::run("read exit record", move || bundle.exit_record()).await;
    match read {
        Ok(Ok(text)) => text.as_deref().and_then(exit::parse),
        Ok(Err(error)) => {
            tracing::warn!(%error, "an exit record cannot be read");
            None
        }
        Err(_shutting_down) => None,
    }
}

fn wire_mount(mount: &orlop_types::Mount) -> orlop_api::containerd::types::Mount {
    orlop_api::containerd::types::Mount {
        r#type: mount.fs_type.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

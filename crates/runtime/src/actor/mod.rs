//! One actor per task: it owns the machine's state, executes its effects, and takes one event at a time.
//!
//! Crash: the record in the database is always at least as far as the effects. Cancellation: a caller that goes away
//! does not stop what it asked for. Ordering: requests and exits are taken in the order they arrive; what needs no
//! machine (signals, exec, figures) goes to the shim directly and does not wait here.

mod announce;
mod steps;

use std::collections::VecDeque;
use std::sync::Arc;

use orlop_base::blocking;
use orlop_base::task::TaskKind;
use orlop_base::telemetry::spans;
use orlop_base::traced;
use orlop_meta::TaskUpdate;
use orlop_types::{ContainerId, Namespace};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Instrument, Span};

use crate::bundle::Bundle;
use crate::core::Core;
use crate::machine::{Effect, Event, Exit, Notice, Phase, Step, Transition};
use crate::record::{LastTask, TaskRecord, VERSION};
use crate::shim::{Ended, Shim};
use crate::{Error, container};

/// Runs one task's machine; at shutdown the step under way is finished.
pub(crate) const ACTOR: TaskKind = TaskKind::cooperative("container task");

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
    /// Somebody asks, in this span, and waits for the outcome.
    Ask(Event, Span, oneshot::Sender<Result<(), Error>>),
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
    /// Held while the shim of a pod is given this container.
    joining: Option<tokio::sync::OwnedRwLockReadGuard<()>>,
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
            joining: None,
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
        if let (Phase::Starting, Some(shim)) = (self.record.task.phase, self.shim.clone()) {
            let event = steps::start_outcome(&shim).await;
            self.take(event).await;
        }
        if shim_answers && self.record.task.exit.is_none() && self.record.task.pid.is_some() {
            self.watch_exit();
        }
        self.show();
        if let Some(error) = self.failure.take() {
            tracing::warn!(namespace = %self.key.namespace, container = %self.key.container, error = orlop_types::chain(&error), "a task was not recovered in full");
        }
    }

    /// Takes messages until the task is gone or the daemon ends.
    pub(crate) async fn run(mut self, cancelled: orlop_base::task::CancellationToken) {
        self.leave_nothing_ended().await;
        while !self.is_gone() {
            let message = tokio::select! {
                message = self.inbox.recv() => message,
                () = cancelled.cancelled() => None,
            };
            match message {
                Some(Message::Ask(event, span, answer)) => {
                    let outcome = self.ask(event).instrument(span).await;
                    // A caller that left wants no answer.
                    drop(answer.send(outcome));
                }
                Some(Message::Happened(Event::Recovered { .. })) => {
                    self.connection_lost().await;
                    self.report_failure();
                }
                Some(Message::Happened(event)) => {
                    self.take(event).await;
                    self.report_failure();
                }
                None => return,
            }
            self.leave_nothing_ended().await;
        }
        self.core.forget(&self.key);
    }

    /// Does with a task whose process has ended what its maker asked for.
    async fn leave_nothing_ended(&mut self) {
        if self.record.task.phase != Phase::Stopped {
            return;
        }
        let plan = &self.record.plan;
        if plan.auto_remove {
            self.remove_all().await;
        } else if plan.delete_ended {
            self.take(Event::DeleteRequested).await;
            self.report_failure();
        }
    }

    /// The connection to the shim has ended. That alone does not mean that the shim is dead: this daemon may be ending,
    /// and then containers go on. Only a shim that does not answer any more has its container ended.
    async fn connection_lost(&mut self) {
        let ending = self.core.tasks.token();
        if ending.is_cancelled() {
            return;
        }
        self.shim = self.reconnect().await;
        if ending.is_cancelled() {
            return;
        }
        if self.shim.is_some() {
            self.watch_exit();
            self.show();
        } else {
            let shim_answers = false;
            self.take(Event::Recovered { shim_answers }).await;
        }
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
            tracing::warn!(namespace = %self.key.namespace, container = %self.key.container, error = orlop_types::chain(&error), "a task's step failed");
        }
    }

    /// Executes effects in order; outcomes may add further ones.
    async fn execute(&mut self, effects: Vec<Effect>) {
        let mut queue = VecDeque::from(effects);
        self.undo_failed = false;
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Persist => {
                    let Err(error) = self.persist().await else {
                        continue;
                    };
                    // A step that could not be announced is not done: it failed. Anything else has happened already,
                    // and whoever asked is told that it is not on record.
                    if let Some(Effect::Do(step)) = queue.front().copied() {
                        queue.pop_front();
                        queue.extend(self.failed(step, error));
                    } else {
                        self.failure.get_or_insert(error);
                    }
                }
                Effect::Do(step) => {
                    let (limit, container) = (self.core.settings.step_limit, &self.key.container);
                    let span = traced!("container step", otel.name = %step, %container);
                    let work = self.perform(step).instrument(span.clone());
                    let outcome = tokio::time::timeout(limit, work).await;
                    let more = match outcome.unwrap_or_else(|_elapsed| Err(self.too_slow(step))) {
                        Ok(pid) => self.next(Event::Done { step, pid }),
                        Err(error) => {
                            spans::failed(&span, error.code(), &error);
                            self.failed(step, error)
                        }
                    };
                    queue.extend(more);
                }
                Effect::Undo(step) => self.undo(step).await,
                Effect::Forget if self.undo_failed => {}
                Effect::Forget => self.forget().await,
                Effect::ReadExitRecord => {
                    let exit = self.learn_exit().await;
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
        let text = orlop_types::chain(&error);
        self.failure.get_or_insert(error);
        self.next(Event::Failed { step, error: text })
    }

    fn too_slow(&self, step: Step) -> Error {
        Error::Deadline {
            container: self.key.container.to_string(),
            step,
            limit: self.core.settings.step_limit,
        }
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
        self.written(written)?;
        self.notices.clear();
        Ok(())
    }

    /// Task and container go together, as their maker asked. A client that deletes them itself finds nothing any more.
    async fn remove_all(&mut self) {
        self.take(Event::DeleteRequested).await;
        self.report_failure();
        if !self.gone {
            return;
        }
        let (core, key) = (Arc::clone(&self.core), self.key.clone());
        let removed = blocking::run("remove container", move || {
            container::remove(&core, &key.namespace, &key.container)
        })
        .await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(namespace = %self.key.namespace, container = %self.key.container, error = orlop_types::chain(&error), "cannot remove the container");
        }
    }

    async fn forget(&mut self) {
        let (db, key, events) = (self.core.db.clone(), self.key.clone(), self.announcements());
        let task = &self.record.task;
        let last = LastTask {
            exit: task.exit.clone(),
            transitions: task.transitions.clone(),
        };
        let last = self.record.plan.keep_end.then_some(last);
        let deleted = blocking::run("delete task", move || {
            let view = db.namespace(&key.namespace);
            // Kept first: a crash in between repeats the deletion and writes the same again.
            let kept = last.map_or(Ok(()), |last| {
                container::keep_last_task(&view, &key.container, &last)
            });
            view.tasks().delete(&key.container, &events).and(kept)
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

//! The task tree: every task has a kind, an owner and a policy for the day it is cancelled.
//!
//! A [`TaskTree`] is one owner (the daemon, a pull, a container). Its children are owners below it. Shutting an
//! owner down cancels everything below, lets nothing new start, and waits; what does not end within the grace
//! is named, dropped and returned, so that no shutdown hangs and none hides what it cut short.
//!
//! Crash: a tree keeps nothing on disk. Cancellation: dropping a [`TaskHandle`] detaches the task, which stays
//! counted; [`TaskTree::shutdown`] may be dropped and called again. Ordering: what a task did is visible to
//! whoever awaited its handle or the shutdown. Panics are caught, logged, counted and returned by the handle.

mod gate;
mod registry;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::clock::SharedClock;

pub use self::gate::{Gate, GateClosed, Pass};
pub use self::registry::TaskInfo;
pub use tokio_util::sync::CancellationToken;

use self::registry::Tasks;

/// What a task is for, and what happens to it when its owner shuts down. Declare one `const` per kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskKind {
    name: &'static str,
    on_cancel: OnCancel,
}

/// What cancelling means for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnCancel {
    /// The future is dropped where it waits: it holds nothing that dropping does not give back.
    Drop,
    /// The task watches its token, ends its step and returns; shutting down waits for it within the grace.
    Cooperate,
}

impl TaskKind {
    /// A kind whose tasks may be dropped wherever they wait.
    #[must_use]
    pub const fn dropped(name: &'static str) -> Self {
        Self {
            name,
            on_cancel: OnCancel::Drop,
        }
    }

    /// A kind whose tasks watch their token and end by themselves.
    #[must_use]
    pub const fn cooperative(name: &'static str) -> Self {
        Self {
            name,
            on_cancel: OnCancel::Cooperate,
        }
    }

    /// The name, as it appears in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }
}

/// Why a task gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// Its owner shut down before the task ended, or before it began. Give up.
    #[error("task {kind} was cancelled")]
    Cancelled {
        /// The task's kind.
        kind: &'static str,
    },
    /// A defect, already logged and counted. Give up.
    #[error("task {kind} panicked: {message}")]
    Panicked {
        /// The task's kind.
        kind: &'static str,
        /// The panic's text.
        message: String,
    },
}

/// What had not ended when the grace was over. It has been dropped.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{owner}: {} did not end within {grace:?}: {}", count(.tasks), list(.tasks))]
pub struct Stragglers {
    /// Who was shut down.
    pub owner: String,
    /// How long the tasks were waited for.
    pub grace: Duration,
    /// The tasks, oldest first.
    pub tasks: Vec<TaskInfo>,
}

/// An owner of tasks. Clones are the same owner.
#[derive(Clone)]
pub struct TaskTree {
    node: Arc<Node>,
}

struct Node {
    /// The owners from the root down, such as `orlopd/pulls`.
    owner: String,
    /// Asks tasks to end.
    cancel: CancellationToken,
    /// Drops those that did not.
    kill: CancellationToken,
    /// Own gate last, the root's first.
    gates: Vec<Gate>,
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Handle,
    clock: SharedClock,
    tasks: Tasks,
}

impl TaskTree {
    /// The root of a tree on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime, which is a defect of the program's `main`.
    #[must_use]
    pub fn root(owner: &str, clock: SharedClock) -> Self {
        let shared = Shared {
            runtime: Handle::current(),
            clock,
            tasks: Tasks::default(),
        };
        Self {
            node: Arc::new(Node {
                owner: owner.to_owned(),
                cancel: CancellationToken::new(),
                kill: CancellationToken::new(),
                gates: vec![Gate::new()],
                shared: Arc::new(shared),
            }),
        }
    }

    /// An owner below this one: shut down with it, or by itself before.
    #[must_use]
    pub fn child(&self, owner: &str) -> Self {
        let mut gates = self.node.gates.clone();
        gates.push(Gate::new());
        Self {
            node: Arc::new(Node {
                owner: format!("{}/{owner}", self.node.owner),
                cancel: self.node.cancel.child_token(),
                kill: self.node.kill.child_token(),
                gates,
                shared: Arc::clone(&self.node.shared),
            }),
        }
    }

    /// Starts a task. May be called from any thread. The body gets a token that tells it to end; a task whose
    /// kind says [`OnCancel::Drop`] may ignore it.
    ///
    /// An owner that is shutting down starts nothing: the handle then says [`TaskError::Cancelled`].
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that spawns"
    )]
    pub fn spawn<Body, Work, T>(&self, kind: TaskKind, body: Body) -> TaskHandle<T>
    where
        Body: FnOnce(CancellationToken) -> Work,
        Work: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let token = self.node.cancel.child_token();
        let Ok(passes) = self.passes() else {
            tracing::debug!(kind = kind.name, owner = %self.node.owner, "not started: shutting down");
            return TaskHandle {
                kind,
                token,
                join: None,
            };
        };
        let work = body(token.clone());
        let stop = match kind.on_cancel {
            OnCancel::Drop => token.clone(),
            OnCancel::Cooperate => self.node.kill.clone(),
        };
        let node = Arc::clone(&self.node);
        let now = node.shared.clock.boottime();
        let record = node.shared.tasks.started(kind.name, &node.owner, now);
        // A root: a task may live longer than whoever started it, whose span would not end before.
        let span = tracing::info_span!(parent: None, "task", kind = kind.name, owner = %node.owner);
        let guarded = async move {
            let outcome = guard(kind, &node, stop, work).await;
            drop(record);
            drop(passes);
            outcome
        };
        let join = self.node.shared.runtime.spawn(guarded.instrument(span));
        TaskHandle {
            kind,
            token,
            join: Some(join),
        }
    }

    /// Counts the caller in until the pass is dropped, so that shutting down waits for it: for requests, whose
    /// futures belong to a server and not to this tree.
    ///
    /// # Errors
    /// The owner is shutting down.
    pub fn enter(&self) -> Result<Vec<Pass>, GateClosed> {
        self.passes()
    }

    /// Is cancelled when this owner shuts down.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.node.cancel.child_token()
    }

    /// The tasks below this owner, oldest first.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.node
            .shared
            .tasks
            .below(&self.node.owner, self.node.shared.clock.boottime())
    }

    /// How many tasks of the whole tree have panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.node.shared.tasks.panics()
    }

    /// Shows the tree's figures among `registry`'s.
    pub fn register(&self, registry: &mut Registry) {
        self.node.shared.tasks.register(registry);
    }

    /// Cancels everything below, lets nothing new start and waits for the end, at most for `grace`.
    ///
    /// # Errors
    /// What had not ended by then. It has been dropped.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), Stragglers> {
        self.node.cancel.cancel();
        let gate = self.own_gate();
        tokio::select! {
            biased;
            () = gate.close() => return Ok(()),
            () = self.node.shared.clock.sleep(grace) => {}
        }
        let stragglers = Stragglers {
            owner: self.node.owner.clone(),
            grace,
            tasks: self.tasks(),
        };
        self.node.kill.cancel();
        Err(stragglers)
    }

    fn own_gate(&self) -> &Gate {
        self.node
            .gates
            .last()
            .expect("a node is made with its own gate")
    }

    fn passes(&self) -> Result<Vec<Pass>, GateClosed> {
        self.node.gates.iter().map(Gate::enter).collect()
    }
}

impl fmt::Debug for TaskTree {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TaskTree")
            .field("owner", &self.node.owner)
            .field("inside", &self.own_gate().inside())
            .finish_non_exhaustive()
    }
}

/// A started task. Dropping it detaches the task.
#[derive(Debug)]
pub struct TaskHandle<T> {
    kind: TaskKind,
    token: CancellationToken,
    join: Option<JoinHandle<Result<T, TaskError>>>,
}

impl<T> TaskHandle<T> {
    /// Asks this one task to end.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.join.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the task's end. Dropping this future detaches the task.
    ///
    /// # Errors
    /// The task was cancelled or panicked.
    pub async fn join(self) -> Result<T, TaskError> {
        let cancelled = TaskError::Cancelled {
            kind: self.kind.name,
        };
        match self.join {
            // The runtime itself only fails a task of ours when it is torn down.
            Some(join) => join.await.unwrap_or(Err(cancelled)),
            None => Err(cancelled),
        }
    }
}

/// Drives `work` until it ends, panics, or `stop` is cancelled.
async fn guard<T>(
    kind: TaskKind,
    node: &Node,
    stop: CancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, TaskError> {
    // A task may be dropped for its own token, its owner's, or, whatever its kind, when the grace is over.
    let stoppable = node
        .kill
        .run_until_cancelled(stop.run_until_cancelled(work));
    match AssertUnwindSafe(stoppable).catch_unwind().await {
        Ok(Some(Some(result))) => Ok(result),
        Ok(Some(None) | None) => Err(TaskError::Cancelled { kind: kind.name }),
        Err(payload) => {
            let message = panic_message(payload.as_ref()).to_owned();
            node.shared.tasks.panicked(kind.name);
            tracing::error!(kind = kind.name, owner = %node.owner, message, "a task panicked");
            Err(TaskError::Panicked {
                kind: kind.name,
                message,
            })
        }
    }
}

/// The text of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}

fn count(tasks: &[TaskInfo]) -> String {
    match tasks.len() {
        1 => "one task".to_owned(),
        count => format!("{count} tasks"),
    }
}

fn list(tasks: &[TaskInfo]) -> String {
    const SHOWN_MAX: usize = 8;
    let mut names: Vec<String> = tasks
        .iter()
        .take(SHOWN_MAX)
        .map(|task| format!("{} of {}", task.kind, task.owner))
        .collect();
    if tasks.len() > SHOWN_MAX {
        names.push("…".to_owned());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, SystemClock};

    const DROPPED: TaskKind = TaskKind::dropped("dropped");
    const COOPERATIVE: TaskKind = TaskKind::cooperative("cooperative");
    const GRACE: Duration = Duration::from_secs(10);

    fn tree() -> TaskTree {
        TaskTree::root("test", SystemClock::shared())
    }

    #[tokio::test]
    async fn a_task_gives_its_result() {
        let handle = tree().spawn(DROPPED, |_| async { 7 });
        assert_eq!(handle.join().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_returned_even_when_nobody_waits() {
        let tree = tree();
        let handle = tree.spawn(DROPPED, |_| async { panic!("boom {}", 1) });
        let error = handle.join().await.unwrap_err();
        assert_eq!(error.to_string(), "task dropped panicked: boom 1");
        drop(tree.spawn(DROPPED, |_| async { panic!("unheard") }));
        tree.shutdown(GRACE).await.unwrap();
        assert!(tree.panics() >= 1);
        assert!(tree.tasks().is_empty());
    }

    #[tokio::test]
    async fn shutting_down_drops_what_may_be_dropped_and_waits_for_what_cooperates() {
        let tree = tree();
        let dropped = tree.spawn(DROPPED, |_| std::future::pending::<()>());
        let cooperative = tree.spawn(COOPERATIVE, |token| async move {
            token.cancelled().await;
            tokio::task::yield_now().await;
            "ended its step"
        });
        tree.shutdown(GRACE).await.unwrap();
        assert_eq!(
            dropped.join().await.unwrap_err(),
            TaskError::Cancelled { kind: "dropped" }
        );
        assert_eq!(cooperative.join().await.unwrap(), "ended its step");
    }

    #[tokio::test]
    async fn an_owner_that_shut_down_starts_nothing() {
        let tree = tree();
        let child = tree.child("child");
        tree.shutdown(GRACE).await.unwrap();
        let handle = child.spawn(DROPPED, |_| async { panic!("ran") });
        let error = handle.join().await.unwrap_err();
        assert_eq!(error, TaskError::Cancelled { kind: "dropped" });
        assert!(child.enter().is_err());
    }

    #[tokio::test]
    async fn a_child_shuts_down_alone_and_a_parent_waits_for_its_children() {
        let tree = tree();
        let child = tree.child("child");
        let own = tree.spawn(DROPPED, |_| std::future::pending::<()>());
        let of_child = child.spawn(DROPPED, |_| std::future::pending::<()>());
        child.shutdown(GRACE).await.unwrap();
        assert!(of_child.join().await.is_err());
        assert!(!own.is_finished());
        assert_eq!(tree.tasks().len(), 1);
        tree.shutdown(GRACE).await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_will_not_end_is_named_and_dropped() {
        let clock = ManualClock::new();
        let tree = TaskTree::root("test", Arc::new(clock.clone()));
        let stubborn = tree
            .child("inner")
            .spawn(COOPERATIVE, |_| std::future::pending::<()>());
        let shutdown = tree.shutdown(GRACE);
        tokio::pin!(shutdown);
        assert!(futures_util::poll!(&mut shutdown).is_pending());
        clock.advance(GRACE);
        insta::assert_snapshot!(
            shutdown.await.unwrap_err(),
            @"test: one task did not end within 10s: cooperative of test/inner"
        );
        assert!(stubborn.join().await.is_err());
    }

    #[tokio::test]
    async fn shutting_down_waits_for_requests_that_entered() {
        let tree = tree();
        let pass = tree.child("server").enter().unwrap();
        let shutdown = tree.shutdown(GRACE);
        tokio::pin!(shutdown);
        assert!(futures_util::poll!(&mut shutdown).is_pending());
        drop(pass);
        shutdown.await.unwrap();
    }

    #[tokio::test]
    async fn cancelling_one_task_leaves_its_siblings() {
        let tree = tree();
        let one = tree.spawn(DROPPED, |_| std::future::pending::<()>());
        let other = tree.spawn(DROPPED, |_| async { tokio::task::yield_now().await });
        one.cancel();
        assert!(one.join().await.is_err());
        other.join().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_without_a_runtime_can_spawn() {
        let tree = tree();
        let handle = std::thread::spawn(move || tree.spawn(DROPPED, |_| async { 1 }))
            .join()
            .unwrap();
        assert_eq!(handle.join().await.unwrap(), 1);
    }
}

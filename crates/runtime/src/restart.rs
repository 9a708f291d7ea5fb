//! Containers that are to run again when they have ended, as containerd's clients ask for it by labels (nerdctl, `orlop run
//! --restart`; containerd's restart monitor).
//!
//! Crash: the count is written before the start it counts, so that no container is started more often than was asked for.
//! Cancellation: a start that has begun is gone on with. Ordering: one round after the other; in a round, containers side
//! by side.

use std::sync::Arc;
use std::time::Duration;

use orlop_base::blocking;
use orlop_base::task::TaskKind;
use orlop_meta::Container;
use orlop_types::restart::{
    POLICY_LABEL, RestartPolicy, STATUS_LABEL, STOPPED_LABEL, UnknownPolicy,
};
use orlop_types::{ContainerId, Labels, Namespace, chain};

use crate::Error;
use crate::actor::TaskKey;
use crate::core::Core;
use crate::machine::Phase;
use crate::record::Streams;
use crate::runtime::{CreateTask, Runtime};

/// How often it was started again.
const COUNT_LABEL: &str = "containerd.io/restart.count";
/// Where its output goes.
const LOG_LABEL: &str = "containerd.io/restart.loguri";

/// Looks after containers that are to run.
const MONITOR: TaskKind = TaskKind::dropped("restart monitor");
/// One container's turn.
const TURN: TaskKind = TaskKind::cooperative("restart of a container");

const SIGKILL: u32 = 9;
/// How long a process may take to end that was killed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What a container's labels ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    is_to_run: bool,
    policy: RestartPolicy,
    restarts: u32,
    is_stopped: bool,
    log: String,
}

/// What there is of a container's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No task, or one that ended with this code and is not deleted.
    Ended(Option<u32>),
    Running,
    /// Frozen, or on its way to or from running: somebody is at it.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Start,
    Stop,
}

impl Wish {
    /// `None` for a container that nobody asked to be looked after.
    fn read(labels: &Labels) -> Option<Result<Self, UnknownPolicy>> {
        let is_to_run = match labels.value(STATUS_LABEL)? {
            "running" => true,
            "stopped" => false,
            _other => return None,
        };
        let text = |name| labels.value(name).unwrap_or_default();
        let wish = |policy| Self {
            is_to_run,
            policy,
            restarts: text(COUNT_LABEL).parse().unwrap_or(0),
            is_stopped: matches!(text(STOPPED_LABEL), "true" | "1"),
            log: text(LOG_LABEL).to_owned(),
        };
        Some(text(POLICY_LABEL).parse().map(wish))
    }

    fn action(&self, standing: Standing) -> Option<Action> {
        match (self.is_to_run, standing) {
            (true, Standing::Ended(code)) => self.wants_restart(code).then_some(Action::Start),
            (false, Standing::Running) => Some(Action::Stop),
            (true, Standing::Running | Standing::Other)
            | (false, Standing::Ended(_) | Standing::Other) => None,
        }
    }

    /// A task that is gone ended well, as far as anybody knows.
    fn wants_restart(&self, code: Option<u32>) -> bool {
        match self.policy {
            RestartPolicy::No => false,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure(retries) => {
                code.is_some_and(|code| code != 0) && (retries == 0 || self.restarts < retries)
            }
            RestartPolicy::UnlessStopped => !self.is_stopped,
        }
    }
}

impl Standing {
    fn of(core: &Core, namespace: &Namespace, container: &ContainerId) -> Self {
        let key = TaskKey {
            namespace: namespace.clone(),
            container: container.clone(),
        };
        let Some(handle) = core.handle(&key) else {
            return Self::Ended(None);
        };
        let view = handle.view.borrow();
        match view.phase {
            Phase::Stopped => Self::Ended(view.exit.as_ref().map(|exit| exit.code)),
            Phase::Running => Self::Running,
            Phase::Creating(_)
            | Phase::Created
            | Phase::Starting
            | Phase::Paused
            | Phase::Deleting => Self::Other,
        }
    }
}

impl Runtime {
    /// Has containers run or not as their labels ask, looking at them every `interval` until the daemon ends; zero for
    /// never. To be called when tasks have been recovered.
    pub fn watch_restarts(&self, interval: Duration) {
        if interval.is_zero() {
            return;
        }
        let runtime = self.clone();
        self.core.tasks.spawn(MONITOR, move |_token| async move {
            loop {
                runtime.restart_round().await;
                runtime.core.clock.sleep(interval).await;
            }
        });
    }

    async fn restart_round(&self) {
        let core = Arc::clone(&self.core);
        let due = blocking::run("find containers to restart", move || due(&core)).await;
        let due = match due {
            Ok(Ok(due)) => due,
            Ok(Err(error)) => {
                return tracing::error!(error = chain(&error), "containers cannot be looked after");
            }
            Err(_ending) => return,
        };
        let turns = due.into_iter().map(|(namespace, container, wish, action)| {
            let runtime = self.clone();
            self.core.tasks.spawn(TURN, move |_token| async move {
                let id = container.id.clone();
                let done = match action {
                    Action::Start => runtime.start_again(&namespace, container, wish).await,
                    Action::Stop => runtime.end_task(&namespace, &id).await,
                };
                if let Err(error) = done {
                    tracing::warn!(%namespace, container = %id, error = chain(&error), "a container is not as its labels ask");
                }
            })
        });
        for turn in turns.collect::<Vec<_>>() {
            // Whoever ends a turn has told of it.
            drop(turn.join().await);
        }
    }

    async fn start_again(
        &self,
        namespace: &Namespace,
        container: Container,
        wish: Wish,
    ) -> Result<(), Error> {
        let restarts = wish.restarts.saturating_add(1);
        let id = container.id.clone();
        let terminal = is_terminal(&container);
        self.count_restart(namespace, container, restarts).await?;
        self.end_task(namespace, &id).await?;
        let streams = Streams {
            terminal,
            stderr: if terminal {
                String::new()
            } else {
                wish.log.clone()
            },
            stdout: wish.log,
            ..Streams::default()
        };
        let request = CreateTask {
            container: id.clone(),
            rootfs: Vec::new(),
            streams,
            checkpoint: String::new(),
            options: None,
            shim_path: String::new(),
        };
        self.create(namespace, request).await?;
        self.start(namespace, &id, None).await?;
        tracing::info!(%namespace, container = %id, restarts, "started again");
        Ok(())
    }

    async fn count_restart(
        &self,
        namespace: &Namespace,
        mut container: Container,
        restarts: u32,
    ) -> Result<(), Error> {
        let id = container.id.to_string();
        let failed = move |source| Error::Record {
            container: id,
            attempt: "written",
            source,
        };
        let (db, namespace) = (self.core.db.clone(), namespace.clone());
        blocking::run("count a restart", move || {
            // A number is a valid value of a label.
            drop(
                container
                    .labels
                    .insert(COUNT_LABEL.to_owned(), restarts.to_string()),
            );
            let field = format!("labels.{COUNT_LABEL}");
            db.namespace(&namespace)
                .containers()
                .update(&container, &[field])
        })
        .await
        .map_err(Error::Daemon)?
        .map(drop)
        .map_err(failed)
    }

    /// Ends a task if it runs, and deletes it if there is one.
    async fn end_task(&self, namespace: &Namespace, id: &ContainerId) -> Result<(), Error> {
        if Standing::of(&self.core, namespace, id) == Standing::Running {
            match self.kill(namespace, id, None, SIGKILL, true).await {
                // It has ended by itself.
                Ok(()) | Err(Error::NoTask { .. } | Error::Shim { .. }) => {}
                Err(error) => return Err(error),
            }
            let ended = self.wait(namespace, id, None);
            // What does not end is told of by the deletion.
            drop(tokio::time::timeout(END_LIMIT, ended).await);
        }
        match self.delete(namespace, id).await {
            Ok(_) | Err(Error::NoTask { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The containers that are not as their labels ask.
fn due(core: &Core) -> Result<Vec<(Namespace, Container, Wish, Action)>, orlop_meta::Error> {
    let mut due = Vec::new();
    let looked_after = [format!("labels.{STATUS_LABEL:?}")];
    for namespace in core.db.namespaces().list()? {
        let namespace = namespace.name;
        let view = core.db.namespace(&namespace);
        for container in view.containers().list(&looked_after)? {
            let wish = match Wish::read(&container.labels) {
                Some(Ok(wish)) => wish,
                Some(Err(error)) => {
                    tracing::warn!(%namespace, container = %container.id, %error, "a container is not looked after");
                    continue;
                }
                None => continue,
            };
            let standing = Standing::of(core, &namespace, &container.id);
            if let Some(action) = wish.action(standing) {
                due.push((namespace.clone(), container, wish, action));
            }
        }
    }
    Ok(due)
}

/// Whether the container's process has a terminal, as its spec says.
fn is_terminal(container: &Container) -> bool {
    let spec: Option<serde_json::Value> = serde_json::from_slice(&container.spec.value).ok();
    spec.is_some_and(|spec| spec["process"]["terminal"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(labels: &[(&str, &str)]) -> Option<Result<Wish, UnknownPolicy>> {
        let mut read = Labels::new();
        for (name, value) in labels {
            read.insert((*name).to_owned(), (*value).to_owned())
                .expect("a label");
        }
        Wish::read(&read)
    }

    #[test]
    fn labels_decide_what_is_done_with_a_container() {
        let (start, stop) = (Some(Action::Start), Some(Action::Stop));
        let (ended, failed, gone) = (
            Standing::Ended(Some(0)),
            Standing::Ended(Some(3)),
            Standing::Ended(None),
        );
        // Wanted, policy, restarts so far, stopped, how it stands, what is done.
        let table = [
            ("running", "", "", "", ended, start),
            ("running", "always", "9", "true", failed, start),
            ("running", "always", "", "", gone, start),
            ("running", "always", "", "", Standing::Running, None),
            ("running", "always", "", "", Standing::Other, None),
            ("running", "no", "", "", failed, None),
            ("running", "on-failure", "", "", ended, None),
            ("running", "on-failure", "7", "", failed, start),
            ("running", "on-failure:2", "1", "", failed, start),
            ("running", "on-failure:2", "2", "", failed, None),
            ("running", "on-failure", "", "", gone, None),
            ("running", "unless-stopped", "", "", ended, start),
            ("running", "unless-stopped", "", "true", ended, None),
            ("stopped", "always", "", "", ended, None),
            ("stopped", "always", "", "", Standing::Running, stop),
            ("stopped", "always", "", "", Standing::Other, None),
        ];
        for (status, policy, count, stopped, standing, expected) in table {
            let labels = [
                (STATUS_LABEL, status),
                (POLICY_LABEL, policy),
                (COUNT_LABEL, count),
                (STOPPED_LABEL, stopped),
            ];
            let wish = wish(&labels).unwrap().unwrap();
            assert_eq!(wish.action(standing), expected, "{labels:?} {standing:?}");
        }
    }

    #[test]
    fn containers_without_the_label_are_left_alone_and_unknown_policies_refused() {
        assert_eq!(wish(&[(POLICY_LABEL, "always")]), None);
        assert_eq!(wish(&[(STATUS_LABEL, "dancing")]), None);
        let read = wish(&[(STATUS_LABEL, "running"), (POLICY_LABEL, "sometimes")]);
        assert!(matches!(read, Some(Err(_))));
    }
}

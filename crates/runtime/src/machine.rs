//! The life of a task as a pure machine: `(Task, Event) -> (Task, Vec<Effect>)`.
//!
//! A driver executes the effects in order and feeds their outcomes back as events. [`Effect::Persist`] always stands before
//! the outside effect it announces, so whatever a crash interrupts is on record: replaying the record after a restart
//! yields either the same effect again (all are idempotent) or its undo.
//!
//! Ordering: one event at a time per task. Cancellation: none; a caller that goes away does not stop a step, its outcome
//! is recorded all the same.

use std::time::SystemTime;

use orlop_types::exit::{ExitCause, ExitRecord};
use serde::{Deserialize, Serialize};

/// An outside effect on the way to a running task. They are done in this order and undone in the reverse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The bundle's folder with the OCI spec.
    Bundle,
    /// The network namespace and its attachment by CNI; only tasks that are to have one take this step.
    Network,
    /// The shim process, and the connection to it.
    Shim,
    /// `create` of the OCI runtime: cgroup, namespaces, mounts, an init waiting.
    Create,
    /// `start` of the OCI runtime: the user's process runs.
    Start,
}

impl Step {
    /// The step after this one on the way to a created task; starting waits for a request of its own.
    const fn next_of_creation(self, networked: bool) -> Option<Self> {
        match self {
            Self::Bundle if networked => Some(Self::Network),
            Self::Bundle | Self::Network => Some(Self::Shim),
            Self::Shim => Some(Self::Create),
            Self::Create | Self::Start => None,
        }
    }

    /// All steps of a creation up to and including `self`, last first: the order to undo them in.
    fn undo_order(self, networked: bool) -> impl Iterator<Item = Self> {
        let all = [Self::Create, Self::Shim, Self::Network, Self::Bundle];
        all.into_iter()
            .filter(move |step| *step <= self && (networked || *step != Self::Network))
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Bundle => "writing the bundle",
            Self::Network => "attaching the network",
            Self::Shim => "starting the shim",
            Self::Create => "creating the container in the OCI runtime",
            Self::Start => "starting the container's process",
        })
    }
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase", content = "step")]
pub enum Phase {
    /// The named step of its creation is under way.
    Creating(Step),
    /// Created; the user's process has not been started.
    Created,
    /// `start` is under way.
    Starting,
    /// The user's process runs.
    Running,
    /// Frozen.
    Paused,
    /// The user's process has ended; cgroup, bundle and shim are still there.
    Stopped,
    /// Being undone, after a failed creation or a delete. Goes on after a restart.
    Deleting,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Creating(step) => write!(formatter, "{step}"),
            Self::Created => formatter.write_str("created"),
            Self::Starting => formatter.write_str("starting"),
            Self::Running => formatter.write_str("running"),
            Self::Paused => formatter.write_str("paused"),
            Self::Stopped => formatter.write_str("stopped"),
            Self::Deleting => formatter.write_str("being deleted"),
        }
    }
}

/// One step as it went: what `orlop inspect` shows of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Which step.
    pub step: Step,
    /// When it began.
    pub began: SystemTime,
    /// When it ended; absent while it is under way, or if a crash cut it short.
    pub ended: Option<SystemTime>,
    /// What went wrong.
    pub error: Option<String>,
}

/// How the user's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The code a shell would show: the exit status, or 128 plus the signal.
    pub code: u32,
    /// When it ended.
    pub at: SystemTime,
    /// Why it ended, as far as evidence goes.
    pub cause: ExitCause,
    /// What the shim wrote down when it saw the end. Absent means that nobody saw it: the code is **made up**, or comes
    /// from a shim that keeps no record.
    pub record: Option<ExitRecord>,
}

/// A task's record: everything a restarted daemon needs to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Where it is.
    pub phase: Phase,
    /// Whether it has a network of its own to attach and detach.
    #[serde(default)]
    pub networked: bool,
    /// The init process in the host's pid namespace, once created.
    pub pid: Option<u32>,
    /// How it ended, once stopped.
    pub exit: Option<Exit>,
    /// The steps so far, oldest first; at most one entry per step.
    pub transitions: Vec<Transition>,
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step of the creation, or the start, is done. `pid` comes with [`Step::Create`].
    Done {
        /// Which step.
        step: Step,
        /// The init process.
        pid: Option<u32>,
    },
    /// A step failed.
    Failed {
        /// Which step.
        step: Step,
        /// Why, for the record.
        error: String,
    },
    /// Somebody asks to start it.
    StartRequested,
    /// It was frozen.
    Paused,
    /// It was thawed.
    Resumed,
    /// The user's process ended, or its shim died and the exit record was read.
    Exited(Exit),
    /// Somebody asks to delete it.
    DeleteRequested,
    /// The daemon started again and found this record.
    Recovered {
        /// Whether the shim answers.
        shim_answers: bool,
    },
}

/// What the driver has to do next, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Write the record durably.
    Persist,
    /// Do a step; its outcome comes back as [`Event::Done`] or [`Event::Failed`].
    Do(Step),
    /// Undo a step: best effort, idempotent, errors are collected and reported once.
    Undo(Step),
    /// Delete the record: the task is gone.
    Forget,
    /// Find out how the process ended from the bundle's exit record, and feed it back as [`Event::Exited`].
    ReadExitRecord,
    /// Tell subscribers, in the transaction of the next [`Effect::Persist`] or [`Effect::Forget`].
    Publish(Notice),
}

/// What subscribers are told (containerd's topics under `/tasks/`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// `/tasks/create`.
    Created,
    /// `/tasks/start`.
    Started,
    /// `/tasks/exit`.
    Exited,
    /// `/tasks/paused`.
    Paused,
    /// `/tasks/resumed`.
    Resumed,
    /// `/tasks/delete`.
    Deleted,
}

/// A request that does not fit where the task is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {attempt}: the task is {phase}")]
pub struct Refused {
    /// What was asked.
    pub attempt: &'static str,
    /// Where the task is; names the step of an earlier call that is still under way.
    pub phase: Phase,
}

impl Task {
    /// A new task and the first effects of its creation.
    #[must_use]
    pub fn create(networked: bool, now: SystemTime) -> (Self, Vec<Effect>) {
        let mut task = Self {
            phase: Phase::Creating(Step::Bundle),
            networked,
            pid: None,
            exit: None,
            transitions: Vec::new(),
        };
        let effects = task.begin(Step::Bundle, now);
        (task, effects)
    }

    /// Takes one event.
    ///
    /// # Errors
    /// A request that does not fit the phase; the task is as before. Late or repeated outcomes are not errors: they
    /// change nothing.
    pub fn step(&mut self, event: Event, now: SystemTime) -> Result<Vec<Effect>, Refused> {
        match event {
            Event::Done { step, pid } => Ok(self.done(step, pid, now)),
            Event::Failed { step, error } => Ok(self.failed(step, error, now)),
            Event::StartRequested => self.start(now),
            Event::Paused => Ok(self.freeze(Phase::Running, Phase::Paused, Notice::Paused)),
            Event::Resumed => Ok(self.freeze(Phase::Paused, Phase::Running, Notice::Resumed)),
            Event::Exited(exit) => Ok(self.exited(exit)),
            Event::DeleteRequested => self.delete(),
            Event::Recovered { shim_answers } => Ok(self.recovered(shim_answers)),
        }
    }

    fn begin(&mut self, step: Step, now: SystemTime) -> Vec<Effect> {
        self.transitions.push(Transition {
            step,
            began: now,
            ended: None,
            error: None,
        });
        vec![Effect::Persist, Effect::Do(step)]
    }

    fn end(&mut self, step: Step, now: SystemTime, error: Option<String>) {
        if let Some(transition) = self
            .transitions
            .iter_mut()
            .rev()
            .find(|transition| transition.step == step)
        {
            transition.ended = Some(now);
            transition.error = error;
        }
    }

    fn done(&mut self, step: Step, pid: Option<u32>, now: SystemTime) -> Vec<Effect> {
        self.end(step, now, None);
        match self.phase {
            Phase::Creating(current) if current == step => {
                match step.next_of_creation(self.networked) {
                    Some(next) => {
                        self.phase = Phase::Creating(next);
                        self.begin(next, now)
                    }
                    None => {
                        self.phase = Phase::Created;
                        self.pid = pid;
                        vec![Effect::Publish(Notice::Created), Effect::Persist]
                    }
                }
            }
            Phase::Starting if step == Step::Start => {
                self.phase = Phase::Running;
                vec![Effect::Publish(Notice::Started), Effect::Persist]
            }
            // A short process can end before its start is acknowledged: subscribers still see start before exit because
            // the exit was held back; see `exited`.
            Phase::Stopped if step == Step::Start => vec![
                Effect::Publish(Notice::Started),
                Effect::Publish(Notice::Exited),
                Effect::Persist,
            ],
            Phase::Creating(_)
            | Phase::Created
            | Phase::Starting
            | Phase::Running
            | Phase::Paused
            | Phase::Stopped
            | Phase::Deleting => {
                vec![]
            }
        }
    }

    fn failed(&mut self, step: Step, error: String, now: SystemTime) -> Vec<Effect> {
        self.end(step, now, Some(error));
        match self.phase {
            Phase::Creating(current) if current == step => self.undo(step),
            // The container stays created, for its owner to look at and delete; containerd's clients expect that.
            Phase::Starting if step == Step::Start => {
                self.phase = Phase::Created;
                vec![Effect::Persist]
            }
            Phase::Stopped if step == Step::Start => {
                vec![Effect::Publish(Notice::Exited), Effect::Persist]
            }
            Phase::Creating(_)
            | Phase::Created
            | Phase::Starting
            | Phase::Running
            | Phase::Paused
            | Phase::Stopped
            | Phase::Deleting => {
                vec![]
            }
        }
    }

    fn start(&mut self, now: SystemTime) -> Result<Vec<Effect>, Refused> {
        if self.phase != Phase::Created {
            return Err(Refused {
                attempt: "start",
                phase: self.phase,
            });
        }
        self.phase = Phase::Starting;
        Ok(self.begin(Step::Start, now))
    }

    fn freeze(&mut self, from: Phase, to: Phase, notice: Notice) -> Vec<Effect> {
        if self.phase != from {
            return vec![];
        }
        self.phase = to;
        vec![Effect::Publish(notice), Effect::Persist]
    }

    fn exited(&mut self, exit: Exit) -> Vec<Effect> {
        let held_back = self.phase == Phase::Starting;
        match self.phase {
            Phase::Created | Phase::Starting | Phase::Running | Phase::Paused => {
                self.phase = Phase::Stopped;
                self.exit = Some(exit);
                if held_back {
                    vec![Effect::Persist]
                } else {
                    vec![Effect::Publish(Notice::Exited), Effect::Persist]
                }
            }
            // During creation the failing step reports it; afterwards the first report counts.
            Phase::Creating(_) | Phase::Stopped | Phase::Deleting => vec![],
        }
    }

    fn delete(&mut self) -> Result<Vec<Effect>, Refused> {
        match self.phase {
            Phase::Created | Phase::Stopped | Phase::Deleting => Ok(self.undo(Step::Create)),
            Phase::Creating(_) | Phase::Starting | Phase::Running | Phase::Paused => Err(Refused {
                attempt: "delete",
                phase: self.phase,
            }),
        }
    }

    fn undo(&mut self, from: Step) -> Vec<Effect> {
        self.phase = Phase::Deleting;
        let undos = from.undo_order(self.networked).map(Effect::Undo);
        let was_created = self.pid.is_some();
        let told = was_created.then_some(Effect::Publish(Notice::Deleted));
        std::iter::once(Effect::Persist)
            .chain(undos)
            .chain(told)
            .chain([Effect::Forget])
            .collect()
    }

    fn recovered(&mut self, shim_answers: bool) -> Vec<Effect> {
        match self.phase {
            // Whoever asked for it is gone, and a half-made container helps nobody: all of it is undone.
            Phase::Creating(step) => self.undo(step),
            Phase::Deleting => self.undo(Step::Create),
            Phase::Created | Phase::Starting | Phase::Running | Phase::Paused if !shim_answers => {
                vec![Effect::ReadExitRecord]
            }
            Phase::Created | Phase::Starting | Phase::Running | Phase::Paused | Phase::Stopped => {
                vec![]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn exit(code: u32) -> Exit {
        Exit {
            code,
            at: NOW,
            cause: ExitCause::Exited,
            record: None,
        }
    }

    fn done(step: Step) -> Event {
        Event::Done {
            step,
            pid: (step == Step::Create).then_some(42),
        }
    }

    fn created() -> Task {
        let (mut task, _) = Task::create(false, NOW);
        for step in [Step::Bundle, Step::Shim, Step::Create] {
            task.step(done(step), NOW).unwrap();
        }
        task
    }

    fn running() -> Task {
        let mut task = created();
        task.step(Event::StartRequested, NOW).unwrap();
        task.step(done(Step::Start), NOW).unwrap();
        task
    }

    #[test]
    fn a_task_is_recorded_before_every_step() {
        let (mut task, first) = Task::create(false, NOW);
        assert_eq!(first, [Effect::Persist, Effect::Do(Step::Bundle)]);
        assert_eq!(
            task.step(done(Step::Bundle), NOW).unwrap(),
            [Effect::Persist, Effect::Do(Step::Shim)]
        );
        assert_eq!(
            task.step(done(Step::Shim), NOW).unwrap(),
            [Effect::Persist, Effect::Do(Step::Create)]
        );
        assert_eq!(
            task.step(done(Step::Create), NOW).unwrap(),
            [Effect::Publish(Notice::Created), Effect::Persist]
        );
        assert_eq!((task.phase, task.pid), (Phase::Created, Some(42)));
    }

    #[test]
    fn a_failed_step_undoes_itself_and_all_before_it() {
        let (mut task, _) = Task::create(false, NOW);
        task.step(done(Step::Bundle), NOW).unwrap();
        let effects = task
            .step(
                Event::Failed {
                    step: Step::Shim,
                    error: "no shim".into(),
                },
                NOW,
            )
            .unwrap();
        assert_eq!(
            effects,
            [
                Effect::Persist,
                Effect::Undo(Step::Shim),
                Effect::Undo(Step::Bundle),
                Effect::Forget
            ]
        );
        assert_eq!(task.transitions[1].error.as_deref(), Some("no shim"));
    }

    #[test]
    fn a_network_is_attached_before_the_shim_and_detached_after_it() {
        let (mut task, _) = Task::create(true, NOW);
        assert_eq!(
            task.step(done(Step::Bundle), NOW).unwrap(),
            [Effect::Persist, Effect::Do(Step::Network)]
        );
        assert_eq!(
            task.step(done(Step::Network), NOW).unwrap(),
            [Effect::Persist, Effect::Do(Step::Shim)]
        );
        let effects = task
            .step(
                Event::Failed {
                    step: Step::Shim,
                    error: "no shim".into(),
                },
                NOW,
            )
            .unwrap();
        let undos = [Step::Shim, Step::Network, Step::Bundle].map(Effect::Undo);
        assert_eq!(effects[1..4], undos);
    }

    #[test]
    fn an_exit_that_overtakes_the_start_is_told_after_it() {
        let mut task = created();
        task.step(Event::StartRequested, NOW).unwrap();
        assert_eq!(
            task.step(Event::Exited(exit(0)), NOW).unwrap(),
            [Effect::Persist]
        );
        let effects = task.step(done(Step::Start), NOW).unwrap();
        assert_eq!(
            effects,
            [
                Effect::Publish(Notice::Started),
                Effect::Publish(Notice::Exited),
                Effect::Persist
            ]
        );
    }

    #[test]
    fn a_running_task_is_not_deleted_and_the_refusal_says_where_it_is() {
        let refused = running().step(Event::DeleteRequested, NOW).unwrap_err();
        assert_eq!(refused.to_string(), "cannot delete: the task is running");
        let (mut task, _) = Task::create(false, NOW);
        let refused = task.step(Event::DeleteRequested, NOW).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "cannot delete: the task is writing the bundle"
        );
    }

    #[test]
    fn the_first_exit_counts() {
        let mut task = running();
        task.step(Event::Exited(exit(3)), NOW).unwrap();
        assert_eq!(task.step(Event::Exited(exit(137)), NOW).unwrap(), []);
        assert_eq!(task.exit.unwrap().code, 3);
    }

    #[test]
    fn a_restart_goes_on_with_what_runs_and_undoes_what_was_half_made() {
        assert_eq!(
            running()
                .step(Event::Recovered { shim_answers: true }, NOW)
                .unwrap(),
            []
        );
        assert_eq!(
            running()
                .step(
                    Event::Recovered {
                        shim_answers: false
                    },
                    NOW
                )
                .unwrap(),
            [Effect::ReadExitRecord]
        );
        let (mut half, _) = Task::create(false, NOW);
        half.step(done(Step::Bundle), NOW).unwrap();
        let effects = half
            .step(
                Event::Recovered {
                    shim_answers: false,
                },
                NOW,
            )
            .unwrap();
        assert_eq!(
            effects,
            [
                Effect::Persist,
                Effect::Undo(Step::Shim),
                Effect::Undo(Step::Bundle),
                Effect::Forget
            ]
        );
    }

    #[test]
    fn a_record_survives_its_stored_form() {
        let task = running();
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), task);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let step = prop_oneof![
            Just(Step::Bundle),
            Just(Step::Network),
            Just(Step::Shim),
            Just(Step::Create),
            Just(Step::Start)
        ];
        prop_oneof![
            step.clone().prop_map(done),
            step.prop_map(|step| Event::Failed {
                step,
                error: "x".into()
            }),
            Just(Event::StartRequested),
            Just(Event::Paused),
            Just(Event::Resumed),
            Just(Event::Exited(exit(1))),
            Just(Event::DeleteRequested),
            any::<bool>().prop_map(|shim_answers| Event::Recovered { shim_answers }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_steps_are_announced_and_nothing_follows_forgetting(events in prop::collection::vec(any_event(), 0..40)) {
            let (mut task, _) = Task::create(false, NOW);
            for event in events {
                let Ok(effects) = task.step(event, NOW) else { continue };
                if let Some(at) = effects.iter().position(|effect| matches!(effect, Effect::Do(_) | Effect::Undo(_))) {
                    prop_assert!(effects[..at].contains(&Effect::Persist), "{effects:?}");
                }
                if let Some(at) = effects.iter().position(|effect| *effect == Effect::Forget) {
                    prop_assert_eq!(at, effects.len() - 1);
                    prop_assert_eq!(task.phase, Phase::Deleting);
                }
                prop_assert!(task.phase != Phase::Stopped || task.exit.is_some());
            }
        }
    }
}

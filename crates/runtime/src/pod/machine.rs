//! The life of a pod as a pure machine: `(PodState, PodEvent) -> (PodState, Vec<PodEffect>)`.
//!
//! A driver executes the effects in order and feeds their outcomes back. [`PodEffect::Persist`] always stands before the
//! outside effect it announces, so whatever a crash interrupts is on record, and replaying the record after a restart
//! yields its undo. All undos can be repeated.
//!
//! Ordering: one event at a time per pod. Cancellation: none; a caller that goes away does not stop a step.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase", content = "step")]
pub enum PodPhase {
    /// The named step of its creation is under way.
    Creating(PodStep),
    /// Containers can be made in it.
    Ready,
    /// Its containers are being stopped, its network detached and its namespaces unpinned.
    Stopping,
    /// Stopped, or lost: its namespaces went with a reboot, or its first process ended. Nothing can be started in it
    /// again, and nothing is left of it but files and its record.
    NotReady,
    /// Its containers, files and record are being removed; or a failed creation is being undone.
    Removing,
}

/// An outside effect on the way to a pod. They are done in this order and undone in the reverse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodStep {
    /// The folder with `resolv.conf`, `hosts` and `hostname`.
    Files,
    /// The namespaces, pinned, with host name and kernel parameters set; the file system behind `/dev/shm`; the first
    /// process, if it has to have one.
    Namespaces,
    /// The attachment by CNI; only pods with a network of their own take this step.
    Network,
}

/// One step as it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodTransition {
    /// Which step.
    pub step: PodStep,
    /// When it began.
    pub began: SystemTime,
    /// When it ended; absent while it is under way, or if a crash cut it short.
    pub ended: Option<SystemTime>,
    /// What went wrong.
    pub error: Option<String>,
}

/// A pod's state: where it is, and how it got there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// Where it is.
    pub phase: PodPhase,
    /// Whether it has a network of its own to attach and detach.
    pub networked: bool,
    /// Why it is no longer ready although nobody stopped it.
    #[serde(default)]
    pub reason: Option<String>,
    /// The steps so far, oldest first; at most one entry per step.
    pub transitions: Vec<PodTransition>,
}

/// What happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodEvent {
    /// A step of the creation is done.
    Done(PodStep),
    /// A step of the creation failed.
    Failed {
        /// Which step.
        step: PodStep,
        /// Why, for the record.
        error: String,
    },
    /// Somebody asks to stop it.
    StopRequested,
    /// Somebody asks to remove it.
    RemoveRequested,
    /// All of a stop was done.
    Stopped,
    /// What its containers share is gone: by a reboot, or because its first process ended.
    Lost {
        /// What is gone, for the record.
        reason: String,
    },
    /// The daemon started again and found this record; what it names is all there.
    Recovered,
}

/// What the driver has to do next, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodEffect {
    /// Write the record, and wait for the disk if its phase is awaited.
    Persist,
    /// Do a step; its outcome comes back as [`PodEvent::Done`] or [`PodEvent::Failed`].
    Do(PodStep),
    /// Undo a step: best effort, idempotent, errors are collected and reported once.
    Undo(PodStep),
    /// End all containers.
    StopMembers,
    /// Remove all containers.
    RemoveMembers,
    /// Unmount the images whose files containers see.
    ReleaseVolumes,
    /// If nothing went wrong since the last [`PodEffect::Persist`], feed back [`PodEvent::Stopped`]; else the pod stays as
    /// it is and the next call tries again.
    Conclude,
    /// Delete the record, if nothing went wrong: the pod is gone.
    Forget,
}

/// A request that does not fit where the pod is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {attempt}: the pod is {phase}")]
pub struct PodRefused {
    /// What was asked.
    pub attempt: &'static str,
    /// Where the pod is.
    pub phase: PodPhase,
}

impl PodPhase {
    /// Whether a record in this phase has to be on disk before what it announces is done. A power cut ends everything of
    /// a pod but what network plugins note on disk, such as addresses: only a record of the pod gives those back.
    pub(crate) fn is_awaited(self) -> bool {
        self == Self::Creating(PodStep::Network)
    }
}

impl PodStep {
    const fn next(self, networked: bool) -> Option<Self> {
        match self {
            Self::Files => Some(Self::Namespaces),
            Self::Namespaces if networked => Some(Self::Network),
            Self::Namespaces | Self::Network => None,
        }
    }

    /// All steps up to and including `self`, last first: the order to undo them in.
    fn undo_order(self, networked: bool) -> impl Iterator<Item = PodEffect> {
        [Self::Network, Self::Namespaces, Self::Files]
            .into_iter()
            .filter(move |step| *step <= self && (networked || *step != Self::Network))
            .map(PodEffect::Undo)
    }
}

impl PodState {
    /// A new pod and the first effects of its creation.
    #[must_use]
    pub fn create(networked: bool, now: SystemTime) -> (Self, Vec<PodEffect>) {
        let mut state = Self {
            phase: PodPhase::Creating(PodStep::Files),
            networked,
            reason: None,
            transitions: Vec::new(),
        };
        let effects = state.begin(PodStep::Files, now);
        (state, effects)
    }

    /// Takes one event. Late or repeated ones change nothing.
    pub fn step(&mut self, event: PodEvent, now: SystemTime) -> Vec<PodEffect> {
        match event {
            PodEvent::Done(step) => self.done(step, now),
            PodEvent::Failed { step, error } => self.failed(step, error, now),
            PodEvent::StopRequested => self.stop(),
            PodEvent::RemoveRequested => self.remove(),
            PodEvent::Stopped => self.stopped(),
            PodEvent::Lost { reason } => self.lost(reason),
            PodEvent::Recovered => self.recovered(),
        }
    }

    /// Whether a container may be made or started in the pod.
    ///
    /// # Errors
    /// The pod is not ready.
    pub fn admit(&self) -> Result<(), PodRefused> {
        match self.phase {
            PodPhase::Ready => Ok(()),
            PodPhase::Creating(_)
            | PodPhase::Stopping
            | PodPhase::NotReady
            | PodPhase::Removing => Err(PodRefused {
                attempt: "use the pod",
                phase: self.phase,
            }),
        }
    }

    fn begin(&mut self, step: PodStep, now: SystemTime) -> Vec<PodEffect> {
        self.transitions.push(PodTransition {
            step,
            began: now,
            ended: None,
            error: None,
        });
        vec![PodEffect::Persist, PodEffect::Do(step)]
    }

    fn end(&mut self, step: PodStep, now: SystemTime, error: Option<String>) {
        let mut steps = self.transitions.iter_mut().rev();
        if let Some(transition) = steps.find(|transition| transition.step == step) {
            transition.ended = Some(now);
            transition.error = error;
        }
    }

    fn is_at(&self, step: PodStep) -> bool {
        self.phase == PodPhase::Creating(step)
    }

    fn done(&mut self, step: PodStep, now: SystemTime) -> Vec<PodEffect> {
        if !self.is_at(step) {
            return vec![];
        }
        self.end(step, now, None);
        if let Some(next) = step.next(self.networked) {
            self.phase = PodPhase::Creating(next);
            return self.begin(next, now);
        }
        self.phase = PodPhase::Ready;
        vec![PodEffect::Persist]
    }

    fn failed(&mut self, step: PodStep, error: String, now: SystemTime) -> Vec<PodEffect> {
        if !self.is_at(step) {
            return vec![];
        }
        self.end(step, now, Some(error));
        self.undo_creation(step)
    }

    fn undo_creation(&mut self, from: PodStep) -> Vec<PodEffect> {
        self.phase = PodPhase::Removing;
        std::iter::once(PodEffect::Persist)
            .chain(from.undo_order(self.networked))
            .chain([PodEffect::Forget])
            .collect()
    }

    fn stop(&mut self) -> Vec<PodEffect> {
        match self.phase {
            PodPhase::Ready | PodPhase::Stopping => {
                self.phase = PodPhase::Stopping;
                self.take_down([PodEffect::Conclude])
            }
            PodPhase::NotReady => vec![],
            PodPhase::Creating(step) => self.undo_creation(step),
            PodPhase::Removing => self.remove(),
        }
    }

    /// Everything that runs or is attached goes, then `last`.
    fn take_down<const N: usize>(&self, last: [PodEffect; N]) -> Vec<PodEffect> {
        let undos = PodStep::Network
            .undo_order(self.networked)
            .filter(|undo| *undo != PodEffect::Undo(PodStep::Files));
        let ends = [
            PodEffect::Persist,
            PodEffect::StopMembers,
            PodEffect::ReleaseVolumes,
        ];
        ends.into_iter().chain(undos).chain(last).collect()
    }

    fn remove(&mut self) -> Vec<PodEffect> {
        let was_stopped = self.phase == PodPhase::NotReady;
        self.phase = PodPhase::Removing;
        let last = [
            PodEffect::RemoveMembers,
            PodEffect::Undo(PodStep::Files),
            PodEffect::Forget,
        ];
        if was_stopped {
            // Plugins need not be asked a second time.
            return std::iter::once(PodEffect::Persist).chain(last).collect();
        }
        self.take_down(last)
    }

    fn stopped(&mut self) -> Vec<PodEffect> {
        if self.phase != PodPhase::Stopping {
            return vec![];
        }
        self.phase = PodPhase::NotReady;
        vec![PodEffect::Persist]
    }

    fn lost(&mut self, reason: String) -> Vec<PodEffect> {
        match self.phase {
            PodPhase::Ready => {
                self.reason = Some(reason);
                self.stop()
            }
            // It is being taken down anyway, or nothing of it was left to lose.
            PodPhase::Creating(_)
            | PodPhase::Stopping
            | PodPhase::NotReady
            | PodPhase::Removing => self.recovered(),
        }
    }

    fn recovered(&mut self) -> Vec<PodEffect> {
        match self.phase {
            // Whoever asked for it is gone, and a half-made pod helps nobody: all of it is undone.
            PodPhase::Creating(step) => self.undo_creation(step),
            PodPhase::Stopping => self.stop(),
            PodPhase::Removing => self.remove(),
            PodPhase::Ready | PodPhase::NotReady => vec![],
        }
    }
}

impl std::fmt::Display for PodStep {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Files => "writing the files",
            Self::Namespaces => "making the namespaces",
            Self::Network => "attaching the network",
        })
    }
}

impl std::fmt::Display for PodPhase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Creating(step) => write!(formatter, "being created ({step})"),
            Self::Ready => formatter.write_str("ready"),
            Self::Stopping => formatter.write_str("being stopped"),
            Self::NotReady => formatter.write_str("stopped"),
            Self::Removing => formatter.write_str("being removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const STEPS: [PodStep; 3] = [PodStep::Files, PodStep::Namespaces, PodStep::Network];

    fn failed(step: PodStep) -> PodEvent {
        PodEvent::Failed {
            step,
            error: "no".to_owned(),
        }
    }

    fn lost() -> PodEvent {
        PodEvent::Lost {
            reason: "reboot".to_owned(),
        }
    }

    fn ready(networked: bool) -> PodState {
        let (mut pod, _) = PodState::create(networked, NOW);
        for step in STEPS {
            pod.step(PodEvent::Done(step), NOW);
        }
        assert_eq!(pod.phase, PodPhase::Ready);
        pod
    }

    #[test]
    fn a_pod_is_recorded_before_every_step() {
        let (mut pod, effects) = PodState::create(true, NOW);
        assert_eq!(effects, [PodEffect::Persist, PodEffect::Do(PodStep::Files)]);
        for (done, next) in [(STEPS[0], STEPS[1]), (STEPS[1], STEPS[2])] {
            let effects = pod.step(PodEvent::Done(done), NOW);
            assert_eq!(effects, [PodEffect::Persist, PodEffect::Do(next)]);
        }
        let effects = pod.step(PodEvent::Done(PodStep::Network), NOW);
        assert_eq!(effects, [PodEffect::Persist]);
        pod.admit().unwrap();
    }

    #[test]
    fn a_pod_on_the_hosts_network_attaches_and_detaches_nothing() {
        let effects = ready(false).step(PodEvent::StopRequested, NOW);
        assert!(!effects.contains(&PodEffect::Undo(PodStep::Network)));
        assert!(effects.contains(&PodEffect::Undo(PodStep::Namespaces)));
    }

    #[test]
    fn a_failed_step_undoes_itself_and_all_before_it() {
        let (mut pod, _) = PodState::create(true, NOW);
        pod.step(PodEvent::Done(PodStep::Files), NOW);
        let effects = pod.step(failed(PodStep::Namespaces), NOW);
        assert_eq!(
            effects,
            [
                PodEffect::Persist,
                PodEffect::Undo(PodStep::Namespaces),
                PodEffect::Undo(PodStep::Files),
                PodEffect::Forget
            ]
        );
        assert_eq!(pod.transitions[1].error.as_deref(), Some("no"));
    }

    #[test]
    fn a_stop_ends_containers_before_their_network_and_can_be_repeated() {
        let mut pod = ready(true);
        let wanted = [
            PodEffect::Persist,
            PodEffect::StopMembers,
            PodEffect::ReleaseVolumes,
            PodEffect::Undo(PodStep::Network),
            PodEffect::Undo(PodStep::Namespaces),
            PodEffect::Conclude,
        ];
        assert_eq!(pod.step(PodEvent::StopRequested, NOW), wanted);
        assert_eq!(pod.step(PodEvent::StopRequested, NOW), wanted);
        assert_eq!(pod.step(PodEvent::Stopped, NOW), [PodEffect::Persist]);
        assert_eq!(pod.step(PodEvent::StopRequested, NOW), []);
        assert_eq!(
            pod.admit().unwrap_err().to_string(),
            "cannot use the pod: the pod is stopped"
        );
    }

    #[test]
    fn removing_a_stopped_pod_asks_no_plugin_again() {
        let mut pod = ready(true);
        pod.step(PodEvent::StopRequested, NOW);
        pod.step(PodEvent::Stopped, NOW);
        let effects = pod.step(PodEvent::RemoveRequested, NOW);
        assert_eq!(
            effects,
            [
                PodEffect::Persist,
                PodEffect::RemoveMembers,
                PodEffect::Undo(PodStep::Files),
                PodEffect::Forget
            ]
        );
        // Whether all of a removal was done is not on record: the next try asks everybody.
        let again = pod.step(PodEvent::Recovered, NOW);
        assert!(again.contains(&PodEffect::Undo(PodStep::Network)));
        assert_eq!(again.last(), Some(&PodEffect::Forget));
    }

    #[test]
    fn a_lost_pod_releases_what_it_had_and_says_why() {
        let mut pod = ready(true);
        let effects = pod.step(lost(), NOW);
        assert!(effects.contains(&PodEffect::Undo(PodStep::Network)));
        pod.step(PodEvent::Stopped, NOW);
        assert_eq!(pod.phase, PodPhase::NotReady);
        assert_eq!(pod.reason.as_deref(), Some("reboot"));
        assert_eq!(pod.step(lost(), NOW), []);
    }

    #[test]
    fn a_restart_goes_on_with_what_was_going_on() {
        assert_eq!(ready(true).step(PodEvent::Recovered, NOW), []);
        let mut stopping = ready(true);
        let stop = stopping.step(PodEvent::StopRequested, NOW);
        assert_eq!(stopping.step(PodEvent::Recovered, NOW), stop);
        let (mut half, _) = PodState::create(true, NOW);
        assert_eq!(
            half.step(PodEvent::Recovered, NOW),
            [
                PodEffect::Persist,
                PodEffect::Undo(PodStep::Files),
                PodEffect::Forget
            ]
        );
    }

    #[test]
    fn a_state_survives_its_stored_form() {
        let pod = ready(true);
        let text = serde_json::to_string(&pod).unwrap();
        assert_eq!(serde_json::from_str::<PodState>(&text).unwrap(), pod);
    }

    fn any_event() -> impl Strategy<Value = PodEvent> {
        let step = prop::sample::select(STEPS.to_vec());
        prop_oneof![
            step.clone().prop_map(PodEvent::Done),
            step.prop_map(failed),
            Just(PodEvent::StopRequested),
            Just(PodEvent::RemoveRequested),
            Just(PodEvent::Stopped),
            Just(lost()),
            Just(PodEvent::Recovered),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_effects_are_announced_and_undone_backwards(
            networked: bool,
            events in prop::collection::vec(any_event(), 0..40),
        ) {
            let (mut pod, _) = PodState::create(networked, NOW);
            for event in events {
                let before = pod.phase;
                let effects = pod.step(event, NOW);
                if let Some(first) = effects.first() {
                    prop_assert_eq!(*first, PodEffect::Persist);
                }
                let undone: Vec<_> = effects
                    .iter()
                    .filter_map(|effect| match effect {
                        PodEffect::Undo(step) => Some(*step),
                        PodEffect::Persist | PodEffect::Do(_) | PodEffect::StopMembers
                        | PodEffect::RemoveMembers | PodEffect::ReleaseVolumes
                        | PodEffect::Conclude | PodEffect::Forget => None,
                    })
                    .collect();
                prop_assert!(undone.is_sorted_by(|a, b| a > b), "{effects:?}");
                prop_assert!(networked || !undone.contains(&PodStep::Network));
                if let Some(at) = effects.iter().position(|effect| *effect == PodEffect::Forget) {
                    prop_assert_eq!(at, effects.len() - 1);
                    prop_assert_eq!(pod.phase, PodPhase::Removing);
                    prop_assert!(undone.contains(&PodStep::Files));
                }
                // A pod never gets ready again, and what was being removed stays so.
                let was_up = matches!(before, PodPhase::Creating(_) | PodPhase::Ready);
                prop_assert!(was_up || pod.phase != PodPhase::Ready);
                prop_assert!(before != PodPhase::Removing || pod.phase == PodPhase::Removing);
                prop_assert!(pod.transitions.len() <= STEPS.len());
            }
        }
    }
}

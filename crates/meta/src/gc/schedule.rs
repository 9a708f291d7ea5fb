//! When to collect: a pure policy. The daemon waits as it says, and calls [`super::Collector`].

use std::time::{Duration, SystemTime};

/// A pass is taken to last at least so long, so that short ones do not follow each other in a circle.
const PASS_TIME_MIN: Duration = Duration::from_millis(5);

/// containerd's knobs, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SchedulePolicy {
    /// The share of time that passes may take, from 0 (as soon as there is a reason) to 0.5.
    pub pause_fraction: f64,
    /// So many deletions are a reason not to wait for that share; 0 never.
    pub deletion_threshold: u64,
    /// So many changes of any kind are a reason to collect; 0 never.
    pub mutation_threshold: u64,
    /// How long to wait after somebody asked, or deleted enough.
    pub schedule_delay: Duration,
    /// How long after the start the first pass is.
    pub startup_delay: Duration,
}

impl Default for SchedulePolicy {
    fn default() -> Self {
        Self {
            pause_fraction: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time of day: leases expire by it.
    pub wall: SystemTime,
    /// Time since boot: intervals are measured by it.
    pub boottime: Duration,
}

/// What happened since the last pass began, and what is to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// Sum of [`crate::Committed::deletions`].
    pub deletions: u64,
    /// Committed batches, whatever they did.
    pub mutations: u64,
    /// Sum of [`crate::Committed::sweeps`].
    pub sweeps: u64,
    /// Somebody asked for a pass.
    pub requested: bool,
    /// From [`super::Collector::timers`].
    pub next_expiry: Option<SystemTime>,
    /// From [`super::Collector::timers`].
    pub next_retry: Option<SystemTime>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A whole pass: [`super::Collector::run_once`].
    Collect,
    /// Only the queue: [`super::Collector::sweep`].
    Sweep,
    /// Ask again after this time, or when a signal changes.
    Wait(Duration),
    /// Ask again when a signal changes.
    Idle,
}

/// Decides when to collect.
#[derive(Debug, Clone)]
pub struct Schedule {
    policy: SchedulePolicy,
    started: Duration,
    passes: u32,
    pass_time: Duration,
    last_end: Option<Duration>,
}

impl Schedule {
    /// A schedule that begins now. Fractions beyond what is sensible are brought into range.
    #[must_use]
    pub fn new(policy: SchedulePolicy, now: Moment) -> Self {
        let fraction = policy.pause_fraction;
        let pause_fraction = if fraction > 0.0 {
            fraction.min(0.5)
        } else {
            0.0
        };
        Self {
            policy: SchedulePolicy {
                pause_fraction,
                ..policy
            },
            started: now.boottime,
            passes: 0,
            pass_time: Duration::ZERO,
            last_end: None,
        }
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self, now: Moment, signals: &Signals) -> Next {
        // Somebody waits for it: no delay that is meant to gather changes applies.
        if signals.requested {
            return Next::Collect;
        }
        let Some(last_end) = self.last_end else {
            let first = self.started + self.policy.startup_delay;
            return after(first, now.boottime, Next::Collect);
        };
        let policy = &self.policy;
        let enough =
            policy.deletion_threshold > 0 && signals.deletions >= policy.deletion_threshold;
        if enough {
            return after(
                last_end + policy.schedule_delay,
                now.boottime,
                Next::Collect,
            );
        }
        let earliest = last_end + self.interval();
        let changed =
            policy.mutation_threshold > 0 && signals.mutations >= policy.mutation_threshold;
        let expired = signals.next_expiry.is_some_and(|at| at <= now.wall);
        if signals.deletions > 0 || changed || expired {
            return after(earliest, now.boottime, Next::Collect);
        }
        let is_due = signals.next_retry.is_some_and(|at| at <= now.wall);
        if signals.sweeps > 0 || is_due {
            return after(earliest, now.boottime, Next::Sweep);
        }
        let timers = [signals.next_expiry, signals.next_retry];
        let wait = |at: SystemTime| at.duration_since(now.wall).unwrap_or_default();
        timers
            .into_iter()
            .flatten()
            .map(wait)
            .min()
            .map_or(Next::Idle, Next::Wait)
    }

    /// Notes that a pass or sweep ended, and how long it took. The caller begins new signals from when it began.
    pub fn ran(&mut self, now: Moment, took: Duration) {
        self.last_end = Some(now.boottime);
        self.passes = self.passes.saturating_add(1);
        self.pass_time = self.pass_time.saturating_add(took);
    }

    /// How long after a pass the next one is at the earliest, so that passes take no more than their share of time.
    #[must_use]
    pub fn interval(&self) -> Duration {
        if self.policy.pause_fraction <= 0.0 || self.passes == 0 {
            return Duration::ZERO;
        }
        let average = (self.pass_time / self.passes).max(PASS_TIME_MIN);
        average.mul_f64(1.0 / self.policy.pause_fraction) - average
    }
}

fn after(moment: Duration, now: Duration, then: Next) -> Next {
    match moment.checked_sub(now) {
        Some(wait) if !wait.is_zero() => Next::Wait(wait),
        Some(_) | None => then,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(millis: u64) -> Moment {
        Moment {
            wall: SystemTime::UNIX_EPOCH + 10_000 * HOUR + Duration::from_millis(millis),
            boottime: HOUR + Duration::from_millis(millis),
        }
    }

    fn ran_at(millis: u64, took_millis: u64) -> Schedule {
        let mut schedule = Schedule::new(SchedulePolicy::default(), at(0));
        schedule.ran(at(millis), Duration::from_millis(took_millis));
        schedule
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_first_pass_is_shortly_after_the_start_and_needs_no_reason() {
        let schedule = Schedule::new(SchedulePolicy::default(), at(0));
        let none = Signals::default();
        assert_eq!(schedule.next(at(0), &none), Next::Wait(millis(100)));
        assert_eq!(schedule.next(at(100), &none), Next::Collect);
    }

    #[test]
    fn an_idle_node_sleeps_until_a_signal() {
        let schedule = ran_at(0, 1);
        assert_eq!(schedule.next(at(999_999), &Signals::default()), Next::Idle);
    }

    #[test]
    fn passes_take_a_fiftieth_of_the_time_at_most() {
        let signals = Signals {
            deletions: 1,
            ..Signals::default()
        };
        let schedule = ran_at(0, 100);
        assert_eq!(schedule.interval(), millis(4900));
        assert_eq!(schedule.next(at(900), &signals), Next::Wait(millis(4000)));
        assert_eq!(schedule.next(at(4900), &signals), Next::Collect);
        assert_eq!(ran_at(0, 0).interval(), millis(245));
    }

    #[test]
    fn who_asks_is_not_kept_waiting() {
        let signals = Signals {
            requested: true,
            ..Signals::default()
        };
        assert_eq!(ran_at(0, 100).next(at(1), &signals), Next::Collect);
    }

    #[test]
    fn enough_deletions_are_not_kept_waiting_where_a_threshold_is_set() {
        let policy = SchedulePolicy {
            deletion_threshold: 10,
            schedule_delay: millis(50),
            ..SchedulePolicy::default()
        };
        let mut schedule = Schedule::new(policy, at(0));
        schedule.ran(at(0), millis(100));
        let signals = |deletions| Signals {
            deletions,
            ..Signals::default()
        };
        assert_eq!(schedule.next(at(0), &signals(10)), Next::Wait(millis(50)));
        assert_eq!(schedule.next(at(60), &signals(10)), Next::Collect);
        assert_eq!(schedule.next(at(0), &signals(9)), Next::Wait(millis(4900)));
    }

    #[test]
    fn changes_are_a_reason_once_there_are_enough() {
        let signals = |mutations| Signals {
            mutations,
            ..Signals::default()
        };
        assert_eq!(ran_at(0, 1).next(at(1000), &signals(99)), Next::Idle);
        assert_eq!(ran_at(0, 1).next(at(1000), &signals(100)), Next::Collect);
    }

    #[test]
    fn a_lease_that_expires_is_a_timer_of_its_own() {
        let signals = Signals {
            next_expiry: Some(at(60_000).wall),
            ..Signals::default()
        };
        assert_eq!(
            ran_at(0, 1).next(at(10_000), &signals),
            Next::Wait(millis(50_000))
        );
        assert_eq!(ran_at(0, 1).next(at(60_000), &signals), Next::Collect);
    }

    #[test]
    fn a_failed_removal_is_tried_again_without_marking() {
        let signals = Signals {
            next_retry: Some(at(2_000).wall),
            ..Signals::default()
        };
        assert_eq!(
            ran_at(0, 1).next(at(1_000), &signals),
            Next::Wait(millis(1_000))
        );
        assert_eq!(ran_at(0, 1).next(at(2_000), &signals), Next::Sweep);
        let queued = Signals {
            sweeps: 1,
            ..Signals::default()
        };
        assert_eq!(ran_at(0, 1).next(at(1_000), &queued), Next::Sweep);
    }

    #[test]
    fn senseless_fractions_are_brought_into_range() {
        for (fraction, expected) in [(-1.0, 0), (f64::NAN, 0), (0.9, 5)] {
            let policy = SchedulePolicy {
                pause_fraction: fraction,
                ..SchedulePolicy::default()
            };
            let mut schedule = Schedule::new(policy, at(0));
            schedule.ran(at(0), millis(1));
            assert_eq!(schedule.interval(), millis(expected), "{fraction}");
        }
    }
}

//! When to try again: exponential back-off with full jitter that honours what the peer asked for.
//!
//! Pure: the caller sleeps. Full jitter (a uniform choice between nothing and the ceiling) spreads a fleet of nodes
//! that failed together better than any narrower choice.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How often and how long apart an operation is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The ceiling before the second attempt; it doubles with each further one.
    pub initial: Duration,
    /// No ceiling is higher.
    pub ceiling_max: Duration,
    /// The longest wait a peer may ask for. A longer wish ends the attempts, so that the caller hears of it now.
    pub retry_after_max: Duration,
    /// How many attempts there are in all, the first included.
    pub attempts_max: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(250),
            ceiling_max: Duration::from_secs(15),
            retry_after_max: Duration::from_secs(60),
            attempts_max: 5,
        }
    }
}

impl RetryPolicy {
    /// How long to wait after `failures` attempts failed, or `None` to give up.
    ///
    /// With `retry_after` the wait is that, never less, plus jitter, so that not everybody comes back at once.
    #[must_use]
    pub fn delay(
        &self,
        failures: u32,
        retry_after: Option<Duration>,
        jitter: &mut Jitter,
    ) -> Option<Duration> {
        if failures >= self.attempts_max {
            return None;
        }
        let spread = jitter.up_to(self.ceiling(failures));
        match retry_after {
            Some(asked) if asked > self.retry_after_max => None,
            Some(asked) => Some(asked + spread),
            None => Some(spread),
        }
    }

    /// The longest wait after `failures` failed attempts when the peer asked for nothing.
    #[must_use]
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.initial
            .saturating_mul(1 << doublings)
            .min(self.ceiling_max)
    }
}

/// A small source of randomness (SplitMix64): good for spreading load, useless for secrets.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// Seeds itself from the process's random hash keys, so that no two nodes agree.
    #[must_use]
    pub fn from_entropy() -> Self {
        Self(RandomState::new().hash_one(0u8))
    }

    /// A repeatable sequence, for tests.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A uniform choice between nothing and `ceiling`.
    pub fn up_to(&mut self, ceiling: Duration) -> Duration {
        // 32 bits of choice suffice, and keep the product within u128 and the result within u64 nanoseconds.
        let share = u128::from(self.next() >> 32);
        let nanos = (ceiling.as_nanos() * share) >> 32;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_highest_ceiling() {
        let policy = RetryPolicy::default();
        let ceilings: Vec<u128> = (1..=8)
            .map(|failures| policy.ceiling(failures).as_millis())
            .collect();
        assert_eq!(ceilings, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        assert_eq!(policy.ceiling(u32::MAX), policy.ceiling_max);
    }

    #[test]
    fn jitter_fills_the_whole_range_and_never_leaves_it() {
        let mut jitter = Jitter::seeded(7);
        let ceiling = Duration::from_secs(1);
        let waits: Vec<Duration> = (0..1000).map(|_| jitter.up_to(ceiling)).collect();
        assert!(waits.iter().all(|wait| *wait <= ceiling));
        assert!(waits.iter().any(|wait| *wait < ceiling / 20));
        assert!(waits.iter().any(|wait| *wait > ceiling * 19 / 20));
    }

    #[test]
    fn a_peer_that_asks_for_a_wait_gets_at_least_that() {
        let policy = RetryPolicy::default();
        let asked = Duration::from_secs(30);
        let wait = policy.delay(1, Some(asked), &mut Jitter::seeded(1));
        assert!(wait.is_some_and(|wait| (asked..=asked + policy.initial).contains(&wait)));
    }

    #[test]
    fn a_wish_beyond_the_limit_and_a_spent_policy_both_give_up() {
        let policy = RetryPolicy::default();
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(policy.delay(1, hour, &mut Jitter::seeded(1)), None);
        assert_eq!(policy.delay(5, None, &mut Jitter::seeded(1)), None);
    }
}

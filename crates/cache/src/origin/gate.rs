//! Whether an upstream may be asked now. Pure: the caller says what time it is.
//!
//! Two reasons say no. A 429 pauses one credential at one upstream until the moment the upstream named: nobody who uses
//! that credential asks before. Failures in a row rest the upstream for everybody (a circuit breaker): then one request
//! goes through to try it, and its outcome decides.

use std::collections::HashMap;
use std::time::Duration;

use super::recent::Recent;
use super::trouble::{Trouble, TroubleKind};
use crate::rights::Fingerprint;

/// When a 429 names no time.
const PAUSE_DEFAULT: Duration = Duration::from_secs(5);
/// No upstream is believed that wants more: Docker Hub's window is six hours.
const PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);
const PAUSES_MAX: usize = 4096;
const BREAKERS_MAX: usize = 1024;

/// When an upstream rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerOptions {
    /// After so many failures in a row; 0 for never.
    pub failures_max: u32,
    /// For how long first; it doubles with each try that fails.
    pub rest: Duration,
    /// And at most.
    pub rest_max: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self {
            failures_max: 5,
            rest: Duration::from_secs(5),
            rest_max: Duration::from_secs(60),
        }
    }
}

/// The gates of all upstreams.
#[derive(Debug)]
pub(super) struct Gates {
    pauses: Recent<(String, Fingerprint), ()>,
    breakers: HashMap<String, Breaker>,
    options: BreakerOptions,
}

#[derive(Debug, Clone, Copy, Default)]
struct Breaker {
    failures: u32,
    rests: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// Nobody asks until then.
    Open(Duration),
    /// Somebody has gone to try.
    Trying,
}

/// How a request that was let through ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended<'a> {
    /// The upstream answered, a refusal included.
    Answered,
    /// It did not do its work.
    Failed(&'a Trouble),
    /// Nobody knows: the request was given up.
    Abandoned,
}

impl Gates {
    pub(super) fn new(options: BreakerOptions) -> Self {
        Self {
            pauses: Recent::new(PAUSES_MAX),
            breakers: HashMap::new(),
            options,
        }
    }

    /// Lets a request through, or says why not and for how long.
    pub(super) fn admit(
        &mut self,
        registry: &str,
        who: Fingerprint,
        now: Duration,
    ) -> Result<(), Trouble> {
        let key = (registry.to_owned(), who);
        if let Some((_, left)) = self.pauses.find(&key, now) {
            let text = format!("{registry} wants no request with this credential for {left:.0?}");
            return Err(Trouble::new(TroubleKind::Throttled, text).after(left));
        }
        let Some(breaker) = self.breakers.get_mut(registry) else {
            return Ok(());
        };
        let resting = |left: Duration| {
            let failures = breaker.failures;
            let text =
                format!("{registry} failed {failures} times in a row and is asked again later");
            Err(Trouble::new(TroubleKind::Resting, text).after(left))
        };
        match breaker.state {
            State::Closed => Ok(()),
            State::Open(until) if until > now => resting(until - now),
            State::Trying => resting(Duration::from_secs(1)),
            State::Open(_) => {
                breaker.state = State::Trying;
                Ok(())
            }
        }
    }

    /// Draws the consequences of a request that was let through.
    pub(super) fn note(
        &mut self,
        registry: &str,
        who: Fingerprint,
        now: Duration,
        ended: Ended<'_>,
    ) {
        match ended {
            Ended::Answered => {
                self.breakers.remove(registry);
            }
            Ended::Abandoned => {
                if let Some(breaker) = self.breakers.get_mut(registry)
                    && breaker.state == State::Trying
                {
                    breaker.state = State::Open(now);
                }
            }
            Ended::Failed(trouble) if trouble.kind == TroubleKind::Throttled => {
                let pause = trouble.retry_after.unwrap_or(PAUSE_DEFAULT).min(PAUSE_MAX);
                let key = (registry.to_owned(), who);
                self.pauses.keep(key, (), now, now + pause);
                self.breakers.remove(registry);
            }
            Ended::Failed(trouble) if trouble.is_of_the_upstream() => self.fail(registry, now),
            Ended::Failed(_) => {
                self.breakers.remove(registry);
            }
        }
    }

    fn fail(&mut self, registry: &str, now: Duration) {
        if self.options.failures_max == 0 {
            return;
        }
        if self.breakers.len() >= BREAKERS_MAX {
            self.breakers
                .retain(|_, breaker| breaker.state != State::Closed);
        }
        let options = self.options;
        let breaker = self.breakers.entry(registry.to_owned()).or_default();
        breaker.failures += 1;
        let is_spent = breaker.failures >= options.failures_max;
        if breaker.state == State::Trying || is_spent {
            let rest = options.rest.saturating_mul(1 << breaker.rests.min(16));
            breaker.state = State::Open(now + rest.min(options.rest_max));
            breaker.rests += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Fingerprint = Fingerprint::SERVICE;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn gates() -> Gates {
        Gates::new(BreakerOptions {
            failures_max: 2,
            rest: at(10),
            rest_max: at(30),
        })
    }

    fn throttled(seconds: u64) -> Trouble {
        Trouble::new(TroubleKind::Throttled, "").after(at(seconds))
    }

    #[test]
    fn after_a_429_nobody_asks_with_that_credential_before_its_time() {
        let mut gates = gates();
        let b = Fingerprint::from_bytes([7; 32]);
        gates.note("r", A, at(0), Ended::Failed(&throttled(60)));
        let refused = gates.admit("r", A, at(59)).unwrap_err();
        assert_eq!(refused.kind, TroubleKind::Throttled);
        assert_eq!(refused.retry_after, Some(at(1)));
        assert!(gates.admit("r", b, at(1)).is_ok(), "another credential");
        assert!(gates.admit("s", A, at(1)).is_ok(), "another upstream");
        assert!(gates.admit("r", A, at(60)).is_ok());
    }

    #[test]
    fn a_pause_has_a_default_and_an_end() {
        let mut gates = gates();
        let silent = Trouble::new(TroubleKind::Throttled, "");
        gates.note("r", A, at(0), Ended::Failed(&silent));
        assert!(gates.admit("r", A, at(4)).is_err());
        assert!(gates.admit("r", A, at(5)).is_ok());
        gates.note("r", A, at(5), Ended::Failed(&throttled(u64::MAX / 4)));
        assert!(gates.admit("r", A, at(5 + 6 * 3600)).is_ok());
    }

    #[test]
    fn failures_in_a_row_rest_the_upstream_and_one_request_tries_it() {
        let mut gates = gates();
        let failing = Trouble::new(TroubleKind::Failing(503), "");
        gates.note("r", A, at(0), Ended::Failed(&failing));
        gates.note("r", A, at(0), Ended::Answered);
        gates.note("r", A, at(0), Ended::Failed(&failing));
        assert!(gates.admit("r", A, at(0)).is_ok(), "not in a row");
        gates.note("r", A, at(0), Ended::Failed(&failing));
        let refused = gates.admit("r", A, at(9)).unwrap_err();
        assert_eq!(refused.kind, TroubleKind::Resting);
        assert!(gates.admit("r", A, at(10)).is_ok(), "the one that tries");
        assert!(gates.admit("r", A, at(10)).is_err(), "the others wait");
        gates.note("r", A, at(10), Ended::Failed(&failing));
        assert!(gates.admit("r", A, at(29)).is_err(), "twice as long");
        assert!(gates.admit("r", A, at(30)).is_ok());
        gates.note("r", A, at(30), Ended::Abandoned);
        assert!(gates.admit("r", A, at(30)).is_ok(), "somebody else tries");
        gates.note("r", A, at(30), Ended::Answered);
        assert!(gates.admit("r", A, at(30)).is_ok());
        assert!(gates.admit("r", A, at(30)).is_ok());
    }

    #[test]
    fn a_refusal_is_an_answer() {
        let mut gates = gates();
        let refusal = Trouble::new(TroubleKind::NotFound, "");
        for _ in 0..9 {
            gates.note("r", A, at(0), Ended::Failed(&refusal));
        }
        assert!(gates.admit("r", A, at(0)).is_ok());
    }
}

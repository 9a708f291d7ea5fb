//! One-time tokens: a URL that was handed out is good for one request, soon.
//!
//! Crash: tokens are forgotten; the kubelet asks for another URL. Bounds: [`TOKENS_MAX`] at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use orlop_base::clock::SharedClock;

/// How long a URL is good for; the kubelet's own figure.
const LIFETIME: Duration = Duration::from_secs(60);
/// URLs that were handed out and not used yet.
const TOKENS_MAX: usize = 1000;
/// Random bits of a token, in bytes.
const TOKEN_BYTES: usize = 16;

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Nobody uses what is handed out.
    #[error("{TOKENS_MAX} streaming URLs wait to be used: try again in a minute")]
    TooMany,
    /// The kernel gave no random number.
    #[error("there are no random numbers")]
    NotRandom,
}

/// What each token stands for.
pub(crate) struct Tokens<T> {
    clock: SharedClock,
    /// With the time on the boot clock until which it is good.
    waiting: Mutex<HashMap<String, (Duration, T)>>,
}

impl<T> Tokens<T> {
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            waiting: Mutex::new(HashMap::new()),
        }
    }

    /// Hands out a token for `subject`.
    pub(crate) fn issue(&self, subject: T) -> Result<String, TokenError> {
        let token = random_token()?;
        let now = self.clock.boottime();
        let mut waiting = self.lock();
        waiting.retain(|_, (until, _)| *until > now);
        if waiting.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        waiting.insert(token.clone(), (now + LIFETIME, subject));
        Ok(token)
    }

    /// What a token stands for; nothing the second time, or too late.
    pub(crate) fn redeem(&self, token: &str) -> Option<T> {
        let (until, subject) = self.lock().remove(token)?;
        (until > self.clock.boottime()).then_some(subject)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Duration, T)>> {
        // Every change is one call: a panic in between leaves nothing half-done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_token() -> Result<String, TokenError> {
    use std::fmt::Write;
    let mut bytes = [0; TOKEN_BYTES];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| TokenError::NotRandom)?;
    let mut token = String::with_capacity(TOKEN_BYTES * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        write!(token, "{byte:02x}").ok();
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use orlop_base::clock::ManualClock;

    use super::*;

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let clock = ManualClock::new();
        let tokens = Tokens::new(Arc::new(clock.clone()));
        let [first, second] = [1, 2].map(|subject| tokens.issue(subject).unwrap());
        assert_ne!(first, second);
        assert_eq!(first.len(), 32);
        assert_eq!(tokens.redeem(&first), Some(1));
        assert_eq!(tokens.redeem(&first), None);
        assert_eq!(tokens.redeem("0"), None);
        clock.advance(LIFETIME);
        assert_eq!(tokens.redeem(&second), None);
    }

    #[test]
    fn only_so_many_wait_and_those_that_expire_make_room() {
        let clock = ManualClock::new();
        let tokens = Tokens::new(Arc::new(clock.clone()));
        for subject in 0..TOKENS_MAX {
            tokens.issue(subject).unwrap();
        }
        assert_eq!(tokens.issue(0), Err(TokenError::TooMany));
        clock.advance(LIFETIME);
        assert!(tokens.issue(0).is_ok());
    }
}

//! A store that was away a moment ago is left alone: each pull would wait for it in vain.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use orlop_cache::depot::{DepotError, DepotErrorKind};
use orlop_types::Digest;
use tokio::time::Instant;

/// How long nobody asks.
const REST: Duration = Duration::from_secs(5);

/// Until when nobody asks.
#[derive(Debug, Default)]
pub(super) struct Rest(Mutex<Option<Instant>>);

impl Rest {
    /// Fails at once while the store is left alone.
    pub(super) fn over(&self, operation: &'static str, digest: &Digest) -> Result<(), DepotError> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_none_or(|until| Instant::now() >= until) {
            return Ok(());
        }
        let why = Some("it was away a moment ago".into());
        Err(DepotError::new(
            operation,
            digest,
            DepotErrorKind::Away,
            why,
        ))
    }

    /// Hears how a call ended.
    pub(super) fn heard<T>(&self, answer: Result<T, DepotError>) -> Result<T, DepotError> {
        if matches!(&answer, Err(error) if error.kind == DepotErrorKind::Away) {
            let until = Instant::now() + REST;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
        answer
    }
}

//! One at a time for each thing: the first asks upstream, and the others find what it learnt.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Waiting = Arc<tokio::sync::Mutex<()>>;

/// Turns by name. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
}

/// Somebody's turn, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    name: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for a turn.
    pub(super) async fn take(&self, name: String) -> Turn {
        let waiting = Arc::clone(self.lock().entry(name.clone()).or_default());
        // Made before the wait, so that giving up while waiting tidies up too.
        let mut turn = Turn {
            turns: self.clone(),
            name,
            held: None,
        };
        turn.held = Some(waiting.lock_owned().await);
        turn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut waiting = self.turns.lock();
        // Nobody else can get a copy while the map is locked.
        let is_last = waiting
            .get(&self.name)
            .is_some_and(|waiting| Arc::strong_count(waiting) == 1);
        if is_last {
            waiting.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_stays() {
        let turns = Turns::default();
        let first = turns.take("a".to_owned()).await;
        let other = turns.take("b".to_owned()).await;
        let mut second = Box::pin(turns.take("a".to_owned()));
        assert!(futures_util::poll!(&mut second).is_pending());
        let third = Box::pin(turns.take("a".to_owned()));
        drop(third);
        drop(first);
        let second = second.await;
        drop((second, other));
        assert!(turns.lock().is_empty());
    }
}

//! Stops everything at a step, as `kill -9` does: what was done stays done, and nothing more is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts steps, and ends the world at one of them. Clones are one switch.
#[derive(Debug, Clone, Default)]
pub struct Switch {
    inner: Arc<Inner>,
}

/// What a blocking job of a dead world ends with. Whoever drives the world has left before it is seen.
#[derive(Debug, Clone, Copy)]
pub struct Death;

#[derive(Debug, Default)]
struct Inner {
    steps: AtomicUsize,
    /// None if zero.
    dies_at: usize,
    died: Notify,
}

impl Switch {
    /// Ends the world at the step of this number, from 1 on.
    #[must_use]
    pub fn dying_at(step: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                dies_at: step,
                ..Inner::default()
            }),
        }
    }

    /// How many steps there were.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.inner.steps.load(Ordering::SeqCst)
    }

    /// Waits for the world's end.
    pub async fn death(&self) {
        self.inner.died.notified().await;
    }

    /// A step of something that waits for nothing. In a dead world it unwinds its thread, which is all that is left.
    pub fn step(&self) {
        if self.is_last() {
            std::panic::panic_any(Death);
        }
    }

    /// A step of something that waits. In a dead world it waits for ever.
    pub async fn reach(&self) {
        if self.is_last() {
            std::future::pending::<()>().await;
        }
    }

    fn is_last(&self) -> bool {
        let step = self.inner.steps.fetch_add(1, Ordering::SeqCst) + 1;
        let is_dead = self.inner.dies_at != 0 && step >= self.inner.dies_at;
        if is_dead {
            self.inner.died.notify_one();
        }
        is_dead
    }
}

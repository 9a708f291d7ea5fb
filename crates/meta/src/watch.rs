//! Who wants to be woken after a commit.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::Committed;

type Callback = Arc<dyn Fn(Committed) + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct Watchers {
    callbacks: Arc<Mutex<Callbacks>>,
}

#[derive(Default)]
struct Callbacks {
    next_id: u64,
    entries: Vec<(u64, Callback)>,
}

/// Keeps a callback registered until it is dropped.
pub struct WatchGuard {
    id: u64,
    callbacks: Weak<Mutex<Callbacks>>,
}

impl Watchers {
    pub(crate) fn add(&self, callback: Callback) -> WatchGuard {
        let mut callbacks = lock(&self.callbacks);
        let id = callbacks.next_id;
        callbacks.next_id += 1;
        callbacks.entries.push((id, callback));
        let callbacks = Arc::downgrade(&self.callbacks);
        WatchGuard { id, callbacks }
    }

    /// Calls everybody, without a lock, so that a callback may end watches.
    pub(crate) fn call(&self, committed: Committed) {
        let entries: Vec<Callback> = lock(&self.callbacks)
            .entries
            .iter()
            .map(|(_, callback)| Arc::clone(callback))
            .collect();
        for callback in entries {
            callback(committed);
        }
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = lock(&self.callbacks).entries.len();
        write!(formatter, "Watchers({count})")
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        if let Some(callbacks) = self.callbacks.upgrade() {
            lock(&callbacks).entries.retain(|(id, _)| *id != self.id);
        }
    }
}

impl fmt::Debug for WatchGuard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "WatchGuard({})", self.id)
    }
}

fn lock(callbacks: &Mutex<Callbacks>) -> MutexGuard<'_, Callbacks> {
    callbacks.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The one memory budget: a semaphore of kibibytes that every buffered byte of every blob is charged to.
//!
//! A reader takes its part before it asks the connection for bytes and gives it back when they are written. A slow
//! disk therefore stops the readers, and the sockets stop the servers. No deadlock: whoever holds a part either reads
//! (bounded by the no-progress deadline) or writes, and waits for no second part while it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const UNIT_BYTES: usize = 1024;
/// What is buffered before it is written, in bytes: long enough for the disk, short enough for small budgets.
pub(super) const BATCH_BYTES_MAX: usize = 256 * 1024;
const BUDGET_BYTES_DEFAULT: usize = 32 << 20;

/// A bound on the bytes of blobs in memory. Clones share it; the daemon has one.
///
/// Not charged, because it is not ours to hold: the read buffer of each connection (HTTP/1.1, at most about 400 KiB,
/// and no more connections than `parallel_per_host`).
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    total: usize,
    peak: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// A budget of `bytes`, at least one batch of 256 KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = (bytes.max(BATCH_BYTES_MAX) / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(total)),
            total,
            peak: Arc::default(),
        }
    }

    /// The most bytes that were charged at once so far.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Bytes charged now.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let used = self.total.saturating_sub(self.units.available_permits());
        (used * UNIT_BYTES) as u64
    }

    /// Waits for room for `bytes`, at most a batch.
    pub(crate) async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = bytes.min(BATCH_BYTES_MAX).div_ceil(UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.units)
            .acquire_many_owned(units)
            .await
            .expect("the budget is never closed");
        self.peak.fetch_max(self.used_bytes(), Ordering::Relaxed);
        permit
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(BUDGET_BYTES_DEFAULT)
    }
}

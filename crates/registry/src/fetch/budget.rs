//! The one memory budget: a semaphore of kibibytes that every buffered byte of every blob is charged to.
//!
//! A body takes its part before it is asked for, because the HTTP client begins to read by itself, and gives it back
//! after its last byte is written: what the HTTP client and TLS may hold for it is in that part, not only what is on its way to the disk. An
//! upload takes its part before it reads a piece. A slow disk therefore stops the readers, and the sockets stop the
//! servers. No deadlock: whoever holds a part either transfers (bounded by the no-progress deadline) or uses the
//! disk, and waits for no second part while it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const UNIT_BYTES: usize = 1024;
/// What is buffered before it is written, in bytes: long enough for the disk, short enough for small budgets.
pub(super) const BATCH_BYTES_MAX: usize = 128 * 1024;
/// The longest piece of a body that the HTTP client reads at once, in bytes: hyper's default, which reqwest does not
/// let us change. One such piece can wait in the client's channel while another is being copied.
const RECEIVE_BYTES_MAX: usize = 8192 + 4096 * 100;
/// Records that TLS holds back until they are whole, and what it has decrypted.
const TLS_BYTES_MAX: usize = 64 * 1024;
/// Everything that one body under way can hold, in bytes.
const BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + 2 * RECEIVE_BYTES_MAX + TLS_BYTES_MAX;
const BUDGET_BYTES_DEFAULT: usize = 32 << 20;

/// A bound on the bytes of blobs in memory. Clones share it; the daemon has one.
///
/// Not charged: manifests and tokens, which have bounds of their own (8 MiB, 1 MiB) and are read one at a time, and
/// the kernel's socket buffers, which are not this process's memory.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    total: usize,
    peak: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// A budget of `bytes`, at least what one body can hold: about 1.1 MiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = (bytes.max(BODY_BYTES_MAX) / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
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

    /// All of it, in bytes.
    pub(crate) const fn total_bytes(&self) -> usize {
        self.total * UNIT_BYTES
    }

    /// Waits for room for a body of `length` bytes, with everything that it can hold on its way.
    pub(super) async fn reserve_body(&self, length: u64) -> OwnedSemaphorePermit {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // A short body is at most whole in each of its three places: twice in the HTTP client, once in the batch.
        let bytes = length.saturating_mul(3).saturating_add(TLS_BYTES_MAX);
        self.reserve(bytes.min(BODY_BYTES_MAX)).await
    }

    /// Waits for room for `bytes`, or for all the room there is if that is less.
    pub(crate) async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = bytes.div_ceil(UNIT_BYTES).min(self.total);
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

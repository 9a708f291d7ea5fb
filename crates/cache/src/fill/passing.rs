//! Passing a blob through that there is no room for: from upstream to one client, kept nowhere.
//!
//! Integrity is as for a fill: the bytes are hashed as they go, and the last chunk is withheld until the digest is right.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use orlop_registry::{BlobSink, NoObserver};
use orlop_types::{Algorithm, Digest};
use ring::digest::{Context, SHA256, SHA512};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::follow::WITHHELD_BYTES;
use super::{Inner, Order};
use crate::origin::{Trouble, TroubleKind};

/// Batches on their way, of 128 KiB each.
const BATCHES_MAX: usize = 2;

/// A blob that is passed through.
pub struct Passing {
    batches: mpsc::Receiver<Result<Bytes, Trouble>>,
    /// Came, and may not be given yet.
    held: VecDeque<Bytes>,
    held_bytes: u64,
    left: u64,
    came: u64,
    size: u64,
    hash: Context,
    digest: Digest,
    _place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Passing({}, {} left)", self.digest, self.left)
    }
}

/// Sends what comes in order; what has gone cannot be had again.
struct Through {
    batches: mpsc::Sender<Result<Bytes, Trouble>>,
    position: Mutex<u64>,
    size: u64,
}

impl BlobSink for Through {
    fn missing(&self) -> Vec<Range<u64>> {
        let position = *self.position();
        std::iter::once(position..self.size).collect()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut position = self.position();
        let skipped = usize::try_from(position.saturating_sub(offset)).unwrap_or(usize::MAX);
        if offset > *position || skipped >= bytes.len() {
            return Ok(());
        }
        let fresh = Bytes::copy_from_slice(&bytes[skipped..]);
        let length = fresh.len() as u64;
        // Waits for the client; when that goes, or takes nothing for a while, the other end goes.
        self.batches
            .blocking_send(Ok(fresh))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        *position += length;
        Ok(())
    }
}

impl Through {
    fn position(&self) -> MutexGuard<'_, u64> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passing {
    /// Begins to fetch the whole blob of `order`, and waits for its first bytes.
    pub(super) async fn begin(
        inner: &Arc<Inner>,
        order: Order,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, Trouble> {
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        let Order { descriptor, .. } = &order;
        let algorithm = match descriptor.digest.algorithm() {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        };
        let mut passing = Self {
            batches,
            held: VecDeque::new(),
            held_bytes: 0,
            left: descriptor.size,
            came: 0,
            size: descriptor.size,
            hash: Context::new(algorithm),
            digest: descriptor.digest,
            _place: place,
        };
        let fetching = Arc::clone(inner);
        let kind = orlop_base::task::TaskKind::dropped("cache-pass");
        drop(inner.tasks.spawn(kind, |_| async move {
            let sink = Arc::new(Through {
                batches: sender.clone(),
                position: Mutex::new(0),
                size: order.descriptor.size,
            });
            let Order {
                tenant,
                reference,
                descriptor,
            } = &order;
            let observer = Arc::new(NoObserver);
            let fetch = fetching
                .origins
                .fetch(tenant, reference, descriptor, sink, observer);
            if let Err(trouble) = fetch.await {
                // A client that has gone hears of nothing any more.
                let _told = sender.send(Err(trouble)).await.is_ok();
            }
        }));
        passing.more().await?;
        Ok(passing)
    }

    /// Bytes that are still to be given.
    #[must_use]
    pub const fn left_bytes(&self) -> u64 {
        self.left
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    /// The upstream failed, or the bytes are wrong: the answer must be cut, not ended.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        while self.left > 0 {
            let keeps = if self.came == self.size {
                0
            } else {
                WITHHELD_BYTES
            };
            let next = self.held.front().map_or(0, |batch| batch.len() as u64);
            if next > 0 && self.held_bytes - next >= keeps {
                self.held_bytes -= next;
                self.left -= next;
                return Ok(self.held.pop_front());
            }
            self.more().await?;
        }
        Ok(None)
    }

    async fn more(&mut self) -> Result<(), Trouble> {
        let cut = || Trouble::new(TroubleKind::Ending, "the upstream's bytes ended early");
        let batch = self.batches.recv().await.ok_or_else(cut)??;
        self.hash.update(&batch);
        self.came += batch.len() as u64;
        self.held_bytes += batch.len() as u64;
        self.held.push_back(batch);
        if self.came < self.size {
            return Ok(());
        }
        let found = self.hash.clone().finish();
        let hex: String = found
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if hex == self.digest.hex() {
            return Ok(());
        }
        let text = format!("the bytes of {} have digest {hex}", self.digest);
        Err(Trouble::new(TroubleKind::WrongBytes, text))
    }
}

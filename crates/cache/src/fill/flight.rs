//! One fill, as those who follow it see it.

use std::sync::{Arc, Mutex, PoisonError};

use orlop_types::Digest;
use tokio::sync::watch;

use super::follow::Follower;
use crate::origin::{Trouble, TroubleKind};
use crate::rights::Fingerprint;
use crate::store::Fill;

/// Where a fill stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// The upstream has not answered yet.
    Waiting,
    /// Bytes come.
    Flowing,
    /// The digest is right and the blob is in the store.
    Stored,
    /// There is no room for it here.
    NoRoom,
    /// It failed.
    Failed(Trouble),
}

/// Phase, and bytes from the start on without a gap. Every change wakes the followers.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    pub(super) prefix_bytes: u64,
}

/// How an answer can begin.
#[derive(Debug)]
pub enum Start {
    /// Bytes come: follow them.
    Follow(Follower),
    /// The blob is in the store.
    Stored,
    /// There is no room for it here: it has to be passed through.
    NoRoom,
}

/// A fill under way. Held by its task and by everybody who follows it.
#[derive(Debug)]
pub struct Flight {
    digest: Digest,
    size: u64,
    /// Whose credential it uses: others do not take a refusal as theirs.
    owner: Fingerprint,
    progress: watch::Sender<Progress>,
    /// While it is open, so that readers can be made.
    open: Mutex<Option<Fill>>,
    turn: Arc<Mutex<()>>,
}

impl Flight {
    pub(super) fn new(digest: Digest, size: u64, owner: Fingerprint) -> Arc<Self> {
        let progress = Progress {
            phase: Phase::Waiting,
            prefix_bytes: 0,
        };
        Arc::new(Self {
            digest,
            size,
            owner,
            progress: watch::Sender::new(progress),
            open: Mutex::default(),
            turn: Arc::default(),
        })
    }

    /// Of what.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// How long the blob is, in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Whose credential it uses.
    #[must_use]
    pub const fn owner(&self) -> Fingerprint {
        self.owner
    }

    /// How much there is from the start on without a gap, in bytes.
    #[must_use]
    pub fn prefix_bytes(&self) -> u64 {
        self.progress.borrow().prefix_bytes
    }

    /// Waits until it is known how an answer begins. The wait is the caller's to bound.
    ///
    /// # Errors
    /// The fill failed before any byte came.
    pub async fn started(self: &Arc<Self>, range: std::ops::Range<u64>) -> Result<Start, Trouble> {
        let mut progress = self.progress.subscribe();
        loop {
            // Bound first: the guard must not live across the await.
            let phase = progress.borrow_and_update().phase.clone();
            match phase {
                Phase::Waiting => {}
                Phase::Stored => return Ok(Start::Stored),
                Phase::NoRoom => return Ok(Start::NoRoom),
                Phase::Failed(trouble) => return Err(trouble),
                Phase::Flowing => {
                    if let Some(follower) = self.follower(range.clone(), progress.clone()) {
                        return Ok(Start::Follow(follower));
                    }
                    // It ended at this moment: the phase says so in a moment.
                }
            }
            if progress.changed().await.is_err() {
                return Err(Trouble::new(TroubleKind::Ending, "the fill ended"));
            }
        }
    }

    /// Lets followers have readers of `fill`, which may hold bytes of an earlier attempt.
    pub(super) fn open(&self, fill: Fill) {
        let first_gap = fill.missing().first().map(|gap| gap.start);
        let prefix_bytes = first_gap.unwrap_or(self.size);
        *self.slot() = Some(fill);
        self.progress
            .send_modify(|progress| progress.prefix_bytes = prefix_bytes);
    }

    /// Held while bytes are written.
    pub(super) fn turn(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.turn)
    }

    /// The place that bytes go to, while it is open.
    pub(super) fn fill(&self) -> Option<Fill> {
        self.slot().clone()
    }

    /// Bytes begin to come, or more have come.
    pub(super) fn flow(&self, prefix_bytes: Option<u64>) {
        self.progress.send_modify(|progress| {
            if progress.phase == Phase::Waiting {
                progress.phase = Phase::Flowing;
            }
            if let Some(bytes) = prefix_bytes {
                progress.prefix_bytes = bytes;
            }
        });
    }

    /// The end: tells the followers, and lets go of the place. Only the first counts.
    pub(super) fn land(&self, outcome: Result<Phase, Trouble>) {
        drop(self.slot().take());
        self.progress.send_if_modified(|progress| {
            let is_first = matches!(progress.phase, Phase::Waiting | Phase::Flowing);
            if is_first {
                progress.phase = outcome.unwrap_or_else(Phase::Failed);
            }
            is_first
        });
    }

    fn follower(
        &self,
        range: std::ops::Range<u64>,
        progress: watch::Receiver<Progress>,
    ) -> Option<Follower> {
        let reader = self.slot().as_ref()?.reader();
        Some(Follower::new(reader, range, self.size, progress))
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Fill>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

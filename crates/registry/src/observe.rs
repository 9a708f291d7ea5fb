//! What a caller may watch: bytes as they come, and one line per transfer for a ledger.

use std::sync::Arc;
use std::time::Duration;

use orlop_types::Digest;
use tokio::time::Instant;

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked of this host arrived.
    Done,
    /// The host failed; others may have gone on.
    Failed,
    /// The caller dropped the future.
    Cancelled,
}

/// One line of the ledger: what one host gave for one digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Host and port.
    pub host: String,
    /// Registry and repository.
    pub repository: String,
    /// What was fetched.
    pub digest: Digest,
    /// Bytes of body received and kept.
    pub bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// From the first request to the end.
    pub duration: Duration,
}

/// Receives progress and transfers. Called from the fetching task: must not block.
pub trait Observer: Send + Sync {
    /// `bytes` more of `digest` came from `host` and are in the sink.
    fn received(&self, host: &str, digest: &Digest, bytes: u64);

    /// `host` has begun to answer with bytes of `digest`; none of them is in the sink yet.
    fn answered(&self, _host: &str, _digest: &Digest) {}

    /// A transfer ended.
    fn finished(&self, transfer: &Transfer);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn received(&self, _host: &str, _digest: &Digest, _bytes: u64) {}

    fn finished(&self, _transfer: &Transfer) {}
}

/// Writes the line when it is dropped, so that a cancelled transfer is in the ledger too.
pub(crate) struct LedgerLine {
    observer: Arc<dyn Observer>,
    transfer: Transfer,
    began: Instant,
}

impl LedgerLine {
    pub(crate) fn begin(
        observer: Arc<dyn Observer>,
        host: &str,
        repository: String,
        digest: Digest,
    ) -> Self {
        Self {
            observer,
            transfer: Transfer {
                host: host.to_owned(),
                repository,
                digest,
                bytes: 0,
                outcome: Outcome::Cancelled,
                duration: Duration::ZERO,
            },
            began: Instant::now(),
        }
    }

    pub(crate) fn received(&mut self, bytes: u64) {
        self.transfer.bytes += bytes;
        self.observer
            .received(&self.transfer.host, &self.transfer.digest, bytes);
    }

    pub(crate) const fn end(&mut self, outcome: Outcome) {
        self.transfer.outcome = outcome;
    }
}

impl Drop for LedgerLine {
    fn drop(&mut self) {
        self.transfer.duration = self.began.elapsed();
        self.observer.finished(&self.transfer);
    }
}

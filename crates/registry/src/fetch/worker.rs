//! A lane: one host's share in one blob.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orlop_base::retry::{Jitter, RetryPolicy};
use orlop_types::{Descriptor, Reference};
use tokio::time::Instant;

use super::plan::{Piece, Queue};
use super::pump::Pump;
use super::range::{self, Misfit};
use super::sink::BlobSink;
use super::source::Source;
use crate::client::Door;
use crate::error::{Failure, FailureKind};
use crate::observe::{LedgerLine, Outcome};

/// A failure after fewer kept bytes than this counts like the one before it: a host that resets every connection
/// after a few bytes is not asked for ever.
const PROGRESS_BYTES_MIN: u64 = 256 << 10;

pub(super) struct Lane {
    door: Door,
    source: Source,
    sink: Arc<dyn BlobSink>,
    size: u64,
    /// Written when the first request goes out, so that hosts never asked are not in the ledger.
    ledger: Mutex<Ledger>,
    failures: u32,
    /// What the ledger said when this lane last failed.
    kept_at_failure: u64,
    ranges_failed: bool,
    resumes_at: Option<Instant>,
    closed: bool,
}

struct Ledger {
    line: Option<LedgerLine>,
    bytes: u64,
    repository: String,
    digest: orlop_types::Digest,
}

impl Lane {
    pub(super) fn new(
        door: Door,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &Arc<dyn BlobSink>,
    ) -> Self {
        Self {
            source: Source::new(descriptor.digest),
            sink: Arc::clone(sink),
            size: descriptor.size,
            ledger: Mutex::new(Ledger {
                line: None,
                bytes: 0,
                repository: reference.locator(),
                digest: descriptor.digest,
            }),
            failures: 0,
            kept_at_failure: 0,
            ranges_failed: false,
            resumes_at: None,
            closed: false,
            door,
        }
    }

    pub(super) fn host(&self) -> &str {
        self.door.host()
    }

    pub(super) const fn is_upstream(&self) -> bool {
        self.door.endpoint.is_upstream
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// When this lane may be used again; nothing if now.
    pub(super) fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at.filter(|at| *at > Instant::now())
    }

    /// Leaves the fetch.
    pub(super) fn close(&mut self) {
        self.closed = true;
        if let Some(mut line) = self.ledger().line.take() {
            line.end(Outcome::Failed);
        }
    }

    /// Ends well; says what this host gave.
    pub(super) fn finish(&mut self, bytes_by_host: &mut Vec<(String, u64)>) {
        let bytes = self.ledger().bytes;
        if let Some(mut line) = self.ledger().line.take() {
            line.end(Outcome::Done);
        }
        if bytes > 0 {
            bytes_by_host.push((self.host().to_owned(), bytes));
        }
    }

    /// Takes pieces until there are none or one fails.
    pub(super) async fn work(&self, queue: &Queue, missing: &[Range<u64>]) -> Result<(), Failure> {
        while let Some(piece) = queue.take() {
            self.bring(&piece, missing).await?;
        }
        Ok(())
    }

    /// Whether to go on with this lane after a failure; it may then have to wait.
    pub(super) fn judge(
        &mut self,
        failure: &Failure,
        policy: &RetryPolicy,
        jitter: &mut Jitter,
    ) -> bool {
        let memory = &self.door.client.shared.memory;
        if failure.kind == FailureKind::BadRange {
            // Once for itself; a host that fails without ranges too has nothing left to try.
            let is_news = memory.serves_ranges(self.door.host()) && !self.ranges_failed;
            self.ranges_failed = true;
            memory.avoid_ranges(self.door.host());
            self.failures += u32::from(!is_news);
            return is_news || self.failures < policy.attempts_max;
        }
        if !failure.kind.is_retryable() {
            return false;
        }
        let kept = self.ledger().bytes;
        let progressed = kept - self.kept_at_failure >= PROGRESS_BYTES_MIN;
        self.kept_at_failure = kept;
        self.failures = if progressed { 1 } else { self.failures + 1 };
        let asked = failure.kind.retry_after();
        let Some(wait) = policy.delay(self.failures, asked, jitter) else {
            return false;
        };
        if asked.is_some() {
            memory.pause(self.door.host(), wait);
        }
        self.resumes_at = Some(Instant::now() + wait);
        true
    }

    async fn bring(&self, piece: &Piece, missing: &[Range<u64>]) -> Result<(), Failure> {
        let client = &self.door.client;
        let _place = client.shared.memory.place(self.host()).await;
        self.begin_ledger();
        let length = piece.range.end - piece.range.start;
        let charge = client.options.budget.reserve_body(length).await;
        let response = self.source.open(&self.door, piece).await?;
        let body = range::check(piece, self.size, response.status(), response.headers())
            .map_err(|misfit| self.misfit(&misfit))?;
        let observer = &client.options.observer;
        observer.answered(self.host(), &self.source.digest());
        let own = [piece.range.clone()];
        let pump = Pump {
            host: self.host(),
            sink: &self.sink,
            no_progress: client.options.fetch.no_progress,
            wanted: if piece.ranged { &own } else { missing },
            ranged: piece.ranged,
        };
        pump.run(response, (body, charge), |bytes| self.kept(bytes))
            .await
    }

    fn misfit(&self, misfit: &Misfit) -> Failure {
        let kind = match misfit {
            Misfit::Range { .. } => FailureKind::BadRange,
            Misfit::Size { .. } => FailureKind::BadResponse,
        };
        self.door.failure(kind, misfit.to_string())
    }

    fn begin_ledger(&self) {
        let mut ledger = self.ledger();
        if ledger.line.is_none() {
            let observer = Arc::clone(&self.door.client.options.observer);
            let line = LedgerLine::begin(
                observer,
                self.host(),
                ledger.repository.clone(),
                ledger.digest,
            );
            ledger.line = Some(line);
        }
    }

    fn kept(&self, bytes: u64) {
        let mut ledger = self.ledger();
        ledger.bytes += bytes;
        if let Some(line) = &mut ledger.line {
            line.received(bytes);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

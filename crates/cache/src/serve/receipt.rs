//! What is written down of every request, when its answer has gone: the ledger's record, and the figures.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::SharedClock;

use super::clients::Place;
use super::figures::Figures;
use crate::ledger::{Kind, LedgerSender, Outcome, Record, Source};
use crate::route::{Asked, Subject};

/// A request under way. Dropped, it is written down: bytes that did not all go make it cut.
pub(super) struct Receipt {
    record: Option<Record>,
    wanted: u64,
    began: Duration,
    ledger: Option<LedgerSender>,
    figures: Arc<Figures>,
    clock: SharedClock,
    places: Vec<Place>,
}

/// Where receipts go.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) ledger: Option<LedgerSender>,
    pub(super) figures: Arc<Figures>,
    pub(super) clock: SharedClock,
}

impl Desk {
    /// Begins a request of `client`. Pages of lists and HEAD requests are no pulls: their answers are counted, not
    /// recorded.
    pub(super) fn begin(&self, asked: &Asked, client: String, is_head: bool) -> Receipt {
        let (kind, digest) = match &asked.subject {
            Subject::Tag => (Some(Kind::Manifest), None),
            Subject::Manifest(digest) => (Some(Kind::Manifest), Some(*digest)),
            Subject::Blob(digest) => (Some(Kind::Blob), Some(*digest)),
            Subject::Tags(_) | Subject::Referrers(..) => (None, None),
        };
        let reference = match &asked.subject {
            Subject::Tag => asked.reference.tag().map(str::to_owned),
            Subject::Manifest(_) | Subject::Blob(_) | Subject::Tags(_) | Subject::Referrers(..) => {
                None
            }
        };
        let record = kind.filter(|_| !is_head).map(|kind| Record {
            at: self.clock.wall(),
            client,
            locator: asked.reference.locator(),
            kind,
            reference,
            digest,
            bytes: 0,
            source: Source::Disk,
            outcome: Outcome::Cut,
            took: Duration::ZERO,
        });
        Receipt {
            record,
            wanted: 0,
            began: self.clock.boottime(),
            ledger: self.ledger.clone(),
            figures: Arc::clone(&self.figures),
            clock: Arc::clone(&self.clock),
            places: Vec::new(),
        }
    }
}

impl Receipt {
    /// Keeps a client's place taken until the answer has gone.
    pub(super) fn hold(&mut self, place: Place) {
        self.places.push(place);
    }

    /// What is answered.
    pub(super) fn of(&mut self, digest: orlop_types::Digest, source: Source) {
        if let Some(record) = &mut self.record {
            record.digest = Some(digest);
            record.source = source;
        }
    }

    /// The answer holds `bytes`; with none it is complete as it is.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.wanted = bytes;
        if bytes == 0 {
            self.end(Outcome::Served);
        }
    }

    /// The answer says no.
    pub(super) fn end(&mut self, outcome: Outcome) {
        if let Some(record) = &mut self.record {
            record.outcome = outcome;
        }
    }

    pub(super) fn sent(&mut self, bytes: u64, is_last: bool) {
        if let Some(record) = &mut self.record {
            record.bytes += bytes;
            if is_last && record.bytes >= self.wanted && record.outcome == Outcome::Cut {
                record.outcome = Outcome::Served;
            }
        }
    }

    pub(super) fn failed(&mut self, error: &io::Error) {
        self.end(Outcome::Failed);
        tracing::debug!(%error, "an answer was cut");
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        record.took = self.clock.boottime().saturating_sub(self.began);
        self.figures.request(&record);
        if let Some(ledger) = &self.ledger {
            ledger.record(record);
        }
    }
}

//! Where a fill's bytes go, telling the followers.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use orlop_registry::{BlobSink, Observer, Transfer};
use orlop_types::Digest;

use super::flight::Flight;
use crate::store::Fill;

/// The whole blob.
pub(super) struct Whole {
    fill: Fill,
    flight: Arc<Flight>,
    /// A part fetched ahead may meet the fill: they take turns, for a byte is written once.
    turn: Arc<Mutex<()>>,
}

impl Whole {
    pub(super) fn new(fill: Fill, flight: Arc<Flight>) -> Self {
        let turn = flight.turn();
        Self { fill, flight, turn }
    }
}

impl BlobSink for Whole {
    fn missing(&self) -> Vec<Range<u64>> {
        self.fill.missing()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            BlobSink::write_at(&self.fill, offset, bytes)?;
        }
        let first_gap = self.fill.missing().first().map(|gap| gap.start);
        let prefix = first_gap.unwrap_or(self.flight.size_bytes());
        self.flight.flow(Some(prefix));
        Ok(())
    }
}

/// A part of the blob, ahead of the rest.
pub(super) struct Part {
    pub(super) whole: Whole,
    pub(super) range: Range<u64>,
}

impl BlobSink for Part {
    fn missing(&self) -> Vec<Range<u64>> {
        let within =
            |gap: &Range<u64>| gap.start.max(self.range.start)..gap.end.min(self.range.end);
        let gaps = self.whole.missing();
        gaps.iter()
            .map(within)
            .filter(|gap| !gap.is_empty())
            .collect()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.whole.write_at(offset, bytes)
    }
}

/// Hears of the upstream's first answer, which is when clients get their headers.
pub(super) struct Answered(pub(super) Arc<Flight>);

impl Observer for Answered {
    fn answered(&self, _host: &str, _digest: &Digest) {
        self.0.flow(None);
    }

    fn received(&self, _host: &str, _digest: &Digest, _bytes: u64) {}

    fn finished(&self, transfer: &Transfer) {
        tracing::debug!(
            host = transfer.host,
            repository = transfer.repository,
            digest = %transfer.digest,
            bytes = transfer.bytes,
            outcome = ?transfer.outcome,
            "a transfer from upstream"
        );
    }
}

//! From a response's body into the sink, in batches charged to the budget.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;

use super::budget::{BATCH_BYTES_MAX, MemoryBudget};
use super::plan::intersect;
use super::sink::BlobSink;
use crate::error::{Failure, FailureKind, Reach};
use crate::transport::failure_of_error;

/// What a body is pumped with.
pub(super) struct Pump<'a> {
    pub(super) host: &'a str,
    pub(super) sink: &'a Arc<dyn BlobSink>,
    pub(super) budget: &'a MemoryBudget,
    pub(super) no_progress: Duration,
    /// Ranges to keep; other bytes of the body are passed over.
    pub(super) wanted: &'a [Range<u64>],
    /// Whether a body of the wrong length means that ranges do not work here.
    pub(super) ranged: bool,
}

/// Bytes on their way to the sink.
struct Batch {
    offset: u64,
    bytes: Vec<u8>,
    _charge: OwnedSemaphorePermit,
}

impl Batch {
    const fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Pump<'_> {
    /// Pumps a body that must hold exactly `body`; `kept` hears of every batch stored.
    pub(super) async fn run(
        &self,
        mut response: Response,
        body: Range<u64>,
        mut kept: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let mut position = body.start;
        let mut batch = None;
        loop {
            // The charge comes before the bytes: a reader that cannot buffer does not read.
            let current = match batch.take() {
                Some(batch) => batch,
                None => self.begin(position, body.end).await,
            };
            let chunk = match self.next(&mut response).await {
                Ok(Some(chunk)) => chunk,
                ended => {
                    // What came before the end, good or bad, is worth keeping.
                    self.store(current, &mut kept).await?;
                    return match ended? {
                        None if position < body.end => Err(self.wrong_length(position, &body)),
                        None | Some(_) => Ok(()),
                    };
                }
            };
            let end = position + chunk.len() as u64;
            if end > body.end {
                return Err(self.wrong_length(end, &body));
            }
            batch = Some(self.keep(current, &chunk, position, &mut kept).await?);
            position = end;
        }
    }

    /// Adds what is wanted of a chunk to the batch, storing batches as they fill.
    async fn keep(
        &self,
        mut batch: Batch,
        chunk: &[u8],
        position: u64,
        kept: &mut impl FnMut(u64),
    ) -> Result<Batch, Failure> {
        let end = position + chunk.len() as u64;
        for mut piece in intersect(self.wanted, position..end) {
            while piece.start < piece.end {
                if batch.bytes.is_empty() {
                    batch.offset = piece.start;
                } else if batch.end() != piece.start || batch.bytes.len() == BATCH_BYTES_MAX {
                    self.store(batch, kept).await?;
                    batch = self.begin(piece.start, u64::MAX).await;
                }
                let room = (BATCH_BYTES_MAX - batch.bytes.len()) as u64;
                let stop = piece.end.min(piece.start + room);
                batch
                    .bytes
                    .extend_from_slice(slice(chunk, position, piece.start..stop));
                piece.start = stop;
            }
        }
        Ok(batch)
    }

    async fn begin(&self, offset: u64, end: u64) -> Batch {
        let capacity = usize::try_from(end.saturating_sub(offset))
            .unwrap_or(BATCH_BYTES_MAX)
            .min(BATCH_BYTES_MAX);
        let charge = self.budget.reserve(BATCH_BYTES_MAX).await;
        Batch {
            offset,
            bytes: Vec::with_capacity(capacity),
            _charge: charge,
        }
    }

    /// Writes on a blocking thread; the charge goes with the bytes, even if this future is dropped meanwhile.
    async fn store(&self, batch: Batch, kept: &mut impl FnMut(u64)) -> Result<(), Failure> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        let length = batch.bytes.len() as u64;
        let sink = Arc::clone(self.sink);
        orlop_base::blocking::run("blob-write", move || {
            sink.write_at(batch.offset, &batch.bytes)
        })
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(|error| {
            Failure::because(self.host, FailureKind::Sink, error.to_string(), error)
        })?;
        kept(length);
        Ok(())
    }

    async fn next(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Failure> {
        match tokio::time::timeout(self.no_progress, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(failure_of_error(self.host, error)),
            Err(_elapsed) => {
                let detail = format!("no byte within {:?}", self.no_progress);
                Err(Failure::new(
                    self.host,
                    FailureKind::Unreachable(Reach::TimedOut),
                    detail,
                ))
            }
        }
    }

    fn wrong_length(&self, end: u64, body: &Range<u64>) -> Failure {
        let kind = if self.ranged {
            FailureKind::BadRange
        } else {
            FailureKind::BadResponse
        };
        let detail = format!("the body ends at byte {end} and not at {}", body.end);
        Failure::new(self.host, kind, detail)
    }
}

/// The part of a chunk at `position` that lies in `range`, which is within the chunk.
fn slice(chunk: &[u8], position: u64, range: Range<u64>) -> &[u8] {
    let index = |offset: u64| usize::try_from(offset - position).unwrap_or(chunk.len());
    &chunk[index(range.start)..index(range.end)]
}

//! From a response's body into the sink, in batches charged to the budget.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::budget::BATCH_BYTES_MAX;
use super::plan::intersect;
use super::sink::BlobSink;
use crate::error::{Failure, FailureKind, Reach};
use crate::transport::failure_of_error;

/// Fewer bytes than this within the no-progress deadline are no progress: a host that trickles hangs no pull.
const PROGRESS_BYTES_MIN: usize = 1024;

/// What has come is stored when nothing more comes for so long: somebody may be reading along.
const STORE_AFTER: Duration = Duration::from_millis(200);

/// What a body is pumped with.
pub(super) struct Pump<'a> {
    pub(super) host: &'a str,
    pub(super) sink: &'a Arc<dyn BlobSink>,
    pub(super) no_progress: Duration,
    /// Ranges to keep; other bytes of the body are passed over.
    pub(super) wanted: &'a [Range<u64>],
    /// Whether a body of the wrong length means that ranges do not work here.
    pub(super) ranged: bool,
}

/// Bytes on their way to the sink. The charge is for everything the body holds and goes where they go.
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
    /// Pumps a body that must hold exactly `body` and is charged with `charge`; `kept` hears of every batch stored.
    pub(super) async fn run(
        &self,
        mut response: Response,
        (body, charge): (Range<u64>, OwnedSemaphorePermit),
        mut kept: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let mut position = body.start;
        let length = usize::try_from(body.end - body.start).unwrap_or(usize::MAX);
        let mut batch = Batch {
            offset: body.start,
            bytes: Vec::with_capacity(length.min(BATCH_BYTES_MAX)),
            _charge: charge,
        };
        let mut patience = Patience::new(self.no_progress);
        loop {
            let next = self.next(&mut response, &mut patience, !batch.bytes.is_empty());
            let chunk = match next.await {
                Ok(Next::Chunk(chunk)) => chunk,
                Ok(Next::Pause) => {
                    batch = self.store(batch, &mut kept).await?;
                    continue;
                }
                ended => {
                    // What came before the end, good or bad, is worth keeping.
                    self.store(batch, &mut kept).await?;
                    ended?;
                    if position < body.end {
                        return Err(self.wrong_length(position, &body));
                    }
                    return Ok(());
                }
            };
            let end = position + chunk.len() as u64;
            if end > body.end {
                return Err(self.wrong_length(end, &body));
            }
            batch = self.keep(batch, &chunk, position, &mut kept).await?;
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
                    batch = self.store(batch, kept).await?;
                    batch.offset = piece.start;
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

    /// Writes on a blocking thread and gives the emptied batch back. The charge goes with the bytes, even if this
    /// future is dropped meanwhile.
    async fn store(&self, mut batch: Batch, kept: &mut impl FnMut(u64)) -> Result<Batch, Failure> {
        if batch.bytes.is_empty() {
            return Ok(batch);
        }
        let length = batch.bytes.len() as u64;
        let sink = Arc::clone(self.sink);
        let job = move || {
            let written = sink.write_at(batch.offset, &batch.bytes);
            batch.bytes.clear();
            written.map(|()| batch)
        };
        let batch = orlop_base::blocking::run("blob-write", job)
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| {
                Failure::because(self.host, FailureKind::Sink, error.to_string(), error)
            })?;
        kept(length);
        Ok(batch)
    }

    /// The next bytes. With bytes that wait to be stored, a short silence is told too.
    async fn next(
        &self,
        response: &mut Response,
        patience: &mut Patience,
        has_waiting: bool,
    ) -> Result<Next, Failure> {
        let began = Instant::now();
        let limit = if has_waiting {
            patience.left.min(STORE_AFTER)
        } else {
            patience.left
        };
        match tokio::time::timeout(limit, response.chunk()).await {
            Ok(Ok(chunk)) => {
                let length = chunk.as_ref().map_or(0, bytes::Bytes::len);
                patience.came(length, began.elapsed());
                Ok(chunk.map_or(Next::End, Next::Chunk))
            }
            Ok(Err(error)) => Err(failure_of_error(self.host, error)),
            Err(_elapsed) if limit < patience.left => {
                patience.came(0, began.elapsed());
                Ok(Next::Pause)
            }
            Err(_elapsed) => {
                let detail = format!(
                    "less than {PROGRESS_BYTES_MIN} bytes within {:?}",
                    self.no_progress
                );
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

/// What comes next of a body.
enum Next {
    Chunk(bytes::Bytes),
    /// Nothing for a moment.
    Pause,
    End,
}

/// How much longer a connection may go without progress worth the name. Only waiting for it counts: a slow disk is
/// not the host's fault.
struct Patience {
    full: Duration,
    left: Duration,
    bytes: usize,
}

impl Patience {
    const fn new(full: Duration) -> Self {
        Self {
            full,
            left: full,
            bytes: 0,
        }
    }

    fn came(&mut self, bytes: usize, waited: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= PROGRESS_BYTES_MIN {
            *self = Self::new(self.full);
        } else {
            self.left = self.left.saturating_sub(waited);
        }
    }
}

/// The part of a chunk at `position` that lies in `range`, which is within the chunk.
fn slice(chunk: &[u8], position: u64, range: Range<u64>) -> &[u8] {
    let index = |offset: u64| usize::try_from(offset - position).unwrap_or(chunk.len());
    &chunk[index(range.start)..index(range.end)]
}

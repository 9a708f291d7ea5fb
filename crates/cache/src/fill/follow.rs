//! Reading a blob while it is being filled.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use orlop_content::IngestReader;
use tokio::sync::watch;

use super::flight::{Phase, Progress};
use crate::origin::{Trouble, TroubleKind};
use crate::serve::Buffers;

/// The end of a blob that nobody gets before the digest was found right, in bytes; all of a smaller one.
pub(super) const WITHHELD_BYTES: u64 = 64 << 10;

/// How long a follower waits for its next byte: for a fill that is far behind it, as a rule.
const PATIENCE: Duration = Duration::from_secs(120);

/// Gives a range of a blob as it comes.
///
/// An answer that reaches the blob's end withholds its last chunk until the digest is right. One that ends before is
/// given as it came: its reader gets no digest to compare with either way.
#[derive(Debug)]
pub struct Follower {
    reader: Arc<IngestReader>,
    position: u64,
    end: u64,
    /// Up to here bytes are given before the digest is known to be right.
    given_early: u64,
    progress: watch::Receiver<Progress>,
}

impl Follower {
    pub(super) fn new(
        reader: IngestReader,
        range: Range<u64>,
        size: u64,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        let given_early = if range.end == size {
            size.saturating_sub(WITHHELD_BYTES)
        } else {
            range.end
        };
        Self {
            reader: Arc::new(reader),
            position: range.start,
            end: range.end,
            given_early,
            progress,
        }
    }

    /// Bytes that are still to be given.
    #[must_use]
    pub const fn left_bytes(&self) -> u64 {
        self.end - self.position
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    /// The fill failed, or nothing came in time: the answer must be cut, not ended.
    pub async fn next(&mut self, buffers: &Buffers) -> Result<Option<Bytes>, Trouble> {
        while self.position < self.end {
            let phase = self.progress.borrow_and_update().phase.clone();
            let limit = match phase {
                Phase::Stored => self.end,
                Phase::Waiting | Phase::Flowing => self.given_early,
                // Bytes that were given up are not read any more.
                Phase::Failed(trouble) => return Err(trouble),
                Phase::NoRoom => return Err(Trouble::new(TroubleKind::Room, "no room")),
            };
            if self.position < limit
                && let Some(bytes) = self.read(limit, buffers).await?
            {
                return Ok(Some(bytes));
            }
            self.wait().await?;
        }
        Ok(None)
    }

    async fn read(&mut self, limit: u64, buffers: &Buffers) -> Result<Option<Bytes>, Trouble> {
        let (reader, position) = (Arc::clone(&self.reader), self.position);
        let mut buffer = buffers.take(limit - position);
        let read = move || {
            let count = reader.read_at(buffer.as_mut_slice(), position);
            count.map(|count| buffer.filled(count))
        };
        let bytes = orlop_base::blocking::run("cache-follow", read)
            .await
            .map_err(|error| Trouble::new(TroubleKind::Ending, error.to_string()))?
            .map_err(|error| Trouble::new(TroubleKind::Room, error.to_string()))?;
        self.position += bytes.len() as u64;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    async fn wait(&mut self) -> Result<(), Trouble> {
        match tokio::time::timeout(PATIENCE, self.progress.changed()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Trouble::new(TroubleKind::Ending, "the fill ended")),
            Err(_elapsed) => {
                let text = format!("nothing came within {PATIENCE:?}");
                Err(Trouble::new(TroubleKind::TimedOut, text))
            }
        }
    }
}

//! Reading an ingest while it is being written.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use crate::ContentError;
use crate::progress::{Progress, Readable};

/// Reads the contiguous prefix of an ingest as it grows, and waits for more.
///
/// **What it gives is not verified.** A digest can be checked only when all bytes are there: whoever acts on these
/// bytes must keep the result private until [`crate::Ingest::commit`] has succeeded, and undo it when it fails.
///
/// Ends (`Ok(0)`) at the expected size, or at the committed size if none was expected. Gives an error, with a
/// [`ContentError`] inside, when the ingest is aborted, fails, is truncated below the position, or its last writer
/// goes away. Any number of readers may exist; each has its own position. A reader keeps neither the ingest's
/// writer slot nor its root's lock.
#[derive(Debug)]
pub struct IngestReader {
    progress: Arc<Progress>,
    position: u64,
    truncations: u64,
    wait_limit: Option<Duration>,
}

impl IngestReader {
    pub(crate) fn new(progress: Arc<Progress>) -> Self {
        let truncations = progress.truncations();
        Self {
            progress,
            position: 0,
            truncations,
            wait_limit: None,
        }
    }

    /// Gives up with [`ContentError::Stalled`] (`io::ErrorKind::TimedOut`) when one read waits longer than `limit`.
    #[must_use]
    pub fn with_wait_limit(mut self, limit: Duration) -> Self {
        self.wait_limit = Some(limit);
        self
    }

    /// Reads bytes that are present at an offset, independent of the position of [`Read`] and without waiting; they
    /// need not belong to the contiguous prefix. 0 if there are none (yet), and at the end.
    ///
    /// # Errors
    /// As for [`Read`], but for the limit of waiting.
    pub fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let end = match self.progress.present_until(offset_bytes, self.truncations) {
            Readable::Until { end, .. } => end,
            Readable::End | Readable::Stalled => return Ok(0),
            Readable::Rewound => return Err(self.rewound()),
            Readable::Ended(how) => return Err(io::Error::other(self.progress.ended(how))),
        };
        let left = usize::try_from(end - offset_bytes).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let count = self
            .progress
            .file
            .read_at(&mut buffer[..length], offset_bytes)?;
        if self.progress.truncations() != self.truncations {
            return Err(self.rewound());
        }
        Ok(count)
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn position_bytes(&self) -> u64 {
        self.position
    }

    /// Reads what may be read, checking afterwards that it was not taken back meanwhile.
    fn read_until(&mut self, end: u64, truncations: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(end - self.position).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let count = self
            .progress
            .file
            .read_at(&mut buffer[..length], self.position)?;
        if count == 0 || self.progress.truncations() != truncations {
            return Err(self.rewound());
        }
        self.truncations = truncations;
        self.position += count as u64;
        Ok(count)
    }

    fn rewound(&self) -> io::Error {
        io::Error::other(ContentError::IngestEnded {
            reference: self.progress.reference.clone(),
            how: "its bytes were taken back by a truncation",
        })
    }

    fn stalled(&self) -> io::Error {
        let error = ContentError::Stalled {
            reference: self.progress.reference.clone(),
            position_bytes: self.position,
            limit_seconds: self.wait_limit.unwrap_or_default().as_secs(),
        };
        io::Error::new(io::ErrorKind::TimedOut, error)
    }
}

impl Read for IngestReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self
            .progress
            .readable(self.position, self.truncations, self.wait_limit)
        {
            Readable::Until { end, truncations } => self.read_until(end, truncations, buffer),
            Readable::End => Ok(0),
            Readable::Stalled => Err(self.stalled()),
            Readable::Rewound => Err(self.rewound()),
            Readable::Ended(how) => Err(io::Error::other(self.progress.ended(how))),
        }
    }
}

//! A request's body that says how far it is, so that a slow upload is told from a stuck one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// How much is handed to the connection at once, in bytes.
const FRAME_BYTES: usize = 64 << 10;

/// Bytes on their way out, and the count of what the connection took of them.
pub(crate) struct WatchedBody {
    rest: Bytes,
    taken: Progress,
}

/// How many bytes of a body the connection took. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl WatchedBody {
    pub(crate) const fn new(bytes: Bytes, taken: Progress) -> Self {
        Self { rest: bytes, taken }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(FRAME_BYTES);
        let frame = self.rest.split_to(length);
        self.taken.0.fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Progress {
    /// Waits for `work` for as long as bytes are taken: nothing when none were for `patience`, twice that at most.
    pub(crate) async fn wait<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        let mut seen = 0;
        loop {
            if let Ok(done) = tokio::time::timeout(patience, &mut work).await {
                return Some(done);
            }
            let taken = self.0.load(Ordering::Relaxed);
            if taken == seen {
                return None;
            }
            seen = taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_is_waited_for_and_stuck_is_not() {
        let progress = Progress::default();
        let patience = Duration::from_secs(1);
        let slow = async {
            for _ in 0..20 {
                tokio::time::sleep(patience * 9 / 10).await;
                progress.0.fetch_add(1, Ordering::Relaxed);
            }
        };
        assert_eq!(progress.wait(patience, slow).await, Some(()));
        let stuck = std::future::pending::<()>();
        assert_eq!(progress.wait(patience, stuck).await, None);
    }
}

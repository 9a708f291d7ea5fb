//! Response bodies that can be slow, short, endless or broken.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

const PIECE_BYTES: usize = 64 * 1024;
/// Slow bodies come in small pieces, so that a rate is smooth: at most this many bytes, and twenty a second.
const SLOW_PIECE_BYTES: usize = 8 * 1024;
const SLOW_PIECES_PER_SECOND: u64 = 20;
/// Before a connection is cut, what was sent until then gets time to leave.
const CUT_AFTER: Duration = Duration::from_millis(5);

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Well,
    /// The connection closes after this many bytes.
    Cut(u64),
    /// Nothing comes after this many bytes.
    Stall(u64),
}

/// The body of one response.
#[derive(Debug)]
pub(crate) struct ScriptedBody {
    rest: Bytes,
    zeros_left: u64,
    sent: u64,
    end: End,
    announce_length: bool,
    bytes_per_second: Option<u64>,
    pause: Option<Pin<Box<Sleep>>>,
    is_cutting: bool,
}

impl ScriptedBody {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            rest: bytes.into(),
            zeros_left: 0,
            sent: 0,
            end: End::Well,
            announce_length: true,
            bytes_per_second: None,
            pause: None,
            is_cutting: false,
        }
    }

    pub(crate) fn zeros(length: u64) -> Self {
        Self {
            zeros_left: length,
            ..Self::whole(Bytes::new())
        }
    }

    pub(crate) fn ending(self, end: End) -> Self {
        Self { end, ..self }
    }

    pub(crate) fn without_length(self) -> Self {
        Self {
            announce_length: false,
            ..self
        }
    }

    pub(crate) fn at_rate(self, bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: Some(bytes_per_second.max(1)),
            ..self
        }
    }

    fn remaining(&self) -> u64 {
        self.zeros_left + self.rest.len() as u64
    }

    /// The next bytes, no more than fit before the scripted end.
    fn next_piece(&mut self) -> Bytes {
        let piece_bytes = match self.bytes_per_second {
            Some(rate) => usize::try_from(rate / SLOW_PIECES_PER_SECOND)
                .unwrap_or(SLOW_PIECE_BYTES)
                .clamp(1, SLOW_PIECE_BYTES),
            None => PIECE_BYTES,
        };
        let allowed = match self.end {
            End::Well => u64::MAX,
            End::Cut(at) | End::Stall(at) => at - self.sent,
        };
        let length = usize::try_from(allowed.min(self.remaining()))
            .unwrap_or(piece_bytes)
            .min(piece_bytes);
        self.sent += length as u64;
        if self.zeros_left > 0 {
            self.zeros_left -= length as u64;
            return Bytes::from(vec![0; length]);
        }
        self.rest.split_to(length)
    }

    fn pause_after(&mut self, length: usize) {
        if let Some(rate) = self.bytes_per_second {
            let micros = length as u64 * 1_000_000 / rate;
            self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_micros(micros))));
        }
    }
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if matches!(self.end, End::Cut(at) if self.sent >= at) && !self.is_cutting {
            self.is_cutting = true;
            self.pause = Some(Box::pin(tokio::time::sleep(CUT_AFTER)));
        }
        if let Some(pause) = &mut self.pause {
            match pause.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => self.pause = None,
            }
        }
        match self.end {
            End::Cut(at) if self.sent >= at => {
                return Poll::Ready(Some(Err(io::Error::other("cut as scripted"))));
            }
            // Never woken: the connection is dropped by the client or with the registry.
            End::Stall(at) if self.sent >= at => return Poll::Pending,
            End::Well | End::Cut(_) | End::Stall(_) => {}
        }
        if self.remaining() == 0 {
            return Poll::Ready(None);
        }
        let piece = self.next_piece();
        self.pause_after(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.end == End::Well && self.remaining() == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.announce_length {
            SizeHint::with_exact(self.remaining())
        } else {
            SizeHint::default()
        }
    }
}

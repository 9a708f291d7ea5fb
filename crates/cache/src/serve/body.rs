//! Bodies: nothing, a few bytes, a part of a blob on disk, or a blob that is coming: being filled, or passed through.
//!
//! Memory: one piece at a time; the next is read when the connection has taken the last. What the kernel has in memory
//! is read on the spot, everything else where blocking is allowed.

use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags};

use super::buffers::Buffers;
use super::receipt::Receipt;
use crate::fill::{Follower, Passing};
use crate::origin::Trouble;
use crate::store::Found;

type Reading<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// The body of an answer. It carries the receipt, which is written when the body has gone.
pub(crate) struct AnswerBody {
    kind: Kind,
    receipt: Option<Receipt>,
}

enum Kind {
    Bytes(Option<Bytes>),
    Disk(DiskBody),
    Coming(ComingBody),
}

/// A blob that comes from elsewhere while it is given.
pub(super) enum Coming {
    Fill(Follower),
    Pass(Box<Passing>),
}

impl Coming {
    fn left_bytes(&self) -> u64 {
        match self {
            Self::Fill(follower) => follower.left_bytes(),
            Self::Pass(passing) => passing.left_bytes(),
        }
    }

    async fn next(&mut self, buffers: &Buffers) -> Result<Option<Bytes>, Trouble> {
        match self {
            Self::Fill(follower) => follower.next(buffers).await,
            Self::Pass(passing) => passing.next().await,
        }
    }
}

impl AnswerBody {
    /// Nothing.
    pub(super) const fn empty() -> Self {
        Self {
            kind: Kind::Bytes(None),
            receipt: None,
        }
    }

    /// A few bytes.
    pub(super) fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Bytes(Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty())),
            receipt: None,
        }
    }

    /// A part of a blob on disk.
    pub(super) fn disk(found: Found, range: std::ops::Range<u64>, buffers: Buffers) -> Self {
        let body = DiskBody {
            found: Arc::new(found),
            position: range.start,
            end: range.end,
            buffers,
            reading: None,
        };
        Self {
            kind: Kind::Disk(body),
            receipt: None,
        }
    }

    /// A blob that comes.
    pub(super) fn coming(coming: Coming, buffers: Buffers) -> Self {
        let body = ComingBody {
            left: coming.left_bytes(),
            coming: Some(coming),
            buffers,
            reading: None,
        };
        Self {
            kind: Kind::Coming(body),
            receipt: None,
        }
    }

    /// Writes `receipt` when the body has gone.
    pub(super) fn with_receipt(mut self, receipt: Receipt) -> Self {
        self.receipt = Some(receipt);
        self
    }

    fn left_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Bytes(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Kind::Disk(body) => body.end - body.position,
            Kind::Coming(body) => body.left,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let polled = match &mut this.kind {
            Kind::Bytes(bytes) => Poll::Ready(Ok(bytes.take())),
            Kind::Disk(body) => body.poll(context),
            Kind::Coming(body) => body.poll(context),
        };
        let Poll::Ready(outcome) = polled else {
            return Poll::Pending;
        };
        let is_last = this.left_bytes() == 0;
        if let Some(receipt) = &mut this.receipt {
            match &outcome {
                Ok(bytes) => {
                    let count = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                    receipt.sent(count, is_last);
                }
                Err(error) => receipt.failed(error),
            }
        }
        Poll::Ready(outcome.map(|bytes| bytes.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes())
    }
}

struct DiskBody {
    found: Arc<Found>,
    position: u64,
    end: u64,
    buffers: Buffers,
    reading: Option<Reading<Bytes>>,
}

impl DiskBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.reading.is_none() {
            if self.position >= self.end {
                return Poll::Ready(Ok(None));
            }
            match self.read_at_once() {
                Ok(Some(bytes)) => return Poll::Ready(self.give(bytes)),
                Ok(None) => self.reading = Some(self.read_later()),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(Ok(None));
        };
        let Poll::Ready(read) = reading.as_mut().poll(context) else {
            return Poll::Pending;
        };
        self.reading = None;
        Poll::Ready(read.and_then(|bytes| self.give(bytes)))
    }

    fn give(&mut self, bytes: Bytes) -> io::Result<Option<Bytes>> {
        if bytes.is_empty() {
            // The store's row says more than the file has: damage that the scrub will name.
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.position += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Reads what needs no disk; nothing if that is none.
    fn read_at_once(&self) -> io::Result<Option<Bytes>> {
        let mut buffer = self.buffers.take(self.end - self.position);
        let read = {
            let mut slices = [IoSliceMut::new(buffer.as_mut_slice())];
            let file = &self.found.blob;
            rustix::io::preadv2(file, &mut slices, self.position, ReadWriteFlags::NOWAIT)
        };
        match read {
            Ok(0) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(None),
            Ok(count) => Ok(Some(buffer.filled(count))),
            Err(error) => Err(error.into()),
        }
    }

    fn read_later(&self) -> Reading<Bytes> {
        let (found, position) = (Arc::clone(&self.found), self.position);
        let mut buffer = self.buffers.take(self.end - position);
        let read = move || {
            let count = found.blob.read_at(buffer.as_mut_slice(), position)?;
            Ok(buffer.filled(count))
        };
        Box::pin(async move {
            orlop_base::blocking::run("cache-read", read)
                .await
                .map_err(io::Error::other)?
        })
    }
}

struct ComingBody {
    coming: Option<Coming>,
    left: u64,
    buffers: Buffers,
    reading: Option<Reading<(Coming, Option<Bytes>)>>,
}

impl ComingBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(mut coming) = self.coming.take() {
            let buffers = self.buffers.clone();
            self.reading = Some(Box::pin(async move {
                let bytes = coming.next(&buffers).await.map_err(io::Error::other)?;
                Ok((coming, bytes))
            }));
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(Ok(None));
        };
        let Poll::Ready(read) = reading.as_mut().poll(context) else {
            return Poll::Pending;
        };
        self.reading = None;
        Poll::Ready(read.map(|(coming, bytes)| {
            self.left = coming.left_bytes();
            self.coming = Some(coming).filter(|_| self.left > 0);
            bytes
        }))
    }
}

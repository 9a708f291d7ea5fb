//! Archives between an async stream of messages and code that reads and writes synchronously.
//!
//! Both directions are bounded queues of pieces. The synchronous ends block, so they belong in the blocking pool.
//! Cancellation: when either end goes, the other fails at its next piece.

use std::io::{self, Read, Write};

use futures_util::stream;
use orlop_api::bytes::{Buf, Bytes};
use orlop_api::orlop::v1 as api;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{Answers, Work};

/// Pieces of an answer have about this size.
const CHUNK_BYTES: usize = 256 << 10;

/// Reads what a client sends.
pub(crate) struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChunkReader {
    pub(crate) fn new(waiting_max: usize) -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, chunks) = mpsc::channel(waiting_max);
        let current = Bytes::new();
        (sender, Self { chunks, current })
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Passes a client's pieces on, until it has sent all or the reader is gone. A broken call is a read error, so that half
/// an archive is never taken for a whole one.
pub(super) async fn feed(
    mut messages: Streaming<api::ImportRequest>,
    chunks: mpsc::Sender<io::Result<Bytes>>,
) {
    loop {
        let chunk = match messages.message().await {
            Ok(None) => return,
            Ok(Some(message)) => match message.message {
                Some(api::import_request::Message::Data(data)) => Ok(data),
                Some(api::import_request::Message::Options(_)) | None => {
                    Err(io::Error::other("only the first message may carry options"))
                }
            },
            Err(status) => Err(io::Error::other(status)),
        };
        let failed = chunk.is_err();
        if chunks.send(chunk).await.is_err() || failed {
            return;
        }
    }
}

/// Collects what is written into pieces for a client.
pub(crate) struct ChunkWriter {
    chunks: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    pub(crate) fn new(waiting_max: usize) -> (Self, mpsc::Receiver<Bytes>) {
        let (chunks, receiver) = mpsc::channel(waiting_max);
        let buffer = Vec::with_capacity(CHUNK_BYTES);
        (Self { chunks, buffer }, receiver)
    }

    /// Sends the last piece. A client that has left does not want it.
    pub(crate) async fn finish(mut self) {
        let last = Bytes::from(std::mem::take(&mut self.buffer));
        if !last.is_empty() {
            drop(self.chunks.send(last).await);
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        let gone = |_closed| io::Error::new(io::ErrorKind::BrokenPipe, "the client has left");
        self.chunks.blocking_send(full.into()).map_err(gone)
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&data[..count]);
        if self.buffer.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The pieces of an archive as they are written, and the failure last if there is one.
pub(super) fn exported(
    work: Work<()>,
    chunks: mpsc::Receiver<Bytes>,
) -> Answers<api::ExportResponse> {
    let piece = |data: Bytes| api::ExportResponse { data };
    let start = (Some(work), chunks);
    Box::pin(stream::unfold(
        start,
        move |(mut work, mut chunks)| async move {
            while let Some(running) = &mut work {
                tokio::select! {
                    biased;
                    Some(data) = chunks.recv() => return Some((Ok(piece(data)), (work, chunks))),
                    outcome = running => {
                        work = None;
                        if let Err(status) = outcome {
                            return Some((Err(status), (None, chunks)));
                        }
                    }
                }
            }
            let data = chunks.recv().await?;
            Some((Ok(piece(data)), (None, chunks)))
        },
    ))
}

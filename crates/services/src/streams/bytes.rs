//! Bytes over a stream of objects: `Data` one way, `WindowUpdate` the other (`core/transfer/streaming` of containerd).
//!
//! A sender may have as many bytes under way as its receiver's updates add up to. Cancellation: when either end goes,
//! the other one fails at its next piece. A receiver has no way to tell that half the bytes were all there were: that is
//! for whoever reads them to notice, as archives do by their end.

use std::io;

use orlop_api::any;
use orlop_api::bytes::Bytes;
use orlop_api::containerd::types::transfer::{Data, WindowUpdate};
use tokio::sync::mpsc;
use tonic::Status;

use super::Pipe;
use crate::status;

/// How many bytes a client may send ahead of what was taken from it.
const WINDOW_BYTES: i32 = 1 << 20;

/// The longest piece, in bytes: what containerd sends.
const PIECE_BYTES_MAX: usize = 32 << 10;

/// Passes a client's bytes on, until it has sent all or the reader is gone.
pub(crate) async fn receive(mut pipe: Pipe, chunks: mpsc::Sender<io::Result<Bytes>>) {
    let mut window = 0;
    loop {
        if window < WINDOW_BYTES {
            let update = WindowUpdate {
                update: WINDOW_BYTES,
            };
            window += WINDOW_BYTES;
            // A client that has sent all may listen no more, and what it sent is still to be read.
            pipe.send(any::pack(&update)).await;
        }
        let chunk = match next_data(&mut pipe).await {
            Ok(None) => return,
            Ok(Some(data)) => {
                // A client that sends more than it may is not punished: the queue's bound holds it back.
                let length = i32::try_from(data.len()).unwrap_or(i32::MAX);
                window = window.saturating_sub(length);
                Ok(data)
            }
            Err(status) => Err(io::Error::other(status)),
        };
        let failed = chunk.is_err();
        if chunks.send(chunk).await.is_err() || failed {
            return;
        }
    }
}

async fn next_data(pipe: &mut Pipe) -> Result<Option<Bytes>, Status> {
    let Some(object) = pipe.next().await? else {
        return Ok(None);
    };
    let data: Data = any::unpack(&object).map_err(|error| status::invalid(&error))?;
    Ok(Some(data.data))
}

/// Sends chunks to a client as it makes room for them. Ends when there are no more; the stream ends with the pipe.
///
/// # Errors
/// The client left, or sent what is no update of its window.
pub(crate) async fn send(pipe: &mut Pipe, mut chunks: mpsc::Receiver<Bytes>) -> Result<(), Status> {
    let mut window = 0_usize;
    while let Some(mut chunk) = chunks.recv().await {
        while !chunk.is_empty() {
            while window == 0 {
                window = more_room(pipe).await?;
            }
            let piece = chunk.split_to(chunk.len().min(window).min(PIECE_BYTES_MAX));
            window -= piece.len();
            if !pipe.send(any::pack(&Data { data: piece })).await {
                return Err(Status::cancelled("the client has left"));
            }
        }
    }
    Ok(())
}

async fn more_room(pipe: &mut Pipe) -> Result<usize, Status> {
    let object = pipe.next().await?;
    let object = object.ok_or_else(|| Status::cancelled("the client takes no more"))?;
    let update: WindowUpdate = any::unpack(&object).map_err(|error| status::invalid(&error))?;
    usize::try_from(update.update)
        .map_err(|_| status::invalid_text(format!("a window cannot grow by {}", update.update)))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use orlop_api::Any;

    use super::*;

    fn data(text: &'static str) -> Any {
        any::pack(&Data {
            data: Bytes::from_static(text.as_bytes()),
        })
    }

    fn room(update: i32) -> Any {
        any::pack(&WindowUpdate { update })
    }

    #[tokio::test]
    async fn bytes_of_a_client_arrive_in_order_and_it_is_given_room_first() {
        let (pipe, mut answers) = Pipe::new(stream::iter([Ok(data("ab")), Ok(data("c"))]));
        let (sender, mut chunks) = mpsc::channel(8);
        receive(pipe, sender).await;
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(all, b"abc");
        let first = answers.recv().await.unwrap().unwrap();
        let update: WindowUpdate = any::unpack(&first).unwrap();
        assert_eq!(update.update, WINDOW_BYTES);
    }

    #[tokio::test]
    async fn a_broken_stream_and_a_foreign_object_are_read_errors() {
        for broken in [Err(Status::cancelled("gone")), Ok(room(1))] {
            let (pipe, _answers) = Pipe::new(stream::iter([Ok(data("ab")), broken]));
            let (sender, mut chunks) = mpsc::channel(8);
            receive(pipe, sender).await;
            assert!(chunks.recv().await.unwrap().is_ok());
            assert!(chunks.recv().await.unwrap().is_err());
            assert!(chunks.recv().await.is_none());
        }
    }

    #[tokio::test]
    async fn no_more_is_sent_than_the_client_has_room_for() {
        let rooms = stream::iter([Ok(room(3)), Ok(room(1)), Ok(room(10))]);
        let (mut pipe, mut answers) = Pipe::new(rooms);
        let (sender, chunks) = mpsc::channel(8);
        sender.send(Bytes::from_static(b"abcdefg")).await.unwrap();
        drop(sender);
        send(&mut pipe, chunks).await.unwrap();
        drop(pipe);
        let mut pieces = Vec::new();
        while let Some(object) = answers.recv().await {
            let piece: Data = any::unpack(&object.unwrap()).unwrap();
            pieces.push(piece.data);
        }
        assert_eq!(pieces, ["abc", "d", "efg"]);
    }

    #[tokio::test]
    async fn a_client_that_leaves_or_shrinks_its_window_ends_the_sending() {
        for objects in [vec![], vec![Ok(room(-1))]] {
            let (mut pipe, _answers) = Pipe::new(stream::iter(objects));
            let (sender, chunks) = mpsc::channel(8);
            sender.send(Bytes::from_static(b"a")).await.unwrap();
            assert!(send(&mut pipe, chunks).await.is_err());
        }
    }
}

//! The calling end of one connection, without input or output.
//!
//! Ordering: answers come in any order, each names its stream. Cancellation: forget the stream; a late answer is
//! skipped. Crash: nothing is kept.

use std::collections::BTreeSet;

use prost::Message;

use crate::frame::{self, Decoder, Frame, FrameError, FrameType};
use crate::message::{Code, KeyValue, Request, Response, Status};

/// The answer to one call: its stream, and the payload or the refusal.
pub type Reply = (u32, Result<Vec<u8>, Status>);

/// Why a call cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request is too large.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// All 2³¹ streams of this connection are used up: open another one.
    #[error("the connection has no stream ids left")]
    Exhausted,
}

/// The state of one connection: feed it with what was read, write what it has to say.
#[derive(Debug, Default)]
pub struct Connection {
    decoder: Decoder,
    next_index: u32,
    open: BTreeSet<u32>,
    output: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Queues a unary call and returns its stream. `timeout_nanos` of 0 means without end.
    ///
    /// # Errors
    /// The request is too large, or the connection was used too long.
    pub fn call(
        &mut self,
        service: &str,
        method: &str,
        payload: &[u8],
        timeout_nanos: i64,
        metadata: &[KeyValue],
    ) -> Result<u32, CallError> {
        let stream = self
            .next_index
            .checked_mul(2)
            .and_then(|even| even.checked_add(1));
        let stream = stream.ok_or(CallError::Exhausted)?;
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: payload.to_vec(),
            timeout_nano: timeout_nanos,
            metadata: metadata.to_vec(),
        };
        let data = request.encode_to_vec();
        frame::encode(&mut self.output, stream, FrameType::Request, 0, &data)?;
        self.next_index += 1;
        self.open.insert(stream);
        Ok(stream)
    }

    /// Gives a call up: its answer will be skipped.
    pub fn forget(&mut self, stream: u32) {
        self.open.remove(&stream);
    }

    /// Takes bytes read from the socket.
    pub fn received(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The next answer to an open call.
    ///
    /// # Errors
    /// The peer broke the protocol: close the connection.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, FrameError> {
        loop {
            let frame = match self.decoder.next_frame() {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame,
                Err(error @ FrameError::TooLarge { stream, .. }) if self.open.remove(&stream) => {
                    let status = Status::new(Code::ResourceExhausted, error.to_string());
                    return Ok(Some((stream, Err(status))));
                }
                Err(FrameError::TooLarge { .. }) => continue,
                Err(error @ FrameError::NotTtrpc { .. }) => return Err(error),
            };
            if self.open.remove(&frame.stream) {
                return Ok(Some(reply_in(&frame)));
            }
        }
    }

    /// What is to be written next; empty when there is nothing.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Notes that `count` bytes of [`Connection::output`] were written.
    pub fn wrote(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.output.len());
        if self.sent == self.output.len() {
            self.output = Vec::new();
            self.sent = 0;
        }
    }
}

fn reply_in(frame: &Frame) -> Reply {
    let fault = |text: String| Err(Status::new(Code::Internal, text));
    let result = match frame.kind {
        FrameType::Response => match Response::decode(frame.data.as_slice()) {
            Ok(response) => response.into_result(),
            Err(error) => fault(format!("the answer cannot be decoded: {error}")),
        },
        FrameType::Request | FrameType::Data | FrameType::Other(_) => fault(format!(
            "a unary call was answered with a frame of type {:?}",
            frame.kind
        )),
    };
    (frame.stream, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_odd_and_grow() {
        let mut connection = Connection::default();
        let streams: Vec<u32> = (0..3)
            .map(|_| connection.call("s", "m", b"", 0, &[]).unwrap())
            .collect();
        assert_eq!(streams, [1, 3, 5]);
    }

    #[test]
    fn answers_to_forgotten_and_unknown_streams_are_skipped() {
        let mut connection = Connection::default();
        let stream = connection.call("s", "m", b"", 0, &[]).unwrap();
        connection.forget(stream);
        let mut bytes = Vec::new();
        for stream in [stream, 77] {
            frame::encode(&mut bytes, stream, FrameType::Response, 0, b"").unwrap();
        }
        connection.received(&bytes);
        assert_eq!(connection.next_reply(), Ok(None));
    }

    #[test]
    fn an_answer_of_the_wrong_kind_ends_the_call_with_an_error() {
        let mut connection = Connection::default();
        let stream = connection.call("s", "m", b"", 0, &[]).unwrap();
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, stream, FrameType::Data, 0, b"").unwrap();
        connection.received(&bytes);
        let (answered, result) = connection.next_reply().unwrap().unwrap();
        assert_eq!(answered, stream);
        assert_eq!(result.unwrap_err().code, Code::Internal);
    }
}

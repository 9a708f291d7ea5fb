//! The serving end of one connection, without input or output.
//!
//! Ordering: calls come out as they came in; answers go out in the order they are given. Cancellation: a caller that
//! goes away is a connection that ends; whoever holds its calls drops them. Crash: nothing is kept.

use std::collections::BTreeSet;

use prost::Message;

use crate::frame::{
    self, DATA_BYTES_MAX, Decoder, FLAG_REMOTE_CLOSED, FLAG_REMOTE_OPEN, Frame, FrameError,
    FrameType,
};
use crate::message::{Code, KeyValue, Request, Response, Status};

/// The most calls one connection may have unanswered. Waits hang for a container's life, one per process and client.
pub const CALLS_MAX: usize = 4096;

/// A unary call to be answered with [`Connection::respond`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Names the call when it is answered.
    pub stream: u32,
    /// The full name of the service.
    pub service: String,
    /// The method.
    pub method: String,
    /// The encoded message of the method.
    pub payload: Vec<u8>,
    /// How long the caller waits, in nanoseconds; 0 for ever.
    pub timeout_nanos: i64,
    /// Further words from the caller.
    pub metadata: Vec<KeyValue>,
}

/// The state of one connection: feed it with what was read, write what it has to say.
#[derive(Debug, Default)]
pub struct Connection {
    decoder: Decoder,
    last_stream: u32,
    open: BTreeSet<u32>,
    output: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Takes bytes read from the socket.
    pub fn received(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The next call, if one is whole. Faults of the caller are answered in here.
    ///
    /// # Errors
    /// The peer does not speak ttrpc: close the connection.
    pub fn next_call(&mut self) -> Result<Option<Call>, FrameError> {
        loop {
            match self.decoder.next_frame() {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => match self.accept(frame) {
                    Ok(Some(call)) => return Ok(Some(call)),
                    Ok(None) => {}
                    Err((stream, status)) => self.send(stream, Err(status)),
                },
                Err(error @ FrameError::TooLarge { stream, .. }) => {
                    let status = Status::new(Code::ResourceExhausted, error.to_string());
                    self.send(stream, Err(status));
                }
                Err(error @ FrameError::NotTtrpc { .. }) => return Err(error),
            }
        }
    }

    /// Answers a call. A stream that is not open (answered before) is left alone, so that no stream is answered twice.
    pub fn respond(&mut self, stream: u32, result: Result<Vec<u8>, Status>) {
        if self.open.remove(&stream) {
            self.send(stream, result);
        }
    }

    /// How many calls wait for an answer.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.open.len()
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

    fn accept(&mut self, frame: Frame) -> Result<Option<Call>, (u32, Status)> {
        let stream = frame.stream;
        let refuse = |code, text: &str| Err((stream, Status::new(code, text)));
        if stream.is_multiple_of(2) {
            return refuse(
                Code::InvalidArgument,
                "the id of a stream that a client opens must be odd",
            );
        }
        match frame.kind {
            FrameType::Request => self.open_stream(frame),
            // The call of this stream was unary or has been refused: more data is a fault, except the sender's
            // farewell.
            FrameType::Data if frame.flags & FLAG_REMOTE_CLOSED != 0 => Ok(None),
            FrameType::Data => refuse(Code::InvalidArgument, "the stream is not open for data"),
            FrameType::Response => refuse(Code::InvalidArgument, "a client sends no responses"),
            FrameType::Other(_) => Ok(None),
        }
    }

    fn open_stream(&mut self, frame: Frame) -> Result<Option<Call>, (u32, Status)> {
        let stream = frame.stream;
        if stream <= self.last_stream {
            let text = "the id of a stream must grow and cannot be used again";
            return Err((stream, Status::new(Code::InvalidArgument, text)));
        }
        self.last_stream = stream;
        if frame.flags & FLAG_REMOTE_OPEN != 0 {
            let text = "streaming calls are not served here";
            return Err((stream, Status::new(Code::Unimplemented, text)));
        }
        if self.open.len() >= CALLS_MAX {
            let text = format!("{CALLS_MAX} calls of this connection are unanswered already");
            return Err((stream, Status::new(Code::ResourceExhausted, text)));
        }
        let request = Request::decode(frame.data.as_slice()).map_err(|error| {
            let text = format!("the request cannot be decoded: {error}");
            (stream, Status::new(Code::InvalidArgument, text))
        })?;
        self.open.insert(stream);
        Ok(Some(Call {
            stream,
            service: request.service,
            method: request.method,
            payload: request.payload,
            timeout_nanos: request.timeout_nano,
            metadata: request.metadata,
        }))
    }

    fn send(&mut self, stream: u32, result: Result<Vec<u8>, Status>) {
        let response = Response::from_result(result).encode_to_vec();
        if frame::encode(&mut self.output, stream, FrameType::Response, 0, &response).is_ok() {
            return;
        }
        let text = format!(
            "the answer has {} bytes, more than the {DATA_BYTES_MAX} a frame may carry",
            response.len()
        );
        let refusal = Response::from_result(Err(Status::new(Code::ResourceExhausted, text)));
        let sent = frame::encode(
            &mut self.output,
            stream,
            FrameType::Response,
            0,
            &refusal.encode_to_vec(),
        );
        debug_assert!(sent.is_ok(), "a refusal is short");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller;

    fn request_frame(stream: u32, flags: u8) -> Vec<u8> {
        let request = Request {
            service: "s".to_owned(),
            method: "m".to_owned(),
            ..Request::default()
        };
        let mut bytes = Vec::new();
        let data = request.encode_to_vec();
        frame::encode(&mut bytes, stream, FrameType::Request, flags, &data).unwrap();
        bytes
    }

    fn frame_of(stream: u32, kind: FrameType, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, stream, kind, flags, data).unwrap();
        bytes
    }

    fn refusal_of(input: &[u8]) -> Option<(u32, Code)> {
        let mut connection = Connection::default();
        connection.received(input);
        while connection.next_call().unwrap().is_some() {}
        let mut decoder = Decoder::default();
        decoder.push(connection.output());
        let frame = decoder.next_frame().unwrap()?;
        let result = Response::decode(frame.data.as_slice())
            .unwrap()
            .into_result();
        Some((frame.stream, result.unwrap_err().code))
    }

    #[test]
    fn faults_of_a_caller_are_answered_on_the_stream_at_fault() {
        let reused = [request_frame(3, 0), request_frame(3, 0)].concat();
        let backwards = [request_frame(3, 0), request_frame(1, 0)].concat();
        let table = [
            (
                "even",
                request_frame(2, 0),
                Some((2, Code::InvalidArgument)),
            ),
            (
                "zero",
                request_frame(0, 0),
                Some((0, Code::InvalidArgument)),
            ),
            ("reused", reused, Some((3, Code::InvalidArgument))),
            ("backwards", backwards, Some((1, Code::InvalidArgument))),
            (
                "streaming",
                request_frame(1, FLAG_REMOTE_OPEN),
                Some((1, Code::Unimplemented)),
            ),
            (
                "garbage",
                frame_of(1, FrameType::Request, 0, &[0xff; 9]),
                Some((1, Code::InvalidArgument)),
            ),
            (
                "data of no stream",
                frame_of(9, FrameType::Data, 0, b"x"),
                Some((9, Code::InvalidArgument)),
            ),
            (
                "farewell",
                frame_of(9, FrameType::Data, FLAG_REMOTE_CLOSED, b""),
                None,
            ),
            (
                "response",
                frame_of(9, FrameType::Response, 0, b""),
                Some((9, Code::InvalidArgument)),
            ),
            (
                "future type",
                frame_of(9, FrameType::Other(77), 0, b""),
                None,
            ),
            (
                "unary without data to come",
                request_frame(1, FLAG_REMOTE_CLOSED),
                None,
            ),
        ];
        for (name, input, expected) in table {
            assert_eq!(refusal_of(&input), expected, "{name}");
        }
    }

    #[test]
    fn answers_may_come_out_of_order_and_only_once() {
        let mut client = caller::Connection::default();
        let first = client.call("s", "Wait", b"1", 0, &[]).unwrap();
        let second = client.call("s", "Kill", b"2", 0, &[]).unwrap();
        let mut server = Connection::default();
        server.received(client.output());
        let calls: Vec<Call> = std::iter::from_fn(|| server.next_call().unwrap()).collect();
        assert_eq!(calls.len(), 2);
        server.respond(second, Ok(b"killed".to_vec()));
        server.respond(first, Err(Status::new(Code::NotFound, "gone")));
        server.respond(first, Ok(b"again".to_vec()));
        assert_eq!(server.open_calls(), 0);

        client.received(server.output());
        let replies: Vec<_> = std::iter::from_fn(|| client.next_reply().unwrap()).collect();
        let expected = vec![
            (second, Ok(b"killed".to_vec())),
            (first, Err(Status::new(Code::NotFound, "gone"))),
        ];
        assert_eq!(replies, expected);
    }

    #[test]
    fn an_answer_above_the_limit_becomes_a_clear_refusal() {
        let mut server = Connection::default();
        server.received(&request_frame(1, 0));
        server.next_call().unwrap().unwrap();
        server.respond(1, Ok(vec![0; DATA_BYTES_MAX + 1]));
        let mut decoder = Decoder::default();
        decoder.push(server.output());
        let frame = decoder.next_frame().unwrap().unwrap();
        let status = Response::decode(frame.data.as_slice())
            .unwrap()
            .into_result()
            .unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted);
    }

    #[test]
    fn unanswered_calls_are_bounded() {
        let mut server = Connection::default();
        for index in 0..u32::try_from(CALLS_MAX).unwrap() {
            server.received(&request_frame(index * 2 + 1, 0));
            assert!(server.next_call().unwrap().is_some());
        }
        server.received(&request_frame(99_999, 0));
        assert!(server.next_call().unwrap().is_none());
        assert!(!server.output().is_empty());
    }
}

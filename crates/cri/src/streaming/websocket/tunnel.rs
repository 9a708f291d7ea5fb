//! A connection of SPDY/3.1 in the binary messages of a WebSocket.

use std::collections::VecDeque;

use super::WebSocketError;
use super::frame::{Decoder, Part, close, message, pong};
use crate::streaming::mux::{Event, Protocol, ProtocolError};
use crate::streaming::spdy::Connection;

/// A message that is sent is at most so long.
const MESSAGE_BYTES_MAX: usize = 32 << 10;

/// A server's end of both.
#[derive(Debug, Default)]
pub(crate) struct Tunnel {
    decoder: Decoder,
    inner: Connection,
    is_leaving: bool,
    output: Vec<u8>,
}

impl Tunnel {
    fn part(&mut self, part: Part<'_>, events: &mut VecDeque<Event>) -> Result<(), ProtocolError> {
        match part {
            Part::Payload { is_text: true, .. } => {
                return Err(WebSocketError::Kind.into());
            }
            Part::Payload { bytes, .. } => self.inner.receive(bytes, events)?,
            Part::MessageEnd => {}
            Part::Ping(payload) => pong(&payload, &mut self.output),
            Part::Close => self.close(),
        }
        Ok(())
    }
}

impl From<WebSocketError> for ProtocolError {
    fn from(error: WebSocketError) -> Self {
        Self::new(error)
    }
}

impl Protocol for Tunnel {
    fn receive(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), ProtocolError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut bytes = bytes.to_vec();
        let taken = decoder.take(&mut bytes, |part| self.part(part, events));
        self.decoder = decoder;
        taken
    }

    fn accept(&mut self, stream: u32) {
        self.inner.accept(stream);
    }

    fn window(&self, stream: u32) -> usize {
        self.inner.window(stream)
    }

    fn is_open(&self, stream: u32) -> bool {
        !self.is_leaving && self.inner.is_open(stream)
    }

    fn send(&mut self, stream: u32, bytes: &[u8]) {
        self.inner.send(stream, bytes);
    }

    fn end(&mut self, stream: u32) {
        self.inner.end(stream);
    }

    fn reset(&mut self, stream: u32) {
        self.inner.reset(stream);
    }

    fn refuse(&mut self, stream: u32) {
        self.inner.refuse(stream);
    }

    fn consumed(&mut self, stream: u32, count: usize) {
        self.inner.consumed(stream, count);
    }

    fn close(&mut self) {
        if !self.is_leaving {
            self.inner.close();
            self.output();
            self.is_leaving = true;
            close(&mut self.output);
        }
    }

    /// Wraps what has come together meanwhile.
    fn output(&mut self) -> &mut Vec<u8> {
        let inner = std::mem::take(self.inner.output());
        if !self.is_leaving {
            for piece in inner.chunks(MESSAGE_BYTES_MAX) {
                message(false, [&[], piece], &mut self.output);
            }
        }
        &mut self.output
    }

    fn is_flow_control_in_doubt(&self) -> bool {
        self.inner.is_flow_control_in_doubt()
    }

    fn assume_no_flow_control(&mut self) {
        self.inner.assume_no_flow_control();
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::masked;
    use super::*;

    #[test]
    fn a_ping_of_the_inner_protocol_is_answered_through_the_outer_one() {
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        let mut tunnel = Tunnel::default();
        let mut events = VecDeque::new();
        // The inner frame is cut in two messages.
        let bytes = [masked(2, true, &ping[..5]), masked(2, true, &ping[5..])].concat();
        tunnel.receive(&bytes, &mut events).unwrap();
        let expected = [&[0x82, 12][..], &ping].concat();
        assert_eq!(*tunnel.output(), expected);
        assert!(tunnel.receive(&masked(1, true, b"x"), &mut events).is_err());
    }
}

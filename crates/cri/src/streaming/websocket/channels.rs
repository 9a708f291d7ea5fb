//! Streams as numbered channels: the first byte of a message names one.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::WebSocketError;
use super::frame::{Decoder, Part, close, message, pong};
use crate::streaming::mux::{CHUNK_BYTES_MAX, Event, Protocol, ProtocolError};

/// What a message is for that ends a channel (v5.channel.k8s.io): the next byte names it.
const CLOSE_CHANNEL: u8 = 255;

/// One channel.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    /// Its number.
    pub(crate) number: u8,
    /// Whether the client may write to it.
    pub(crate) is_readable: bool,
    /// What it is for, in the words of SPDY's headers.
    pub(crate) headers: Vec<(String, String)>,
}

/// A server's end of a connection with channels that were agreed upon.
#[derive(Debug)]
pub(crate) struct Channels {
    decoder: Decoder,
    encoding: Encoding,
    /// Whether a client may end a channel.
    can_close: bool,
    /// Whether the client may still write to it.
    channels: BTreeMap<u8, bool>,
    message: Message,
    is_leaving: bool,
    output: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Binary,
    Base64,
}

/// The message under way.
#[derive(Debug, Default)]
struct Message {
    channel: Option<u8>,
    /// Text of base64 that does not make whole bytes yet.
    carry: Vec<u8>,
}

impl Channels {
    /// The protocol and what it begins with: the streams need not be opened by anybody.
    pub(crate) fn new(
        channels: &[Channel],
        is_base64: bool,
        can_close: bool,
    ) -> (Self, Vec<Event>) {
        let known = channels.iter().map(|one| (one.number, one.is_readable));
        let protocol = Self {
            decoder: Decoder::default(),
            encoding: if is_base64 {
                Encoding::Base64
            } else {
                Encoding::Binary
            },
            can_close,
            channels: known.collect(),
            message: Message::default(),
            is_leaving: false,
            output: Vec::new(),
        };
        let opened = channels.iter().map(|one| Event::Opened {
            stream: one.number.into(),
            headers: one.headers.clone(),
        });
        (protocol, opened.collect())
    }

    fn part(&mut self, part: Part<'_>, events: &mut VecDeque<Event>) -> Result<(), WebSocketError> {
        match part {
            Part::Payload {
                is_first,
                is_text,
                bytes,
            } => {
                if is_text != (self.encoding == Encoding::Base64) {
                    return Err(WebSocketError::Kind);
                }
                let mut bytes = bytes;
                if is_first {
                    let (channel, rest) = bytes.split_first().ok_or(WebSocketError::Length)?;
                    self.begin(*channel)?;
                    bytes = rest;
                }
                self.payload(bytes, events)
            }
            Part::MessageEnd => {
                let is_whole = self.message.carry.is_empty();
                self.message = Message::default();
                is_whole.then_some(()).ok_or(WebSocketError::Base64)
            }
            Part::Ping(payload) => {
                pong(&payload, &mut self.output);
                Ok(())
            }
            Part::Close => {
                // The client's end of the connection follows.
                self.close();
                let open = self.channels.iter_mut();
                for (number, readable) in open.filter(|(_, readable)| **readable) {
                    *readable = false;
                    events.push_back(Event::Ended {
                        stream: (*number).into(),
                    });
                }
                Ok(())
            }
        }
    }

    fn begin(&mut self, byte: u8) -> Result<(), WebSocketError> {
        let channel = match self.encoding {
            Encoding::Binary => byte,
            Encoding::Base64 => byte.wrapping_sub(b'0'),
        };
        let closes =
            channel == CLOSE_CHANNEL && self.can_close && self.encoding == Encoding::Binary;
        if !closes && !self.channels.contains_key(&channel) {
            return Err(WebSocketError::Channel(channel));
        }
        self.message.channel = Some(channel);
        Ok(())
    }

    fn payload(
        &mut self,
        bytes: &[u8],
        events: &mut VecDeque<Event>,
    ) -> Result<(), WebSocketError> {
        let Some(channel) = self.message.channel else {
            return Ok(());
        };
        if channel == CLOSE_CHANNEL {
            bytes.iter().for_each(|number| self.ended(*number, events));
            return Ok(());
        }
        let decoded = match self.encoding {
            Encoding::Binary => Bytes::copy_from_slice(bytes),
            Encoding::Base64 => self.message.decode(bytes)?,
        };
        // What is written to a channel that only the server writes to is nobody's.
        if !decoded.is_empty() && self.channels.get(&channel) == Some(&true) {
            events.push_back(Event::Data {
                stream: channel.into(),
                bytes: decoded,
            });
        }
        Ok(())
    }

    fn ended(&mut self, number: u8, events: &mut VecDeque<Event>) {
        if let Some(readable) = self.channels.get_mut(&number)
            && std::mem::replace(readable, false)
        {
            events.push_back(Event::Ended {
                stream: number.into(),
            });
        }
    }
}

impl Message {
    /// Four letters make three bytes.
    fn decode(&mut self, text: &[u8]) -> Result<Bytes, WebSocketError> {
        self.carry.extend_from_slice(text);
        let whole = self.carry.len() / 4 * 4;
        let decoded = STANDARD
            .decode(&self.carry[..whole])
            .map_err(|_| WebSocketError::Base64)?;
        self.carry.drain(..whole);
        Ok(decoded.into())
    }
}

impl Protocol for Channels {
    fn receive(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), ProtocolError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut bytes = bytes.to_vec();
        let taken = decoder.take(&mut bytes, |part| self.part(part, events));
        self.decoder = decoder;
        taken.map_err(|error: WebSocketError| ProtocolError::new(error))
    }

    /// There is nothing to say: both ends knew of the channel before.
    fn accept(&mut self, _stream: u32) {}

    fn window(&self, stream: u32) -> usize {
        if self.is_open(stream) {
            CHUNK_BYTES_MAX
        } else {
            0
        }
    }

    fn is_open(&self, stream: u32) -> bool {
        let channel = u8::try_from(stream);
        !self.is_leaving && channel.is_ok_and(|channel| self.channels.contains_key(&channel))
    }

    fn send(&mut self, stream: u32, bytes: &[u8]) {
        let Ok(channel) = u8::try_from(stream) else {
            return;
        };
        match self.encoding {
            Encoding::Binary => message(false, [&[channel], bytes], &mut self.output),
            Encoding::Base64 => {
                let text = STANDARD.encode(bytes);
                let channel = channel.wrapping_add(b'0');
                message(true, [&[channel], text.as_bytes()], &mut self.output);
            }
        }
    }

    /// Clients have no word for it: they see the end of the connection.
    fn end(&mut self, _stream: u32) {}

    fn reset(&mut self, stream: u32) {
        if let Ok(channel) = u8::try_from(stream) {
            self.channels.insert(channel, false);
        }
    }

    fn refuse(&mut self, stream: u32) {
        self.reset(stream);
    }

    /// Nobody counts.
    fn consumed(&mut self, _stream: u32, _count: usize) {}

    fn close(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            close(&mut self.output);
        }
    }

    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    fn is_flow_control_in_doubt(&self) -> bool {
        false
    }

    fn assume_no_flow_control(&mut self) {}
}

/// Feeds both encodings with any bytes at all.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    for is_base64 in [false, true] {
        let channel = Channel {
            number: 0,
            is_readable: true,
            headers: Vec::new(),
        };
        let (mut protocol, _) = Channels::new(&[channel], is_base64, true);
        let mut events = VecDeque::new();
        for piece in bytes.chunks(7) {
            if protocol.receive(piece, &mut events).is_err() {
                break;
            }
            assert!(protocol.message.carry.len() < 4);
            protocol.output().clear();
            events.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::masked;
    use super::*;

    fn protocol(is_base64: bool, can_close: bool) -> Channels {
        let channel = |number, is_readable| Channel {
            number,
            is_readable,
            headers: Vec::new(),
        };
        Channels::new(&[channel(0, true), channel(1, false)], is_base64, can_close).0
    }

    fn receive(protocol: &mut Channels, bytes: &[u8]) -> Result<Vec<Event>, ProtocolError> {
        let mut events = VecDeque::new();
        for piece in bytes.chunks(5) {
            protocol.receive(piece, &mut events)?;
        }
        Ok(events.into())
    }

    fn text_of(events: &[Event]) -> String {
        let bytes = events.iter().filter_map(|event| match event {
            Event::Data { stream: 0, bytes } => Some(bytes.to_vec()),
            Event::Data { .. }
            | Event::Opened { .. }
            | Event::Ended { .. }
            | Event::Reset { .. } => None,
        });
        String::from_utf8(bytes.collect::<Vec<_>>().concat()).unwrap()
    }

    #[test]
    fn bytes_and_text_reach_their_channel() {
        let mut binary = protocol(false, false);
        let bytes = [
            masked(2, false, b"\0hello "),
            masked(0, true, b"there"),
            masked(2, true, b"\x01lost"),
        ];
        let events = receive(&mut binary, &bytes.concat()).unwrap();
        assert_eq!(text_of(&events), "hello there");
        let mut text = protocol(true, false);
        let sent = format!("0{}", STANDARD.encode("hello there"));
        let events = receive(&mut text, &masked(1, true, sent.as_bytes())).unwrap();
        assert_eq!(text_of(&events), "hello there");
    }

    #[test]
    fn what_is_sent_names_its_channel() {
        let (mut binary, mut text) = (protocol(false, false), protocol(true, false));
        binary.send(1, b"out");
        assert_eq!(*binary.output(), b"\x82\x04\x01out");
        text.send(1, b"out");
        assert_eq!(*text.output(), b"\x81\x051b3V0");
    }

    #[test]
    fn the_end_of_what_is_sent_leaves_what_is_received() {
        let mut protocol = protocol(false, true);
        protocol.end(0);
        let events = receive(&mut protocol, &masked(2, true, b"\0on")).unwrap();
        assert_eq!(text_of(&events), "on");
    }

    #[test]
    fn only_version_five_ends_a_channel() {
        let close = masked(2, true, &[255, 0]);
        let events = receive(&mut protocol(false, true), &close).unwrap();
        assert_eq!(events, [Event::Ended { stream: 0 }]);
        assert!(receive(&mut protocol(false, false), &close).is_err());
    }

    #[test]
    fn a_close_ends_every_channel_and_is_answered_once() {
        let mut protocol = protocol(false, false);
        let close = masked(8, true, &[3, 232]);
        let events = receive(&mut protocol, &close).unwrap();
        assert_eq!(events, [Event::Ended { stream: 0 }]);
        protocol.close();
        assert_eq!(*protocol.output(), [0x88, 2, 3, 232]);
    }

    #[test]
    fn what_was_not_agreed_upon_is_refused() {
        let table = [
            (false, masked(1, true, b"0text")),
            (false, masked(2, true, b"\x07")),
            (true, masked(2, true, b"\0")),
            (true, masked(1, true, b"0not base64!")),
            (true, masked(1, true, b"0YQ")),
        ];
        for (is_base64, bytes) in table {
            assert!(receive(&mut protocol(is_base64, true), &bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            fuzz(&bytes);
        }
    }
}

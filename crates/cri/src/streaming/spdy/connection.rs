//! One connection, as its server sees it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::headers::{HeaderReader, HeaderWriter};
use super::wire::{
    CANCEL, FLAG_FIN, GOAWAY, HEAD_BYTES, HEADERS, Head, INITIAL_WINDOW_SIZE, INVALID_STREAM, PING,
    REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_ALREADY_CLOSED, SYN_REPLY, SYN_STREAM,
    WINDOW_UPDATE, control, control_pair, data, number, pair,
};
use super::{STREAMS_MAX, SpdyError};
use crate::streaming::mux::{Event, Protocol, ProtocolError};

/// The window of every stream, and of the connection, before anybody changes it.
const WINDOW_BYTES: u32 = 64 << 10;
/// A window may not be larger.
const WINDOW_BYTES_MAX: i64 = 0x7fff_ffff;
/// A frame that is sent is at most so long, so that streams take turns.
const DATA_BYTES_MAX: usize = 32 << 10;
/// The connection's own window has the number of no stream.
const WHOLE_CONNECTION: u32 = 0;

/// What the peer makes of flow control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlowControl {
    /// It has not shown yet.
    Unknown,
    /// It opens windows.
    Used,
    /// It does not.
    Absent,
}

#[derive(Debug)]
struct Stream {
    /// What may still be sent. May be negative once the peer has shrunk it.
    window: i64,
    /// What was received and passed on without the window having been opened for it.
    consumed: u32,
    has_remote_ended: bool,
    has_local_ended: bool,
}

/// What is being received.
#[derive(Debug, Clone, Copy)]
enum Receiving {
    Head,
    Control {
        kind: u16,
        flags: u8,
        length: usize,
    },
    Data {
        stream: u32,
        is_last: bool,
        left: usize,
    },
}

/// A server's end of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    receiving: Receiving,
    input: Vec<u8>,
    reader: HeaderReader,
    writer: HeaderWriter,
    streams: BTreeMap<u32, Stream>,
    last_stream: u32,
    initial_window: i64,
    window: i64,
    consumed: u32,
    flow_control: FlowControl,
    is_leaving: bool,
    output: Vec<u8>,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            receiving: Receiving::Head,
            input: Vec::new(),
            reader: HeaderReader::new(),
            writer: HeaderWriter::default(),
            streams: BTreeMap::new(),
            last_stream: 0,
            initial_window: i64::from(WINDOW_BYTES),
            window: i64::from(WINDOW_BYTES),
            consumed: 0,
            flow_control: FlowControl::Unknown,
            is_leaving: false,
            output: Vec::new(),
        }
    }
}

impl Protocol for Connection {
    fn receive(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), ProtocolError> {
        self.take(bytes, events).map_err(ProtocolError::new)
    }

    fn accept(&mut self, stream: u32) {
        if !self.streams.contains_key(&stream) {
            return;
        }
        let mut payload = stream.to_be_bytes().to_vec();
        self.writer.write(&[], &mut payload);
        control(SYN_REPLY, 0, &payload, &mut self.output);
    }

    fn window(&self, stream: u32) -> usize {
        let Some(open) = self.streams.get(&stream).filter(|one| !one.has_local_ended) else {
            return 0;
        };
        if self.flow_control == FlowControl::Absent {
            return DATA_BYTES_MAX;
        }
        let window = open.window.min(self.window).max(0);
        usize::try_from(window).map_or(DATA_BYTES_MAX, |window| window.min(DATA_BYTES_MAX))
    }

    fn is_open(&self, stream: u32) -> bool {
        let open = self.streams.get(&stream);
        open.is_some_and(|stream| !stream.has_local_ended)
    }

    fn send(&mut self, stream: u32, bytes: &[u8]) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        open.window = open.window.saturating_sub(length);
        self.window = self.window.saturating_sub(length);
        data(stream, 0, bytes, &mut self.output);
    }

    fn end(&mut self, stream: u32) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        if !std::mem::replace(&mut open.has_local_ended, true) {
            data(stream, FLAG_FIN, &[], &mut self.output);
        }
        if open.has_remote_ended {
            self.streams.remove(&stream);
        }
    }

    fn reset(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            control_pair(RST_STREAM, stream, CANCEL, &mut self.output);
        }
    }

    fn refuse(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            control_pair(RST_STREAM, stream, REFUSED_STREAM, &mut self.output);
        }
    }

    fn consumed(&mut self, stream: u32, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        open_window(
            WHOLE_CONNECTION,
            &mut self.consumed,
            count,
            &mut self.output,
        );
        if let Some(open) = self.streams.get_mut(&stream)
            && !open.has_remote_ended
        {
            open_window(stream, &mut open.consumed, count, &mut self.output);
        }
    }

    fn close(&mut self) {
        if !self.is_leaving {
            self.is_leaving = true;
            control_pair(GOAWAY, self.last_stream, 0, &mut self.output);
        }
    }

    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    fn is_flow_control_in_doubt(&self) -> bool {
        self.flow_control == FlowControl::Unknown
    }

    fn assume_no_flow_control(&mut self) {
        if self.flow_control == FlowControl::Unknown {
            self.flow_control = FlowControl::Absent;
        }
    }
}

/// Opens a window again once half of it is used up: one frame for many.
fn open_window(stream: u32, consumed: &mut u32, count: u32, out: &mut Vec<u8>) {
    *consumed = consumed.saturating_add(count);
    if *consumed >= WINDOW_BYTES / 2 {
        control_pair(WINDOW_UPDATE, stream, *consumed, out);
        *consumed = 0;
    }
}

impl Connection {
    fn take(&mut self, mut bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), SpdyError> {
        while !bytes.is_empty() {
            match self.receiving {
                Receiving::Head => {
                    if let Some(head) = self.collect(&mut bytes, HEAD_BYTES) {
                        let head = head.try_into().expect("as many bytes as were asked for");
                        self.begin(Head::parse(head)?, events)?;
                    }
                }
                Receiving::Control {
                    kind,
                    flags,
                    length,
                } => {
                    if let Some(payload) = self.collect(&mut bytes, length) {
                        self.receiving = Receiving::Head;
                        self.control(kind, flags, &payload, events)?;
                    }
                }
                Receiving::Data {
                    stream,
                    is_last,
                    left,
                } => {
                    let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                    bytes = rest;
                    self.data(stream, piece, events);
                    self.go_on(stream, is_last, left - piece.len(), events);
                }
            }
        }
        Ok(())
    }

    /// Puts bytes aside until there are `length` of them.
    fn collect(&mut self, bytes: &mut &[u8], length: usize) -> Option<Vec<u8>> {
        let missing = length - self.input.len();
        let (piece, rest) = bytes.split_at(missing.min(bytes.len()));
        *bytes = rest;
        self.input.extend_from_slice(piece);
        (self.input.len() == length).then(|| std::mem::take(&mut self.input))
    }

    fn begin(&mut self, head: Head, events: &mut VecDeque<Event>) -> Result<(), SpdyError> {
        match head {
            Head::Control {
                kind,
                flags,
                length: 0,
            } => self.control(kind, flags, &[], events),
            Head::Control {
                kind,
                flags,
                length,
            } => {
                self.receiving = Receiving::Control {
                    kind,
                    flags,
                    length,
                };
                Ok(())
            }
            Head::Data {
                stream,
                flags,
                length,
            } => {
                self.expect_data(stream);
                self.go_on(stream, flags & FLAG_FIN != 0, length, events);
                Ok(())
            }
        }
    }

    /// Tells the peer, once per frame, that nobody listens on a stream.
    fn expect_data(&mut self, stream: u32) {
        let reason = match self.streams.get(&stream) {
            Some(open) if open.has_remote_ended => STREAM_ALREADY_CLOSED,
            Some(_) => return,
            // Reset by us while this was on its way: the peer will hear.
            None if stream <= self.last_stream => return,
            None => INVALID_STREAM,
        };
        control_pair(RST_STREAM, stream, reason, &mut self.output);
    }

    fn go_on(&mut self, stream: u32, is_last: bool, left: usize, events: &mut VecDeque<Event>) {
        if left > 0 {
            self.receiving = Receiving::Data {
                stream,
                is_last,
                left,
            };
            return;
        }
        self.receiving = Receiving::Head;
        if is_last {
            self.remote_ended(stream, events);
        }
    }

    fn data(&mut self, stream: u32, piece: &[u8], events: &mut VecDeque<Event>) {
        let open = self.streams.get(&stream);
        if open.is_none_or(|open| open.has_remote_ended) {
            // Thrown away, but it counted against the connection's window.
            return self.consumed(stream, piece.len());
        }
        let bytes = Bytes::copy_from_slice(piece);
        events.push_back(Event::Data { stream, bytes });
    }

    fn remote_ended(&mut self, stream: u32, events: &mut VecDeque<Event>) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        if std::mem::replace(&mut open.has_remote_ended, true) {
            return;
        }
        events.push_back(Event::Ended { stream });
        if open.has_local_ended {
            self.streams.remove(&stream);
        }
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        payload: &[u8],
        events: &mut VecDeque<Event>,
    ) -> Result<(), SpdyError> {
        match kind {
            SYN_STREAM => self.opened(flags, payload, events),
            RST_STREAM => {
                let (stream, _reason) = pair(kind, payload)?;
                if self.streams.remove(&stream).is_some() {
                    events.push_back(Event::Reset { stream });
                }
                Ok(())
            }
            SETTINGS => self.settings(payload),
            PING => {
                let (id, rest) = number(kind, payload)?;
                if !rest.is_empty() {
                    return Err(SpdyError::Malformed(kind));
                }
                // Even numbers would be answers, and we ask nothing.
                if id % 2 == 1 {
                    control(PING, 0, &id.to_be_bytes(), &mut self.output);
                }
                Ok(())
            }
            GOAWAY => {
                pair(kind, payload)?;
                // No more streams will come; those that are open go on.
                Ok(())
            }
            SYN_REPLY | HEADERS => {
                let (stream, block) = number(kind, payload)?;
                // Nobody wants them, but the blocks after them build on them.
                self.reader.read(block)?;
                if flags & FLAG_FIN != 0 {
                    self.remote_ended(stream, events);
                }
                Ok(())
            }
            WINDOW_UPDATE => {
                let (stream, more) = pair(kind, payload)?;
                self.widen(stream, more)
            }
            // A type that is not known is passed over (section 2.2.1).
            _ => Ok(()),
        }
    }

    fn opened(
        &mut self,
        flags: u8,
        payload: &[u8],
        events: &mut VecDeque<Event>,
    ) -> Result<(), SpdyError> {
        // Stream, associated stream, priority and slot; then headers.
        let (stream, rest) = number(SYN_STREAM, payload)?;
        let block = rest.get(6..).ok_or(SpdyError::Malformed(SYN_STREAM))?;
        let headers = self.reader.read(block)?;
        if stream % 2 == 0 || stream <= self.last_stream {
            return Err(SpdyError::StreamOrder(stream));
        }
        self.last_stream = stream;
        if self.is_leaving || self.streams.len() >= STREAMS_MAX {
            control_pair(RST_STREAM, stream, REFUSED_STREAM, &mut self.output);
            return Ok(());
        }
        let opened = Stream {
            window: self.initial_window,
            consumed: 0,
            has_remote_ended: false,
            has_local_ended: false,
        };
        self.streams.insert(stream, opened);
        events.push_back(Event::Opened { stream, headers });
        if flags & FLAG_FIN != 0 {
            self.remote_ended(stream, events);
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), SpdyError> {
        let (count, mut rest) = number(SETTINGS, payload)?;
        if rest.len() as u64 != u64::from(count) * 8 {
            return Err(SpdyError::Malformed(SETTINGS));
        }
        while let Some((entry, after)) = rest.split_first_chunk::<8>() {
            rest = after;
            let [_flags, a, b, c, value @ ..] = *entry;
            if u32::from_be_bytes([0, a, b, c]) == INITIAL_WINDOW_SIZE {
                self.resize_windows(i64::from(u32::from_be_bytes(value)))?;
            }
        }
        Ok(())
    }

    /// Streams that are open are widened or narrowed by the difference (section 2.6.8).
    fn resize_windows(&mut self, window: i64) -> Result<(), SpdyError> {
        if window > WINDOW_BYTES_MAX {
            return Err(SpdyError::Window(WHOLE_CONNECTION));
        }
        self.flow_control = FlowControl::Used;
        let more = window - self.initial_window;
        self.initial_window = window;
        for (number, stream) in &mut self.streams {
            stream.window = widened(*number, stream.window, more)?;
        }
        Ok(())
    }

    fn widen(&mut self, stream: u32, more: u32) -> Result<(), SpdyError> {
        self.flow_control = FlowControl::Used;
        if stream == WHOLE_CONNECTION {
            self.window = widened(stream, self.window, i64::from(more))?;
        } else if let Some(open) = self.streams.get_mut(&stream) {
            open.window = widened(stream, open.window, i64::from(more))?;
        }
        Ok(())
    }
}

fn widened(stream: u32, window: i64, more: i64) -> Result<i64, SpdyError> {
    let window = window.saturating_add(more);
    if window > WINDOW_BYTES_MAX {
        return Err(SpdyError::Window(stream));
    }
    Ok(window)
}

/// Feeds a connection with any bytes at all, in pieces, and checks what has to hold whatever they are.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut connection = Connection::default();
    let mut events = VecDeque::new();
    let piece_bytes = bytes.first().map_or(1, |byte| usize::from(*byte).max(1));
    for piece in bytes.chunks(piece_bytes) {
        if connection.receive(piece, &mut events).is_err() {
            break;
        }
        assert!(connection.streams.len() <= STREAMS_MAX);
        assert!(connection.input.len() <= super::wire::CONTROL_BYTES_MAX);
        for event in events.drain(..) {
            match event {
                Event::Opened { stream, .. } => {
                    assert!(stream % 2 == 1 && stream <= connection.last_stream);
                    connection.accept(stream);
                }
                Event::Data { stream, bytes } => {
                    assert!(bytes.len() <= piece_bytes);
                    connection.consumed(stream, bytes.len());
                    let window = connection.window(stream).min(bytes.len());
                    connection.send(stream, &bytes[..window]);
                }
                Event::Ended { stream } => connection.end(stream),
                Event::Reset { stream } => assert_eq!(connection.window(stream), 0),
            }
        }
        connection.output().clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(stream: u32, flags: u8, writer: &mut HeaderWriter, kind: &str) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        writer.write(&[("streamtype", kind)], &mut payload);
        let mut out = Vec::new();
        control(SYN_STREAM, flags, &payload, &mut out);
        out
    }

    fn of_data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        data(stream, flags, bytes, &mut out);
        out
    }

    fn of_pair(kind: u16, first: u32, second: u32) -> Vec<u8> {
        let mut out = Vec::new();
        control_pair(kind, first, second, &mut out);
        out
    }

    fn receive(connection: &mut Connection, bytes: &[u8]) -> Vec<Event> {
        let mut events = VecDeque::new();
        connection.receive(bytes, &mut events).unwrap();
        events.into()
    }

    fn opened() -> Connection {
        let mut connection = Connection::default();
        let bytes = open(1, 0, &mut HeaderWriter::default(), "stdin");
        assert_eq!(receive(&mut connection, &bytes).len(), 1);
        connection
    }

    #[test]
    fn a_stream_is_opened_written_ended_and_gone() {
        let mut connection = opened();
        connection.accept(1);
        let reply = std::mem::take(connection.output());
        // A control frame of version 3, type 2, for stream 1, with a block that has a head and no headers.
        assert_eq!(reply[..4], [0x80, 3, 0, 2]);
        assert_eq!(reply[8..12], [0, 0, 0, 1]);
        let events = receive(&mut connection, &of_data(1, FLAG_FIN, b"abc"));
        let bytes = Bytes::from_static(b"abc");
        let expected = [Event::Data { stream: 1, bytes }, Event::Ended { stream: 1 }];
        assert_eq!(events, expected);
        connection.send(1, b"answer");
        connection.end(1);
        connection.end(1);
        assert_eq!(
            *connection.output(),
            [of_data(1, 0, b"answer"), of_data(1, FLAG_FIN, b"")].concat()
        );
        assert!(connection.streams.is_empty());
    }

    #[test]
    fn a_long_frame_is_passed_on_in_the_pieces_it_comes_in() {
        let mut connection = opened();
        let frame = of_data(1, 0, &vec![7; 100_000]);
        let mut heard = 0;
        for piece in frame.chunks(1000) {
            for event in receive(&mut connection, piece) {
                let Event::Data { bytes, .. } = event else {
                    panic!("{event:?}");
                };
                assert!(bytes.len() <= 1000);
                heard += bytes.len();
            }
        }
        assert_eq!(heard, 100_000);
        assert!(connection.input.is_empty());
    }

    #[test]
    fn windows_are_kept_to_and_opened() {
        let mut connection = opened();
        let mut sent = 0;
        loop {
            let window = connection.window(1);
            if window == 0 {
                break;
            }
            connection.send(1, &vec![0; window]);
            sent += window;
        }
        assert_eq!(sent, 65536);
        receive(&mut connection, &of_pair(WINDOW_UPDATE, 1, 100));
        assert_eq!(
            connection.window(1),
            0,
            "the connection's own window is still closed"
        );
        receive(&mut connection, &of_pair(WINDOW_UPDATE, 0, 10));
        assert_eq!(connection.window(1), 10);
        connection.assume_no_flow_control();
        assert_eq!(connection.window(1), 10, "it is known to take part");
        connection.output().clear();
        connection.consumed(1, 40_000);
        let updates = [
            of_pair(WINDOW_UPDATE, 0, 40_000),
            of_pair(WINDOW_UPDATE, 1, 40_000),
        ];
        assert_eq!(*connection.output(), updates.concat());
    }

    #[test]
    fn a_peer_that_opens_no_window_is_taken_to_have_none() {
        let mut connection = opened();
        connection.send(1, &vec![0; 65536]);
        assert_eq!(connection.window(1), 0);
        assert!(connection.is_flow_control_in_doubt());
        connection.assume_no_flow_control();
        assert_eq!(connection.window(1), DATA_BYTES_MAX);
    }

    #[test]
    fn settings_change_the_windows_of_open_streams() {
        let mut connection = opened();
        connection.send(1, &[0; 1000]);
        let mut payload = 1_u32.to_be_bytes().to_vec();
        payload.extend_from_slice(&INITIAL_WINDOW_SIZE.to_be_bytes());
        payload.extend_from_slice(&500_u32.to_be_bytes());
        let mut bytes = Vec::new();
        control(SETTINGS, 0, &payload, &mut bytes);
        receive(&mut connection, &bytes);
        assert_eq!(connection.window(1), 0);
        receive(&mut connection, &of_pair(WINDOW_UPDATE, 1, 501));
        assert_eq!(connection.window(1), 1);
    }

    #[test]
    fn pings_of_clients_are_answered_and_answers_are_not() {
        let mut connection = Connection::default();
        for id in [1_u32, 2] {
            let mut bytes = Vec::new();
            control(PING, 0, &id.to_be_bytes(), &mut bytes);
            receive(&mut connection, &bytes);
        }
        assert_eq!(
            *connection.output(),
            [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]
        );
    }

    #[test]
    fn streams_beyond_the_limit_are_refused_one_by_one() {
        let (mut connection, mut writer) = (Connection::default(), HeaderWriter::default());
        for index in 0..u32::try_from(STREAMS_MAX).unwrap() {
            let bytes = open(index * 2 + 1, 0, &mut writer, "data");
            assert_eq!(receive(&mut connection, &bytes).len(), 1);
        }
        let bytes = open(99_999, 0, &mut writer, "data");
        assert!(receive(&mut connection, &bytes).is_empty());
        assert_eq!(
            *connection.output(),
            of_pair(RST_STREAM, 99_999, REFUSED_STREAM)
        );
    }

    #[test]
    fn data_for_nobody_is_thrown_away_and_said_once_per_frame() {
        let mut connection = opened();
        assert!(receive(&mut connection, &of_data(9, 0, b"abc")).is_empty());
        assert_eq!(*connection.output(), of_pair(RST_STREAM, 9, INVALID_STREAM));
        connection.output().clear();
        connection.reset(1);
        connection.output().clear();
        assert!(receive(&mut connection, &of_data(1, 0, b"late")).is_empty());
        assert!(connection.output().is_empty());
    }

    #[test]
    fn what_breaks_the_rules_ends_the_connection() {
        let mut second = open(3, 0, &mut HeaderWriter::default(), "x");
        second[11] = 2;
        let table: [(&str, Vec<u8>); 8] = [
            ("another version", vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
            ("too long", vec![0x80, 3, 0, 1, 0, 1, 0, 0]),
            ("cut short", vec![0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1]),
            (
                "no header block",
                vec![
                    0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9,
                ],
            ),
            ("an even stream", second),
            (
                "a ping with more",
                vec![0x80, 3, 0, 6, 0, 0, 0, 5, 0, 0, 0, 1, 0],
            ),
            (
                "settings that lie",
                vec![0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 9],
            ),
            ("a window too wide", of_pair(WINDOW_UPDATE, 0, 0x7fff_ffff)),
        ];
        for (what, bytes) in table {
            let result = Connection::default().receive(&bytes, &mut VecDeque::new());
            assert!(result.is_err(), "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            fuzz(&bytes);
        }

        #[test]
        fn pieces_make_no_difference(
            sizes in proptest::collection::vec(0_usize..3000, 1..8),
            cuts in proptest::collection::vec(1_usize..500, 1..64),
        ) {
            let mut writer = HeaderWriter::default();
            let mut bytes = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let stream = u32::try_from(index * 2 + 1).unwrap();
                bytes.extend(open(stream, 0, &mut writer, "data"));
                bytes.extend(of_data(stream, FLAG_FIN, &vec![9; *size]));
            }
            let mut whole = Connection::default();
            let expected = joined(receive(&mut whole, &bytes));
            let (mut pieces, mut rest, mut events) = (Connection::default(), bytes.as_slice(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                events.extend(receive(&mut pieces, piece));
                rest = after;
            }
            prop_assert_eq!(joined(events), expected);
        }
    }

    /// Data of one stream that comes in several events is one.
    fn joined(events: Vec<Event>) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut run = (0, 0);
        for event in events {
            if let Event::Data { stream, bytes } = &event
                && run.0 == *stream
            {
                run.1 += bytes.len();
                continue;
            }
            if run.0 != 0 {
                out.push(format!("{run:?}"));
                run = (0, 0);
            }
            match event {
                Event::Data { stream, bytes } => run = (stream, bytes.len()),
                Event::Opened { .. } | Event::Ended { .. } | Event::Reset { .. } => {
                    out.push(format!("{event:?}"))
                }
            }
        }
        out
    }
}

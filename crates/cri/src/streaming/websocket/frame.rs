//! Frames (RFC 6455, section 5).

use super::WebSocketError;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN_BIT: u8 = 0x80;
const MASK_BIT: u8 = 0x80;
const CONTROL_BYTES_MAX: usize = 125;
/// The longest head: two bytes, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

/// A normal end (section 7.4.1).
const NORMAL_CLOSURE: u16 = 1000;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Bytes of a message, unmasked.
    Payload {
        /// Whether they are the message's first.
        is_first: bool,
        /// Whether the message is text.
        is_text: bool,
        /// The bytes; of an empty message none.
        bytes: &'a [u8],
    },
    /// The message is whole.
    MessageEnd,
    /// To be answered with the same bytes.
    Ping(Vec<u8>),
    /// The peer is going.
    Close,
}

/// Takes frames of a client apart.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    head: Vec<u8>,
    frame: Option<Frame>,
    /// Of the message that is under way: whether it is text, and whether a byte of it was passed on.
    message: Option<(bool, bool)>,
    control: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    is_final: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Where in the mask the next byte is.
    offset: usize,
    left: u64,
}

impl Decoder {
    /// Takes bytes, which are unmasked in place, and passes on what they bring.
    pub(super) fn take<E: From<WebSocketError>>(
        &mut self,
        bytes: &mut [u8],
        mut pass: impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = 0;
        while at < bytes.len() {
            let Some(mut frame) = self.frame else {
                self.head.push(bytes[at]);
                at += 1;
                if let Some(frame) = self.parse_head()? {
                    self.head.clear();
                    self.begin(frame)?;
                    self.go_on(frame, &mut pass)?;
                }
                continue;
            };
            let rest = &mut bytes[at..];
            let count = usize::try_from(frame.left).map_or(rest.len(), |left| left.min(rest.len()));
            let piece = &mut rest[..count];
            at += count;
            frame.unmask(piece);
            self.pass_piece(frame, piece, &mut pass)?;
            self.go_on(frame, &mut pass)?;
        }
        Ok(())
    }

    /// The head of a frame, once it is whole.
    fn parse_head(&self) -> Result<Option<Frame>, WebSocketError> {
        let &[first, second, ref rest @ ..] = self.head.as_slice() else {
            return Ok(None);
        };
        if second & MASK_BIT == 0 {
            return Err(WebSocketError::Unmasked);
        }
        let (length_bytes, short) = match second & !MASK_BIT {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        let Some((length, mask)) = rest.split_at_checked(length_bytes) else {
            return Ok(None);
        };
        let Ok(mask) = <[u8; 4]>::try_from(mask) else {
            debug_assert!(self.head.len() < HEAD_BYTES_MAX);
            return Ok(None);
        };
        let length = length
            .iter()
            .fold(short, |length, byte| length << 8 | u64::from(*byte));
        if length > u64::MAX / 2 {
            return Err(WebSocketError::Length);
        }
        if first & 0x70 != 0 {
            return Err(WebSocketError::ReservedBits);
        }
        Ok(Some(Frame {
            is_final: first & FIN_BIT != 0,
            opcode: first & 0x0f,
            mask,
            offset: 0,
            left: length,
        }))
    }

    fn begin(&mut self, frame: Frame) -> Result<(), WebSocketError> {
        match (frame.opcode, self.message) {
            (TEXT | BINARY, None) => self.message = Some((frame.opcode == TEXT, false)),
            (CONTINUATION, Some(_)) => {}
            (TEXT | BINARY, Some(_)) | (CONTINUATION, None) => return Err(WebSocketError::Order),
            (CLOSE | PING | PONG, _) => {
                if !frame.is_final || frame.left > CONTROL_BYTES_MAX as u64 {
                    return Err(WebSocketError::Control);
                }
                self.control.clear();
            }
            (unknown, _) => return Err(WebSocketError::Opcode(unknown)),
        }
        Ok(())
    }

    fn pass_piece<E: From<WebSocketError>>(
        &mut self,
        frame: Frame,
        piece: &[u8],
        pass: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if frame.opcode >= CLOSE {
            self.control.extend_from_slice(piece);
            return Ok(());
        }
        let Some((is_text, has_begun)) = &mut self.message else {
            return Ok(());
        };
        let is_first = !std::mem::replace(has_begun, true);
        pass(Part::Payload {
            is_first,
            is_text: *is_text,
            bytes: piece,
        })
    }

    /// Waits for the rest of a frame, or acts on its end.
    fn go_on<E: From<WebSocketError>>(
        &mut self,
        frame: Frame,
        pass: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if frame.left > 0 {
            self.frame = Some(frame);
            return Ok(());
        }
        self.frame = None;
        match frame.opcode {
            CLOSE => pass(Part::Close),
            PING => pass(Part::Ping(std::mem::take(&mut self.control))),
            PONG => Ok(()),
            _ if frame.is_final => {
                self.message = None;
                pass(Part::MessageEnd)
            }
            _ => Ok(()),
        }
    }
}

impl Frame {
    fn unmask(&mut self, piece: &mut [u8]) {
        for byte in piece.iter_mut() {
            *byte ^= self.mask[self.offset % 4];
            self.offset += 1;
        }
        self.left -= piece.len() as u64;
    }
}

/// Appends a whole message of several parts.
pub(super) fn message(is_text: bool, parts: [&[u8]; 2], out: &mut Vec<u8>) {
    let opcode = if is_text { TEXT } else { BINARY };
    let length = parts[0].len() + parts[1].len();
    head(opcode, length, out);
    out.extend_from_slice(parts[0]);
    out.extend_from_slice(parts[1]);
}

/// Appends the answer to a ping.
pub(super) fn pong(payload: &[u8], out: &mut Vec<u8>) {
    head(PONG, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends the end of the connection.
pub(super) fn close(out: &mut Vec<u8>) {
    head(CLOSE, 2, out);
    out.extend_from_slice(&NORMAL_CLOSURE.to_be_bytes());
}

/// A server does not mask.
fn head(opcode: u8, length: usize, out: &mut Vec<u8>) {
    out.push(FIN_BIT | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        (_, Err(_)) => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// A client's frame, for tests.
#[cfg(test)]
pub(super) fn masked(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    head(opcode, payload.len(), &mut out);
    out[0] = opcode | if is_final { FIN_BIT } else { 0 };
    out[1] |= MASK_BIT;
    let mask = [1, 2, 3, 4];
    out.extend_from_slice(&mask);
    out.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts_of(bytes: &[u8], piece_bytes: usize) -> Result<Vec<String>, WebSocketError> {
        let (mut decoder, mut parts, mut text) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece_bytes) {
            decoder.take(&mut piece.to_vec(), |part| {
                match part {
                    Part::Payload { bytes, .. } => text.extend_from_slice(bytes),
                    Part::MessageEnd => {
                        parts.push(format!("message {}", String::from_utf8_lossy(&text)));
                        text.clear();
                    }
                    Part::Ping(bytes) => parts.push(format!("ping {}", bytes.len())),
                    Part::Close => parts.push("close".to_owned()),
                }
                Ok::<_, WebSocketError>(())
            })?;
        }
        Ok(parts)
    }

    #[test]
    fn messages_in_pieces_with_control_frames_between_come_out_whole() {
        let bytes = [
            masked(BINARY, false, b"ab"),
            masked(PING, true, b"now"),
            masked(CONTINUATION, true, &[b'c'; 70_000]),
            masked(TEXT, true, b""),
            masked(PONG, true, b"x"),
            masked(CLOSE, true, &[3, 232]),
        ]
        .concat();
        let long = format!("message ab{}", "c".repeat(70_000));
        for piece_bytes in [1, 7, 1000, 1 << 20] {
            let parts = parts_of(&bytes, piece_bytes).unwrap();
            assert_eq!(parts, ["ping 3", long.as_str(), "message ", "close"]);
        }
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        let unmasked = vec![0x82, 0];
        let mut reserved = masked(BINARY, true, b"");
        reserved[0] |= 0x40;
        let mut endless = vec![0x82, 0xff];
        endless.extend_from_slice(&[0xff; 12]);
        let table = [
            (unmasked, WebSocketError::Unmasked),
            (reserved, WebSocketError::ReservedBits),
            (endless, WebSocketError::Length),
            (masked(3, true, b""), WebSocketError::Opcode(3)),
            (masked(PING, false, b""), WebSocketError::Control),
            (masked(PING, true, &[0; 126]), WebSocketError::Control),
            (masked(CONTINUATION, true, b""), WebSocketError::Order),
            (
                [masked(TEXT, false, b"a"), masked(TEXT, true, b"b")].concat(),
                WebSocketError::Order,
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(parts_of(&bytes, 1).unwrap_err(), expected);
        }
    }

    #[test]
    fn lengths_of_all_sizes_are_written() {
        for (length, head) in [
            (0, vec![0x82, 0]),
            (125, vec![0x82, 125]),
            (126, vec![0x82, 126, 0, 126]),
            (65_535, vec![0x82, 126, 255, 255]),
            (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            message(false, [&[], &vec![0; length]], &mut out);
            assert_eq!(out[..head.len()], head);
            assert_eq!(out.len(), head.len() + length);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..500), piece in 1_usize..64) {
            // Whether they are frames is not the question.
            parts_of(&bytes, piece).ok();
        }
    }
}

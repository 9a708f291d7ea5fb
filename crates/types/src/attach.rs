//! What a shim and the daemon say to each other over a container's attach socket.
//!
//! ```text
//! <bundle>/attach.sock
//!
//! frame  = kind (1 byte), length of the payload (3 bytes, big-endian, at most 64 KiB), payload
//! daemon   Hello, then Input and InputEnd
//! shim     Output and Error as the container writes them, Cut before it hangs up on a client, End after the last output
//! ```
//!
//! A receiver hangs up on a frame it does not know: both ends are of one version, or the one that was started last is newer
//! and keeps to what the older one knows.

/// The name of the socket in the bundle.
pub const ATTACH_SOCKET: &str = "attach.sock";

/// The longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Kind and length.
pub const HEADER_BYTES: usize = 4;

/// The version of [`Hello`] that is sent.
const VERSION: u8 = 1;

/// What a client wants to hear and to say; the first frame on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hello {
    /// It has standard input to give.
    pub stdin: bool,
    /// It wants standard output.
    pub stdout: bool,
    /// It wants standard error.
    pub stderr: bool,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Who the client is.
    Hello(Hello),
    /// Bytes for standard input.
    Input(&'a [u8]),
    /// The client has no more standard input.
    InputEnd,
    /// Bytes of standard output.
    Output(&'a [u8]),
    /// Bytes of standard error.
    Error(&'a [u8]),
    /// The client is hung up on, for this reason.
    Cut(&'a str),
    /// The container has ended and all its output was sent.
    End,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// The kind is not known.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[error("a frame of {0} bytes, more than {PAYLOAD_BYTES_MAX}")]
    TooLong(usize),
    /// The payload does not fit its kind.
    #[error("the payload of a frame of kind {0} is not sound")]
    Payload(u8),
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` begin with and how long it is; nothing if more bytes are needed.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, BadFrame> {
        let Some((&[kind, high, middle, low], rest)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > PAYLOAD_BYTES_MAX {
            return Err(BadFrame::TooLong(length));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = match kind {
            0 => Self::Hello(Hello::decode(payload).ok_or(BadFrame::Payload(kind))?),
            1 => Self::Input(payload),
            2 => Self::InputEnd,
            3 => Self::Output(payload),
            4 => Self::Error(payload),
            5 => {
                let reason = std::str::from_utf8(payload);
                Self::Cut(reason.map_err(|_| BadFrame::Payload(kind))?)
            }
            6 => Self::End,
            unknown => return Err(BadFrame::Kind(unknown)),
        };
        Ok(Some((frame, HEADER_BYTES + length)))
    }

    /// Appends the frame to `out`. A payload that is too long is cut: callers send long data in pieces.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let hello;
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Hello(greeting) => {
                hello = greeting.encode();
                (0, &hello)
            }
            Self::Input(bytes) => (1, bytes),
            Self::InputEnd => (2, &[]),
            Self::Output(bytes) => (3, bytes),
            Self::Error(bytes) => (4, bytes),
            Self::Cut(reason) => (5, reason.as_bytes()),
            Self::End => (6, &[]),
        };
        debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        let payload = &payload[..payload.len().min(PAYLOAD_BYTES_MAX)];
        let [_, _, _, _, _, high, middle, low] = (payload.len() as u64).to_be_bytes();
        out.extend_from_slice(&[kind, high, middle, low]);
        out.extend_from_slice(payload);
    }
}

impl Hello {
    const fn encode(self) -> [u8; 2] {
        [
            VERSION,
            self.stdin as u8 | (self.stdout as u8) << 1 | (self.stderr as u8) << 2,
        ]
    }

    /// A newer version may have more behind what this one knows.
    fn decode(payload: &[u8]) -> Option<Self> {
        let (version, flags) = (*payload.first()?, *payload.get(1)?);
        (version >= VERSION).then_some(Self {
            stdin: flags & 1 != 0,
            stdout: flags & 2 != 0,
            stderr: flags & 4 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        stdin: true,
        stdout: false,
        stderr: true,
    };

    #[test]
    fn a_frame_comes_back_from_its_bytes_and_from_no_fewer() {
        let long = vec![7; PAYLOAD_BYTES_MAX];
        let frames = [
            Frame::Hello(HELLO),
            Frame::Input(b"in"),
            Frame::InputEnd,
            Frame::Output(&long),
            Frame::Error(b""),
            Frame::Cut("too slow"),
            Frame::End,
        ];
        for frame in frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            assert_eq!(Frame::decode(&bytes[..bytes.len() - 1]), Ok(None));
            assert_eq!(Frame::decode(&bytes), Ok(Some((frame, bytes.len()))));
            bytes.push(0xff);
            assert_eq!(Frame::decode(&bytes), Ok(Some((frame, bytes.len() - 1))));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_its_payload_is_awaited() {
        let table: [(&[u8], BadFrame); 5] = [
            (&[9, 0, 0, 0], BadFrame::Kind(9)),
            (&[3, 1, 0, 1], BadFrame::TooLong(65537)),
            (&[0, 0, 0, 1, 1], BadFrame::Payload(0)),
            (&[0, 0, 0, 2, 0, 7], BadFrame::Payload(0)),
            (&[5, 0, 0, 1, 0xff], BadFrame::Payload(5)),
        ];
        for (bytes, expected) in table {
            assert_eq!(Frame::decode(bytes), Err(expected), "{bytes:?}");
        }
    }
}

//! Frames: a header of ten bytes, then data.
//!
//! ```text
//! | data length, u32 BE | stream id, u32 BE | type, u8 | flags, u8 | data … |
//! ```

/// The most data a frame may carry, in bytes.
pub const DATA_BYTES_MAX: usize = 4 << 20;
/// The length of a header, in bytes.
pub const HEADER_BYTES: usize = 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameType {
    /// Opens a stream.
    Request,
    /// Ends a stream.
    Response,
    /// Goes on with a stream.
    Data,
    /// A type this version does not know; to be skipped.
    Other(u8),
}

impl FrameType {
    fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Data,
            other => Self::Other(other),
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
            Self::Other(byte) => byte,
        }
    }
}

/// The sender sends no more data on this stream.
pub const FLAG_REMOTE_CLOSED: u8 = 0x01;
/// The sender goes on sending data on this stream.
pub const FLAG_REMOTE_OPEN: u8 = 0x02;
/// The frame has no data, as opposed to an empty message.
pub const FLAG_NO_DATA: u8 = 0x04;

/// The ten bytes before the data, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of data that follow.
    pub length: u32,
    /// The stream.
    pub stream: u32,
    /// What the frame is.
    pub kind: FrameType,
    /// `FLAG_*`.
    pub flags: u8,
}

impl Header {
    /// Reads ten bytes. Every ten bytes are a header; whether it is acceptable is the decoder's business.
    #[must_use]
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = bytes;
        Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind: FrameType::from_wire(kind),
            flags,
        }
    }

    /// Writes ten bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let kind = self.kind.to_wire();
        [l0, l1, l2, l3, s0, s1, s2, s3, kind, self.flags]
    }
}

/// One frame, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The stream.
    pub stream: u32,
    /// What the frame is.
    pub kind: FrameType,
    /// `FLAG_*`.
    pub flags: u8,
    /// At most [`DATA_BYTES_MAX`] bytes.
    pub data: Vec<u8>,
}

/// What is wrong with a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame announces or would need more data than allowed. The stream of bytes stays in step, because
    /// the decoder skips what it refuses.
    #[error(
        "a frame of {length} bytes on stream {stream} exceeds the limit of {DATA_BYTES_MAX} bytes"
    )]
    TooLarge {
        /// The stream.
        stream: u32,
        /// The data's length in bytes.
        length: usize,
    },
    /// The first byte of a header is reserved and must be 0: this peer does not speak ttrpc. Close the connection.
    #[error("the reserved first byte of a frame is {byte:#04x}: the peer does not speak ttrpc")]
    NotTtrpc {
        /// The byte.
        byte: u8,
    },
}

/// Appends one frame to `output`.
///
/// # Errors
/// The data is too large; nothing was appended.
pub fn encode(
    output: &mut Vec<u8>,
    stream: u32,
    kind: FrameType,
    flags: u8,
    data: &[u8],
) -> Result<(), FrameError> {
    let length = data.len();
    let wire_length = u32::try_from(length).ok();
    let Some(wire_length) = wire_length.filter(|_| length <= DATA_BYTES_MAX) else {
        return Err(FrameError::TooLarge { stream, length });
    };
    let header = Header {
        length: wire_length,
        stream,
        kind,
        flags,
    };
    output.reserve(HEADER_BYTES + length);
    output.extend_from_slice(&header.encode());
    output.extend_from_slice(data);
    Ok(())
}

/// Cuts a stream of bytes into frames.
///
/// Memory: at most one frame, plus what the last [`Decoder::push`] brought. When no partial frame is held the
/// buffer is given back, so that an idle connection costs nothing.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    consumed: usize,
    skip: usize,
}

impl Decoder {
    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let bytes = &bytes[skipped..];
        if bytes.is_empty() {
            return;
        }
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one. Call until `Ok(None)` after every [`Decoder::push`].
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]: the frame is skipped, go on. [`FrameError::NotTtrpc`]: close the connection.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.consumed..];
        let Some(head) = rest.first_chunk::<HEADER_BYTES>() else {
            if let Some(byte) = rest.first().copied().filter(|byte| *byte != 0) {
                return Err(FrameError::NotTtrpc { byte });
            }
            self.give_back();
            return Ok(None);
        };
        if head[0] != 0 {
            return Err(FrameError::NotTtrpc { byte: head[0] });
        }
        let header = Header::decode(*head);
        let length = header.length as usize;
        if length > DATA_BYTES_MAX {
            self.skip_data(length);
            return Err(FrameError::TooLarge {
                stream: header.stream,
                length,
            });
        }
        let Some(data) = rest.get(HEADER_BYTES..HEADER_BYTES + length) else {
            return Ok(None);
        };
        let frame = Frame {
            stream: header.stream,
            kind: header.kind,
            flags: header.flags,
            data: data.to_vec(),
        };
        self.consumed += HEADER_BYTES + length;
        Ok(Some(frame))
    }

    fn skip_data(&mut self, length: usize) {
        let present = self.buffer.len() - self.consumed - HEADER_BYTES;
        let skipped = present.min(length);
        self.consumed += HEADER_BYTES + skipped;
        self.skip = length - skipped;
    }

    fn give_back(&mut self) {
        if self.consumed == self.buffer.len() {
            self.buffer = Vec::new();
            self.consumed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        let mut output = Vec::new();
        encode(
            &mut output,
            frame.stream,
            frame.kind,
            frame.flags,
            &frame.data,
        )
        .unwrap();
        output
    }

    fn request(stream: u32, data: &[u8]) -> Frame {
        Frame {
            stream,
            kind: FrameType::Request,
            flags: 0,
            data: data.to_vec(),
        }
    }

    #[test]
    fn the_header_is_big_endian_as_the_protocol_says() {
        let mut output = Vec::new();
        encode(
            &mut output,
            0x0102_0305,
            FrameType::Data,
            FLAG_NO_DATA,
            b"ab",
        )
        .unwrap();
        assert_eq!(output, [0, 0, 0, 2, 1, 2, 3, 5, 3, 4, b'a', b'b']);
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_in_both_directions_and_the_next_one_is_read() {
        let huge = vec![0; DATA_BYTES_MAX + 1];
        let mut output = Vec::new();
        let refusal = encode(&mut output, 1, FrameType::Request, 0, &huge);
        assert!(matches!(
            refusal,
            Err(FrameError::TooLarge { stream: 1, .. })
        ));
        assert!(output.is_empty());

        let mut decoder = Decoder::default();
        let header = Header {
            length: u32::try_from(huge.len()).unwrap(),
            stream: 5,
            kind: FrameType::Request,
            flags: 0,
        };
        decoder.push(&header.encode());
        decoder.push(&huge[..7]);
        assert!(matches!(
            decoder.next_frame(),
            Err(FrameError::TooLarge { stream: 5, .. })
        ));
        assert_eq!(decoder.next_frame(), Ok(None));
        decoder.push(&huge[7..]);
        assert_eq!(decoder.next_frame(), Ok(None));
        let next = request(7, b"x");
        decoder.push(&bytes_of(&next));
        assert_eq!(decoder.next_frame(), Ok(Some(next)));
    }

    #[test]
    fn a_peer_that_speaks_something_else_is_noticed_at_its_first_byte() {
        let mut decoder = Decoder::default();
        decoder.push(b"GET / HTTP/1.1\r\n");
        assert_eq!(
            decoder.next_frame(),
            Err(FrameError::NotTtrpc { byte: b'G' })
        );
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in proptest::collection::vec((any::<u32>(), 1u8..6, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..64)), 0..8),
            cut in 1usize..40,
        ) {
            let frames: Vec<Frame> = frames
                .into_iter()
                .map(|(stream, kind, flags, data)| Frame { stream, kind: FrameType::from_wire(kind), flags, data })
                .collect();
            let bytes: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            prop_assert_eq!(found, frames);
            prop_assert_eq!(decoder.buffer.capacity(), 0);
        }

        #[test]
        fn no_bytes_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            for _ in 0..40 {
                match decoder.next_frame() {
                    Ok(Some(_)) | Err(FrameError::TooLarge { .. }) => {}
                    Ok(None) | Err(FrameError::NotTtrpc { .. }) => break,
                }
            }
        }
    }
}

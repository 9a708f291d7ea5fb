//! Frames as bytes (draft 3, section 2.2).

use super::SpdyError;

pub(super) const SYN_STREAM: u16 = 1;
pub(super) const SYN_REPLY: u16 = 2;
pub(super) const RST_STREAM: u16 = 3;
pub(super) const SETTINGS: u16 = 4;
pub(super) const PING: u16 = 6;
pub(super) const GOAWAY: u16 = 7;
pub(super) const HEADERS: u16 = 8;
pub(super) const WINDOW_UPDATE: u16 = 9;

pub(super) const FLAG_FIN: u8 = 1;

/// Of RST_STREAM.
pub(super) const INVALID_STREAM: u32 = 2;
pub(super) const REFUSED_STREAM: u32 = 3;
pub(super) const CANCEL: u32 = 5;
pub(super) const STREAM_ALREADY_CLOSED: u32 = 9;

/// Of SETTINGS.
pub(super) const INITIAL_WINDOW_SIZE: u32 = 7;

/// The length of every frame's head.
pub(super) const HEAD_BYTES: usize = 8;
/// The longest control frame, without its head.
pub(super) const CONTROL_BYTES_MAX: usize = 16 << 10;

const VERSION: u16 = 3;
const CONTROL_BIT: u8 = 0x80;
const STREAM_MASK: u32 = 0x7fff_ffff;

/// What a frame's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Control {
        kind: u16,
        flags: u8,
        length: usize,
    },
    Data {
        stream: u32,
        flags: u8,
        length: usize,
    },
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Self, SpdyError> {
        let [a, b, c, d, flags, high, middle, low] = bytes;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if a & CONTROL_BIT == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Self::Data {
                stream,
                flags,
                length,
            });
        }
        let version = u16::from_be_bytes([a & !CONTROL_BIT, b]);
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(SpdyError::TooLong(length));
        }
        let kind = u16::from_be_bytes([c, d]);
        Ok(Self::Control {
            kind,
            flags,
            length,
        })
    }
}

/// Two numbers of 31 bits, as many frames have.
pub(super) fn pair(kind: u16, payload: &[u8]) -> Result<(u32, u32), SpdyError> {
    let (first, rest) = payload
        .split_first_chunk()
        .ok_or(SpdyError::Malformed(kind))?;
    let second = rest.try_into().map_err(|_| SpdyError::Malformed(kind))?;
    Ok((
        u32::from_be_bytes(*first) & STREAM_MASK,
        u32::from_be_bytes(second) & STREAM_MASK,
    ))
}

/// One number of 31 bits, and what follows it.
pub(super) fn number(kind: u16, payload: &[u8]) -> Result<(u32, &[u8]), SpdyError> {
    let (first, rest) = payload
        .split_first_chunk()
        .ok_or(SpdyError::Malformed(kind))?;
    Ok((u32::from_be_bytes(*first) & STREAM_MASK, rest))
}

pub(super) fn control(kind: u16, flags: u8, payload: &[u8], out: &mut Vec<u8>) {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let [version, kind] = [VERSION.to_be_bytes(), kind.to_be_bytes()];
    out.extend_from_slice(&[version[0] | CONTROL_BIT, version[1], kind[0], kind[1]]);
    out.extend_from_slice(&[flags, high, middle, low]);
    out.extend_from_slice(payload);
}

pub(super) fn control_pair(kind: u16, first: u32, second: u32, out: &mut Vec<u8>) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&first.to_be_bytes());
    payload[4..].copy_from_slice(&second.to_be_bytes());
    control(kind, 0, &payload, out);
}

pub(super) fn data(stream: u32, flags: u8, bytes: &[u8], out: &mut Vec<u8>) {
    let [_, high, middle, low] = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&(stream & STREAM_MASK).to_be_bytes());
    out.extend_from_slice(&[flags, high, middle, low]);
    out.extend_from_slice(bytes);
}

//! One 512-byte header block: v7, ustar, GNU and star (POSIX.1-2017 pax, "ustar Interchange Format").

use super::BLOCK_BYTES;
use super::error::TarError;

/// A raw header block whose checksum has been verified.
#[derive(Clone, Copy)]
pub(crate) struct Header<'a> {
    block: &'a [u8; BLOCK_BYTES],
}

/// Which dialect a header is written in; it decides what the last 167 bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl<'a> Header<'a> {
    /// Wraps a block, checking its sum.
    pub(crate) fn new(block: &'a [u8; BLOCK_BYTES], position: u64) -> Result<Self, TarError> {
        let header = Self { block };
        let stored = octal(&block[148..156]).ok_or(TarError::Checksum { position })?;
        if header.sums().contains(&stored) {
            Ok(header)
        } else {
            Err(TarError::Checksum { position })
        }
    }

    /// The sum over unsigned bytes, and over signed ones as some old writers made it.
    fn sums(&self) -> [i64; 2] {
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, byte) in self.block.iter().enumerate() {
            let byte = if (148..156).contains(&index) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        [unsigned, signed]
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match &self.block[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") => {
                if &self.block[508..512] == b"tar\0" {
                    Dialect::Star
                } else {
                    Dialect::Ustar
                }
            }
            _ => Dialect::V7,
        }
    }

    pub(crate) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    /// The name, with the prefix that ustar and star have in front.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.block[..100]);
        let prefix = match self.dialect() {
            Dialect::Ustar => until_nul(&self.block[345..500]),
            Dialect::Star => until_nul(&self.block[345..476]),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(crate) fn link_name(&self) -> &'a [u8] {
        until_nul(&self.block[157..257])
    }

    pub(crate) fn mode(&self) -> Result<i64, TarError> {
        self.number(100..108, "mode")
    }

    pub(crate) fn uid(&self) -> Result<i64, TarError> {
        self.number(108..116, "uid")
    }

    pub(crate) fn gid(&self) -> Result<i64, TarError> {
        self.number(116..124, "gid")
    }

    pub(crate) fn size(&self) -> Result<i64, TarError> {
        self.number(124..136, "size")
    }

    /// Whether the size field holds the largest octal number, which some writers put there when the true size,
    /// in the extended header, does not fit.
    pub(crate) fn size_is_saturated(&self) -> bool {
        self.block[124..135].iter().all(|byte| *byte == b'7')
    }

    pub(crate) fn mtime(&self) -> Result<i64, TarError> {
        self.number(136..148, "mtime")
    }

    pub(crate) fn device_number(&self) -> Result<(i64, i64), TarError> {
        match self.dialect() {
            Dialect::V7 => Ok((0, 0)),
            Dialect::Ustar | Dialect::Star | Dialect::Gnu => Ok((
                self.number(329..337, "device major")?,
                self.number(337..345, "device minor")?,
            )),
        }
    }

    /// The four sparse slots, whether more follow, and the real size: old GNU only.
    pub(crate) fn gnu_sparse(&self) -> (&'a [u8], bool, &'a [u8]) {
        (
            &self.block[386..482],
            self.block[482] != 0,
            &self.block[483..495],
        )
    }

    fn number(&self, range: std::ops::Range<usize>, field: &'static str) -> Result<i64, TarError> {
        let bytes = &self.block[range];
        number(bytes).ok_or_else(|| {
            TarError::field(
                &self.name(),
                field,
                format!("{:?} is no number", bytes.escape_ascii().to_string()),
            )
        })
    }
}

/// A numeric field: octal text, or base 256 when the first bit is set (GNU and star, for large and negative numbers).
pub(crate) fn number(bytes: &[u8]) -> Option<i64> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => base_256(bytes),
        Some(_) => octal(bytes),
        None => None,
    }
}

/// Two's complement, big-endian; the top bit is the marker and the next one the sign.
fn base_256(bytes: &[u8]) -> Option<i64> {
    let negative = bytes[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (index, byte) in bytes.iter().enumerate() {
        let byte = match (index, negative) {
            (0, false) => byte & 0x7f,
            (_, _) => *byte,
        };
        value = (value << 8) | i128::from(byte);
        if i64::try_from(value).is_err() {
            return None;
        }
    }
    i64::try_from(value).ok()
}

/// Octal digits, padded with spaces or NULs on either side; an empty field is zero.
fn octal(bytes: &[u8]) -> Option<i64> {
    let start = bytes.iter().position(|b| *b != b' ' && *b != 0);
    let Some(start) = start else { return Some(0) };
    let digits = &bytes[start..];
    let end = digits
        .iter()
        .position(|b| *b == b' ' || *b == 0)
        .unwrap_or(digits.len());
    let mut value = 0_i64;
    for digit in &digits[..end] {
        let digit = match digit {
            b'0'..=b'7' => digit - b'0',
            _ => return None,
        };
        value = value.checked_mul(8)?.checked_add(i64::from(digit))?;
    }
    Some(value)
}

pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (bytes, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(8 << 30)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Some(-1),
            ),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"12x", None),
            (b"-1", None),
        ] {
            assert_eq!(number(bytes), expected, "for {}", bytes.escape_ascii());
        }
    }
}

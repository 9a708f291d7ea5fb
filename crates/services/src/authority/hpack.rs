//! Finds `:authority` in an HPACK header block and replaces a value that the HTTP library would refuse.
//!
//! The peer's table of past headers and ours must stay the same size, or they would drop entries at different times:
//! the replacement is as long as the original, so every entry keeps its size (RFC 7541, section 4.1).

use std::ops::Range;

use super::huffman;

/// The index of `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY_NAME: &[u8] = b":authority";

/// Integers of a header block never need more: blocks are bounded by the frame's 24-bit length.
const INTEGER_BYTES_MAX: usize = 4;

/// The block with every odd `:authority` replaced; nothing when there is none, or the block is not HPACK.
pub(super) fn repair(block: &[u8]) -> Option<Vec<u8>> {
    let mut repaired = Vec::with_capacity(block.len() + 32);
    let mut copied = 0;
    let mut cursor = Cursor { block, at: 0 };
    while cursor.at < block.len() {
        let Some(literal) = cursor.field()? else {
            continue;
        };
        if let Some(length) = odd_length(&literal) {
            repaired.extend_from_slice(&block[copied..literal.place.start]);
            push_string(&mut repaired, length);
            copied = literal.place.end;
        }
    }
    if copied == 0 {
        return None;
    }
    repaired.extend_from_slice(&block[copied..]);
    Some(repaired)
}

/// The length of a value that stands for no host, once decoded.
fn odd_length(value: &Literal<'_>) -> Option<usize> {
    let text = value.decoded()?;
    let is_usable = text.is_empty() || http::uri::Authority::try_from(text.as_slice()).is_ok();
    (!is_usable).then_some(text.len())
}

/// A plain string of `length` bytes that is a fine host name.
fn push_string(out: &mut Vec<u8>, length: usize) {
    // The seven bits of the first byte hold lengths up to 126; longer ones go on in groups of seven.
    let (prefix, mut rest) = (length.min(127), length.checked_sub(127));
    out.push(u8::try_from(prefix).unwrap_or(127));
    while let Some(value) = rest {
        let more = value >> 7;
        let group = u8::try_from(value & 127).unwrap_or(127);
        out.push(if more > 0 { group | 128 } else { group });
        rest = (more > 0).then_some(more);
    }
    out.resize(out.len() + length, b'x');
}

/// A string literal: where it stands, its length included, and what it holds.
struct Literal<'a> {
    place: Range<usize>,
    huffman: bool,
    bytes: &'a [u8],
}

impl Literal<'_> {
    fn decoded(&self) -> Option<Vec<u8>> {
        if self.huffman {
            huffman::decode(self.bytes)
        } else {
            Some(self.bytes.to_vec())
        }
    }
}

struct Cursor<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Steps over one representation (RFC 7541, section 6); gives the value when it is a literal `:authority`.
    ///
    /// The outer `None` is a block that ends early or is not HPACK.
    fn field(&mut self) -> Option<Option<Literal<'a>>> {
        let first = *self.block.get(self.at)?;
        let index_bits = match first {
            128.. => {
                self.integer(7)?;
                return Some(None);
            }
            64.. => 6,
            32.. => {
                self.integer(5)?;
                return Some(None);
            }
            _ => 4,
        };
        let is_authority = match self.integer(index_bits)? {
            0 => self.string()?.decoded()? == AUTHORITY_NAME,
            index => index == AUTHORITY_INDEX,
        };
        let value = self.string()?;
        Some(is_authority.then_some(value))
    }

    fn string(&mut self) -> Option<Literal<'a>> {
        let start = self.at;
        let huffman = self.block.get(start)? & 128 != 0;
        let length = self.integer(7)?;
        let end = self.at.checked_add(length)?;
        let bytes = self.block.get(self.at..end)?;
        self.at = end;
        Some(Literal {
            place: start..end,
            huffman,
            bytes,
        })
    }

    /// An integer whose first byte holds `bits` of it (RFC 7541, section 5.1).
    fn integer(&mut self, bits: u8) -> Option<usize> {
        let mask = u8::MAX >> (8 - bits);
        let prefix = self.next()? & mask;
        let mut value = usize::from(prefix);
        if prefix < mask {
            return Some(value);
        }
        for group in 0..INTEGER_BYTES_MAX {
            let byte = self.next()?;
            value += usize::from(byte & 127) << (7 * group);
            if byte & 128 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn next(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with `:method POST`, the authority in the given form, and `te: trailers`.
    fn block(authority: &[u8]) -> Vec<u8> {
        [b"\x83", authority, b"\x00\x02te\x08trailers"].concat()
    }

    #[test]
    fn an_odd_authority_is_replaced_by_one_of_the_same_length() {
        for form in [&b"\x41"[..], b"\x01", b"\x11", b"\x40\x0a:authority"] {
            let odd = [form, b"\x0b/run/x.sock"].concat();
            let fine = [form, b"\x0bxxxxxxxxxxx"].concat();
            assert_eq!(repair(&block(&odd)), Some(block(&fine)), "{form:?}");
        }
    }

    #[test]
    fn a_coded_authority_keeps_its_decoded_length() {
        // "/a" in Huffman's code: 011000 00011, and five ones.
        let odd = b"\x41\x82\x60\x7f";
        assert_eq!(repair(&block(odd)), Some(block(b"\x41\x02xx")));
    }

    #[test]
    fn a_long_authority_is_written_with_a_long_length() {
        for length in [126_usize, 127, 128, 300, 5000] {
            let mut out = Vec::new();
            push_string(&mut out, length);
            let mut cursor = Cursor { block: &out, at: 0 };
            assert_eq!(cursor.string().unwrap().bytes.len(), length);
            assert_eq!(cursor.at, out.len());
        }
    }

    #[test]
    fn what_is_fine_or_no_header_block_stays_as_it_is() {
        for fine in [
            block(b"\x41\x09localhost"),
            block(b"\x41\x00"),
            block(b"\xbe"),
            block(b"\x3f\x02\x81"),
            block(b"\x41\x7f"),
            b"\x41\xff\xff\xff\xff\xff\xff".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(repair(&fine), None, "{fine:?}");
        }
    }
}

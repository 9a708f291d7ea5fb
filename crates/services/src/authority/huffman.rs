//! HPACK's Huffman code (RFC 7541, appendix B): reading only.
//!
//! The code is canonical, so the lengths of the codes say everything: among codes of one length, symbols ascend.

/// The length in bits of every byte's code.
const CODE_BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
];

/// The longest code, in bits.
const BITS_MAX: u8 = 30;

/// Decodes a whole string; nothing when it is not one.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(coded.len() * 2);
    let mut reader = Reader::default();
    for byte in coded {
        for shift in (0..8).rev() {
            if let Some(symbol) = reader.push(byte >> shift & 1)? {
                text.push(symbol);
            }
        }
    }
    reader.is_padding().then_some(text)
}

/// A code read so far, and where the codes of its length begin.
#[derive(Default)]
struct Reader {
    code: u32,
    bits: u8,
    first: u32,
}

impl Reader {
    /// Takes one bit. The outer `None` is a code that does not exist.
    fn push(&mut self, bit: u8) -> Option<Option<u8>> {
        self.code = self.code << 1 | u32::from(bit);
        // Codes of one more bit begin where those of the present length end.
        self.first = (self.first + codes_of(self.bits)) << 1;
        self.bits += 1;
        if self.bits > BITS_MAX {
            return None;
        }
        let Some(symbol) = self.symbol() else {
            return Some(None);
        };
        *self = Self::default();
        Some(Some(symbol))
    }

    fn symbol(&self) -> Option<u8> {
        let place = usize::try_from(self.code.checked_sub(self.first)?).ok()?;
        let same_length = (0..=u8::MAX).filter(|byte| CODE_BITS[usize::from(*byte)] == self.bits);
        same_length.clone().nth(place)
    }

    /// What is left must be the front of the end symbol: fewer than eight ones.
    const fn is_padding(&self) -> bool {
        self.bits < 8 && self.code == (1 << self.bits) - 1
    }
}

fn codes_of(bits: u8) -> u32 {
    let count = CODE_BITS.iter().filter(|length| **length == bits).count();
    u32::try_from(count).expect("there are 256 codes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_decode() {
        for (coded, text) in [
            (
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x64, 0x02], "302"),
            (&[], ""),
        ] {
            assert_eq!(decode(coded).as_deref(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn wrong_padding_and_the_end_symbol_are_refused() {
        for bad in [&[0x18][..], &[0xff; 4], &[0xff]] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}

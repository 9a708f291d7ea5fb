//! Byte sizes: `32MiB` in a file or on the command line, `31.8 MiB` on a screen.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Written exactly: `32MiB`, `1500`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(u64);

/// What is wrong with the text of a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a unit.
    #[error("{0:?} is not a size: write a number with B, KiB, MiB, GiB or TiB, such as 32MiB")]
    Malformed(String),
    /// A unit nobody knows.
    #[error("{unit:?} is not a unit of size: use B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB")]
    UnknownUnit {
        /// The unit as given.
        unit: String,
    },
    /// More than 2^64-1 bytes.
    #[error("{0:?} is more than 16 EiB")]
    TooLarge(String),
}

/// Exact multiples, largest first; the spellings of `docker run --memory` (`m`, `g`) are binary there and here.
const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
    ("", 1),
    ("t", 1 << 40),
    ("g", 1 << 30),
    ("m", 1 << 20),
    ("k", 1 << 10),
];

impl ByteSize {
    /// This many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many KiB.
    #[must_use]
    pub const fn kib(count: u32) -> Self {
        Self((count as u64) << 10)
    }

    /// This many MiB.
    #[must_use]
    pub const fn mib(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// This many GiB.
    #[must_use]
    pub const fn gib(count: u32) -> Self {
        Self((count as u64) << 30)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory, at most `usize::MAX`.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let malformed = || SizeError::Malformed(text.to_owned());
        let too_large = || SizeError::TooLarge(text.to_owned());
        let trimmed = text.trim();
        let digits_end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits_end);
        let factor = factor(unit.trim())?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // "1.5GiB" is common; nine decimals are exact enough for any size and keep the product within 128 bits.
        if whole.is_empty() || fraction.len() > 9 || number.ends_with('.') {
            return Err(malformed());
        }
        let whole: u128 = whole.parse().map_err(|_| too_large())?;
        let fraction_scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| malformed())?);
        let fraction: u128 = match fraction {
            "" => 0,
            digits => digits.parse().map_err(|_| malformed())?,
        };
        let bytes = whole
            .checked_mul(u128::from(factor))
            .and_then(|b| b.checked_add(fraction * u128::from(factor) / fraction_scale))
            .ok_or_else(too_large)?;
        u64::try_from(bytes).map(Self).map_err(|_| too_large())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => write!(formatter, "{}{unit}", self.0 / factor),
            None => write!(formatter, "{}", self.0),
        }
    }
}

impl TryFrom<String> for ByteSize {
    type Error = SizeError;

    fn try_from(text: String) -> Result<Self, SizeError> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

/// `bytes` for a screen: three or four digits and a binary unit, such as `31.8 MiB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    // In tenths, rounded: 1023.96 KiB has to become 1.0 MiB and not 1024.0 KiB.
    let tenths = |unit: usize| {
        let factor = 1_u128 << (10 * (unit + 1));
        (u128::from(bytes) * 10 + factor / 2) / factor
    };
    while tenths(unit) >= 10_240 && unit + 1 < NAMES.len() {
        unit += 1;
    }
    let value = tenths(unit);
    format!("{}.{} {}", value / 10, value % 10, NAMES[unit])
}

fn factor(unit: &str) -> Result<u64, SizeError> {
    UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor)
        .ok_or_else(|| SizeError::UnknownUnit {
            unit: unit.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1500", 1500),
            ("32MiB", 32 << 20),
            ("32 mib", 32 << 20),
            ("64m", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("1kB", 1000),
            ("0.5KiB", 512),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_a_reason() {
        for (text, says) in [
            ("", "not a size"),
            ("MiB", "not a size"),
            ("1.", "not a size"),
            ("1.2.3", "not a size"),
            ("-1", "not a unit"),
            ("1 parsec", "not a unit"),
            ("18446744073709551616", "16 EiB"),
            ("99999999TiB", "16 EiB"),
            ("999999999999999999999999999999999999999999", "16 EiB"),
        ] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn screens_show_few_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (33_345_536, "31.8 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_size_reads_back_as_written(bytes: u64) {
            let size = ByteSize(bytes);
            proptest::prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _parsed = text.parse::<ByteSize>().is_ok();
        }
    }
}

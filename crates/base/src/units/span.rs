//! Durations: `1h30m` in a file or on the command line, `3.2s` or `5 days` on a screen.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of time. Written exactly: `30s`, `1h30m`, `250ms`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan(Duration);

/// What is wrong with the text of a span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// Not numbers with units.
    #[error("{0:?} is not a span of time: write numbers with ms, s, m, h or d, such as 1h30m")]
    Malformed(String),
    /// More than 500 billion years.
    #[error("{0:?} is too long a span of time")]
    TooLong(String),
}

/// Largest first, in nanoseconds.
const UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl TimeSpan {
    /// As the standard library's type.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Duration> for TimeSpan {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for TimeSpan {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let malformed = || SpanError::Malformed(text.to_owned());
        let too_long = || SpanError::TooLong(text.to_owned());
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(malformed());
        }
        let mut nanoseconds: u128 = 0;
        while !rest.is_empty() {
            let number_end = rest
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(malformed)?;
            let unit_length = rest[number_end..]
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(rest.len() - number_end);
            let (part, tail) = rest.split_at(number_end + unit_length);
            let (number, unit) = part.split_at(number_end);
            if number.is_empty() {
                return Err(malformed());
            }
            let number: u64 = number.parse().map_err(|_| too_long())?;
            let factor = UNITS
                .iter()
                .find(|(name, _)| *name == unit.trim())
                .ok_or_else(malformed)?
                .1;
            nanoseconds += u128::from(number) * u128::from(factor);
            rest = tail;
        }
        let seconds = u64::try_from(nanoseconds / 1_000_000_000).map_err(|_| too_long())?;
        let below = u32::try_from(nanoseconds % 1_000_000_000).map_err(|_| too_long())?;
        Ok(Self(Duration::new(seconds, below)))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return formatter.write_str("0s");
        }
        for (unit, factor) in UNITS {
            let count = rest / u128::from(*factor);
            rest %= u128::from(*factor);
            if count > 0 {
                write!(formatter, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<TimeSpan> for String {
    fn from(span: TimeSpan) -> Self {
        span.to_string()
    }
}

/// `duration` for a screen: two units at most, such as `250 ms`, `3.2 s`, `1 min 30 s`, `5 d 2 h`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let pair = |big: u64, big_name: &str, small: u64, small_name: &str| match small {
        0 => format!("{big} {big_name}"),
        small => format!("{big} {big_name} {small} {small_name}"),
    };
    match seconds {
        0 if duration.as_millis() == 0 => format!("{} µs", duration.as_micros()),
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds}.{} s", duration.subsec_millis() / 100),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_their_units() {
        for (text, milliseconds) in [
            ("0", 0),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("7d", 604_800_000),
            ("1m 1s", 61_000),
        ] {
            assert_eq!(
                text.parse(),
                Ok(TimeSpan(Duration::from_millis(milliseconds))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_a_span_is_refused_with_a_reason() {
        for (text, says) in [
            ("", "not a span"),
            ("30", "not a span"),
            ("s", "not a span"),
            ("-1s", "not a span"),
            ("1y", "not a span"),
            ("1.5h", "not a span"),
            ("99999999999999999999s", "too long"),
            ("18446744073709551615d", "too long"),
        ] {
            let error = text.parse::<TimeSpan>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn screens_show_two_units_at_most() {
        for (milliseconds, text) in [
            (0, "0 µs"),
            (250, "250 ms"),
            (3249, "3.2 s"),
            (90_000, "1 min 30 s"),
            (3_600_000, "1 h"),
            (439_200_000, "5 d 2 h"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_span_reads_back_as_written(seconds in 0..u64::MAX, nanoseconds in 0..1_000_000_000_u32) {
            let span = TimeSpan(Duration::new(seconds, nanoseconds));
            proptest::prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _parsed = text.parse::<TimeSpan>().is_ok();
        }
    }
}

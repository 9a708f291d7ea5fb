//! Ranges of bytes, as RFC 9110 (section 14) has them. Pure.
//!
//! One range is served; several are answered with the whole, as the RFC allows: a multipart body would have to be
//! built for clients that do not exist. What cannot be read as a range of bytes is passed over, as the RFC demands.

use std::ops::Range;

/// What to send of something `size` bytes long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything: 200.
    Whole,
    /// A part: 206. Never empty, and within the size.
    Part(Range<u64>),
    /// Nothing there: 416.
    Nothing,
}

impl Wanted {
    /// Reads a `Range` header.
    #[must_use]
    pub fn parse(header: Option<&str>, size: u64) -> Self {
        let Some(set) = header.and_then(set_of_bytes) else {
            return Self::Whole;
        };
        let mut specs = set
            .split(',')
            .map(str::trim)
            .filter(|spec| !spec.is_empty());
        let (Some(spec), None) = (specs.next(), specs.next()) else {
            return Self::Whole;
        };
        match Spec::parse(spec) {
            None => Self::Whole,
            Some(spec) => spec.within(size),
        }
    }

    /// The bytes to send; none if there is nothing.
    #[must_use]
    pub const fn range(&self, size: u64) -> Range<u64> {
        match self {
            Self::Whole => 0..size,
            Self::Part(range) => range.start..range.end,
            Self::Nothing => 0..0,
        }
    }
}

/// Whether `If-Range` still holds (section 13.1.5): a strong tag that is ours. Dates never do: none is sent.
#[must_use]
pub fn holds(if_range: Option<&str>, tag: &str) -> bool {
    if_range.is_none_or(|value| value.trim() == tag)
}

/// Whether `If-None-Match` names what would be sent (section 13.1.2, weak comparison).
#[must_use]
pub fn is_known(if_none_match: Option<&str>, tag: &str) -> bool {
    let Some(value) = if_none_match else {
        return false;
    };
    value.split(',').map(str::trim).any(|candidate| {
        candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate) == tag
    })
}

/// One range as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first.trim(), last.trim()) {
            ("", "") => None,
            ("", last) => decimal(last).map(Self::Last),
            (first, "") => decimal(first).map(Self::From),
            (first, last) => {
                let (first, last) = (decimal(first)?, decimal(last)?);
                (first <= last).then_some(Self::Between(first, last))
            }
        }
    }

    fn within(self, size: u64) -> Wanted {
        let range = match self {
            Self::From(first) => first..size,
            Self::Between(first, last) => first..last.saturating_add(1).min(size),
            Self::Last(length) => size.saturating_sub(length)..size,
        };
        if range.is_empty() {
            Wanted::Nothing
        } else {
            Wanted::Part(range)
        }
    }
}

fn set_of_bytes(header: &str) -> Option<&str> {
    let (unit, set) = header.split_once('=')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some(set)
}

/// Digits only; a number too large for us is beyond every end.
fn decimal(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_is_served_several_are_answered_with_the_whole_and_nonsense_is_passed_over() {
        for (header, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=0-", Wanted::Part(0..10)),
            ("bytes=4-7", Wanted::Part(4..8)),
            ("bytes=4-99", Wanted::Part(4..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("Bytes = 4 - 7", Wanted::Part(4..8)),
            ("bytes=4-18446744073709551615", Wanted::Part(4..10)),
            ("bytes=4-99999999999999999999999", Wanted::Part(4..10)),
            ("bytes=,4-7,", Wanted::Part(4..8)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=10-20", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=7-4", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=1--2", Wanted::Whole),
            ("bytes=0x1-2", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(Wanted::parse(Some(header), 10), expected, "{header}");
        }
        assert_eq!(Wanted::parse(None, 10), Wanted::Whole);
        assert_eq!(Wanted::parse(Some("bytes=0-"), 0), Wanted::Nothing);
    }

    #[test]
    fn conditions_compare_tags() {
        let tag = "\"sha256:aa\"";
        assert!(holds(None, tag) && holds(Some(tag), tag));
        assert!(!holds(Some("W/\"sha256:aa\""), tag));
        assert!(!holds(Some("Mon, 23 Nov 2026 22:00:00 GMT"), tag));
        assert!(is_known(Some("\"x\", W/\"sha256:aa\""), tag));
        assert!(is_known(Some("*"), tag));
        assert!(!is_known(Some("sha256:aa"), tag) && !is_known(None, tag));
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_stays_within_the_size(header in "bytes=[0-9, -]{0,20}", size in 0u64..200) {
            let wanted = Wanted::parse(Some(&header), size);
            if let Wanted::Part(range) = &wanted {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}

//! Moments: `2026-11-23T13:05:00.25Z` and back (RFC 3339), without a time zone database.

use std::time::{Duration, SystemTime};

/// The text is not a moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a moment: write it as 2026-01-31T23:59:59Z or with an offset such as +02:00")]
pub struct MomentError(String);

/// 9999-12-31T23:59:59Z: years have four digits.
const LAST_SECOND: u64 = 253_402_300_799;

/// `moment` in UTC, with as many decimals as it has (none, three, six or nine). A moment before 1970 shows as
/// 1970-01-01T00:00:00Z, one after 9999 as that year's last second.
#[must_use]
pub fn format_moment(moment: SystemTime) -> String {
    let since_epoch = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since_epoch.as_secs().min(LAST_SECOND);
    let (year, month, day) = date_of(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanoseconds = since_epoch.subsec_nanos();
    let decimals = match nanoseconds {
        0 => String::new(),
        n if n.is_multiple_of(1_000_000) => format!(".{:03}", n / 1_000_000),
        n if n.is_multiple_of(1_000) => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{decimals}Z")
}

/// Reads an RFC 3339 moment of the years 1970 to 9999, with `Z` or an offset. Decimals beyond nine are dropped.
///
/// # Errors
/// The text is anything else.
pub fn parse_moment(text: &str) -> Result<SystemTime, MomentError> {
    parse(text).ok_or_else(|| MomentError(text.to_owned()))
}

fn parse(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let (time, offset_seconds) = split_offset(rest)?;
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let (clock, decimals) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
    // A leap second is read as the second before it, as POSIX time has no room for it.
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !in_range {
        return None;
    }
    let seconds = i64::try_from(
        days_to(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second.min(59),
    )
    .ok()?
        - offset_seconds;
    let since_epoch = Duration::new(u64::try_from(seconds).ok()?, nanoseconds(decimals)?);
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(time) = text.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let sign_at = text.rfind(['+', '-'])?;
    let (time, offset) = text.split_at(sign_at);
    let [hours, minutes] = fields(&offset[1..], ':', [2, 2])?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = i64::try_from(hours * 3600 + minutes * 60).ok()?;
    Some((
        time,
        if offset.starts_with('-') {
            -seconds
        } else {
            seconds
        },
    ))
}

/// The numbers in `text`, each of exactly its width in digits.
fn fields<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    let mut parts = text.split(separator);
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn nanoseconds(decimals: &str) -> Option<u32> {
    if decimals.is_empty() || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nine: String = decimals
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    nine.parse().ok()
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// Days from 1970-01-01 to the date.
fn days_to(year: u64, month: u64, day: u64) -> u64 {
    // The leap days before a year follow from counting its multiples of 4, 100 and 400.
    let leaps_before = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let years = (year - 1970) * 365 + leaps_before(year) - leaps_before(1970);
    let months: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    years + months + day - 1
}

/// The date that lies `days` after 1970-01-01.
fn date_of(days: u64) -> (u64, u64, u64) {
    // 366 days a year never overshoot, so the estimate is at or before the year and the loop is short.
    let mut year = 1970 + days / 366;
    while days >= days_to(year, 1, 1) + days_in_year(year) {
        year += 1;
    }
    let mut rest = days - days_to(year, 1, 1);
    let mut month = 1;
    while rest >= days_in_month(year, month) {
        rest -= days_in_month(year, month);
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    #[test]
    fn known_moments_are_written_and_read() {
        for (text, moment) in [
            ("1970-01-01T00:00:00Z", at(0, 0)),
            ("2000-02-29T12:00:00Z", at(951_825_600, 0)),
            ("2026-11-23T13:05:00.250Z", at(1_795_439_100, 250_000_000)),
            ("2100-03-01T00:00:00Z", at(4_107_542_400, 0)),
        ] {
            assert_eq!(format_moment(moment), text);
            assert_eq!(parse_moment(text), Ok(moment), "{text}");
        }
    }

    #[test]
    fn offsets_spaces_and_long_decimals_are_read() {
        for (text, moment) in [
            ("1970-01-01T02:00:00+02:00", at(0, 0)),
            ("1970-01-01T00:00:00-00:30", at(1800, 0)),
            ("1970-01-01 00:00:01.0000000019Z", at(1, 1)),
        ] {
            assert_eq!(parse_moment(text), Ok(moment), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_moment_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-1-1T00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert!(parse_moment(text).is_err(), "{text:?} was accepted");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_moment_reads_back_as_written(seconds in 0..253_402_300_800_u64, nanoseconds in 0..1_000_000_000_u32) {
            let moment = at(seconds, nanoseconds);
            proptest::prop_assert_eq!(parse_moment(&format_moment(moment)), Ok(moment));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _parsed = parse_moment(&text).is_ok();
        }
    }
}

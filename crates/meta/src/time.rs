//! Times as the database keeps them, and RFC 3339 as labels spell them.

use std::time::{Duration, SystemTime};

/// Nanoseconds since 1970. Before that, and after the year 2262, the nearest bound.
pub(crate) fn to_nanos(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

/// The time of a column. Negative values, which this program never writes, count as 1970.
pub(crate) fn from_nanos(nanos: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// Reads `2026-11-23T12:56:39[.123]Z` or with an offset `+01:00` (RFC 3339, section 5.6) as nanoseconds since 1970.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let shape = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if bytes.len() < 20 || !text.is_ascii() || shape.iter().any(|(at, c)| bytes[*at] != *c) {
        return None;
    }
    if !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let number = |from: usize, to: usize| digits(&text[from..to]);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, offset) = split_fraction(&text[19..])?;
    let days = days_since_epoch(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_seconds(offset)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction)
}

fn digits(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Splits `.123Z` into nanoseconds and the offset; digits beyond the ninth are dropped.
fn split_fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(fraction) = rest.strip_prefix('.') else {
        return Some((0, rest));
    };
    let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let kept = length.min(9);
    let scale = 10_i64.pow(u32::try_from(9 - kept).ok()?);
    Some((digits(&fraction[..kept])? * scale, &fraction[length..]))
}

fn offset_seconds(offset: &str) -> Option<i64> {
    if matches!(offset, "Z" | "z") {
        return Some(0);
    }
    let sign = match offset.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = offset[1..].split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar, counted in years that begin in March.
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day that lie `days` after 1970-01-01; the inverse of [`days_since_epoch`].
pub(crate) const fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_days_are_inverse() {
        for days in (-1_000_000..1_000_000).step_by(317) {
            let (year, month, day) = date_of(days);
            assert_eq!(days_since_epoch(year, month, day), days);
        }
        assert_eq!(date_of(0), (1970, 1, 1));
    }

    #[test]
    fn times_are_read_as_rfc_3339_says() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-23T12:56:39Z", 1_795_438_599),
            ("2026-11-23T13:56:39+01:00", 1_795_438_599),
            ("2026-11-23T07:26:39.5-05:30", 1_795_438_599),
        ] {
            let nanos = parse_rfc3339(text).unwrap();
            assert_eq!(nanos.div_euclid(1_000_000_000), seconds, "{text}");
        }
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.25Z"), Some(250_000_000));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "tomorrow",
            "2026-11-23",
            "2026-11-23T12:56:39",
            "2026-13-01T00:00:00Z",
            "2026-11-23T25:00:00Z",
            "2026-11-23T12:56:39.Z",
            "2026-11-23T12:56:39+1:00",
            "2026-11-23T12:56:3éZ",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_survive_the_database() {
        let time = from_nanos(1_795_438_599_123_456_789);
        assert_eq!(to_nanos(time), 1_795_438_599_123_456_789);
        assert_eq!(from_nanos(-1), SystemTime::UNIX_EPOCH);
    }
}

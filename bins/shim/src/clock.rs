//! Both clocks, and how moments are written.

use std::fmt::Write;
use std::time::Duration;

use orlop_api::Timestamp;
use orlop_types::exit::Moment;
use rustix::time::{ClockId, clock_gettime};

const SECOND_NS: i64 = 1_000_000_000;

/// Nanoseconds since 1970.
pub(crate) fn wall_ns() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec
        .saturating_mul(SECOND_NS)
        .saturating_add(time.tv_nsec)
}

/// Time since the machine started.
pub(crate) fn boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

/// This moment.
pub(crate) fn now() -> Moment {
    Moment {
        wall_ns: wall_ns(),
        boot_ns: u64::try_from(boot().as_nanos()).unwrap_or(u64::MAX),
    }
}

/// As containerd's messages have it.
pub(crate) fn timestamp(moment: Moment) -> Timestamp {
    Timestamp {
        seconds: moment.wall_ns.div_euclid(SECOND_NS),
        nanos: i32::try_from(moment.wall_ns.rem_euclid(SECOND_NS)).unwrap_or(0),
    }
}

/// Appends a moment as RFC 3339 with nine digits, in UTC.
pub(crate) fn write_rfc3339(text: &mut String, wall_ns: i64) {
    let seconds = wall_ns.div_euclid(SECOND_NS);
    let nanos = wall_ns.rem_euclid(SECOND_NS);
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let in_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    // Writing to a string cannot fail.
    write!(
        text,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z"
    )
    .ok();
}

/// The date of a day counted from 1970-01-01 (the algorithm of Howard Hinnant's `civil_from_days`).
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let table = [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400 * SECOND_NS, "2000-02-29T00:00:00.000000000Z"),
            (1_475_712_009_669_794_202, "2016-10-06T00:00:09.669794202Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (4_107_542_399 * SECOND_NS, "2100-02-28T23:59:59.000000000Z"),
        ];
        for (wall_ns, expected) in table {
            let mut text = String::new();
            write_rfc3339(&mut text, wall_ns);
            assert_eq!(text, expected);
        }
    }
}

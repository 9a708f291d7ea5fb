//! Moments of the daemon, for people and programs.

use std::time::{Duration, SystemTime};

use orlop_api::Timestamp;
use orlop_base::units::{TimeSpan, format_duration, format_moment, parse_moment};

use crate::error::CliError;

/// The moment as text, or nothing where it is absent or out of any clock's range.
pub(crate) fn moment(timestamp: Option<&Timestamp>) -> Option<String> {
    system_time(timestamp).map(format_moment)
}

/// How long ago a moment was, such as `3 min ago`.
pub(crate) fn age(timestamp: Option<&Timestamp>, now: SystemTime) -> String {
    let Some(moment) = system_time(timestamp) else {
        return "-".to_owned();
    };
    let elapsed = now.duration_since(moment).unwrap_or_default();
    // Nobody reads the seconds of yesterday: the larger unit is enough.
    let text = format_duration(Duration::from_secs(elapsed.as_secs()));
    let mut words = text.split(' ');
    match (words.next(), words.next()) {
        (Some(number), Some(unit)) if elapsed.as_secs() > 0 => {
            let number = number.trim_end_matches(".0");
            format!("{number} {unit} ago")
        }
        _ => "just now".to_owned(),
    }
}

/// A span of the daemon's, or zero where it is absent or negative.
pub(crate) fn span(duration: Option<&orlop_api::Duration>) -> Duration {
    duration
        .and_then(|duration| Duration::try_from(*duration).ok())
        .unwrap_or_default()
}

/// A moment as typed: RFC 3339, or a span before `now` such as `10m`.
pub(crate) fn parse(argument: &str, text: &str, now: SystemTime) -> Result<Timestamp, CliError> {
    let moment = match text.parse::<TimeSpan>() {
        Ok(span) => now
            .checked_sub(span.duration())
            .unwrap_or(SystemTime::UNIX_EPOCH),
        Err(_) => parse_moment(text).map_err(|error| {
            CliError::argument(
                argument,
                format!("{error}, or as a span before now such as 10m"),
            )
        })?,
    };
    Ok(moment.into())
}

fn system_time(timestamp: Option<&Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(*timestamp?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn ages_are_short() {
        let now = at(1_000_000);
        for (seconds, text) in [
            (0, "just now"),
            (5, "5 s ago"),
            (200, "3 min ago"),
            (90_000, "1 d ago"),
        ] {
            let then = Timestamp::from(at(1_000_000 - seconds));
            assert_eq!(age(Some(&then), now), text);
        }
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn moments_are_typed_as_such_or_as_spans() {
        let now = at(1_000_000);
        assert_eq!(parse("--since", "10m", now).unwrap(), at(999_400).into());
        assert_eq!(
            parse("--since", "1970-01-01T00:00:05Z", now).unwrap(),
            at(5).into()
        );
        let error = parse("--since", "yesterday", now).unwrap_err().to_string();
        assert!(error.starts_with("--since: \"yesterday\""), "{error}");
    }
}

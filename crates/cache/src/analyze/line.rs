//! What the kinds of lines have in common: words, quoted texts, times.

use std::time::UNIX_EPOCH;

use orlop_base::units::parse_moment;

/// Takes words off a line's front. A word is up to the next blank; `"…"` and `[…]` hold blanks.
pub(super) struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The rest.
    pub(super) const fn rest(&self) -> &'a str {
        self.0
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start_matches(' ');
        let closing = match text.as_bytes().first()? {
            b'"' => '"',
            b'[' => ']',
            _ => {
                let end = text.find(' ').unwrap_or(text.len());
                self.0 = &text[end..];
                return Some(&text[..end]);
            }
        };
        let inner = &text[1..];
        let end = inner.find(closing)?;
        self.0 = &inner[end + 1..];
        Some(&inner[..end])
    }
}

/// `GET /v2/… HTTP/1.1`: method and path.
pub(super) fn request_line(text: &str) -> Option<(&str, &str)> {
    let mut words = text.split(' ');
    Some((words.next()?, words.next()?))
}

/// RFC 3339, in seconds since 1970.
pub(super) fn rfc3339(text: &str) -> Option<i64> {
    let since_epoch = parse_moment(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_secs()).ok()
}

/// `23/Nov/2026:11:00:00 +0100`, as Apache, nginx and S3 write it.
pub(super) fn common_log_time(text: &str) -> Option<i64> {
    let (time, offset) = text.split_once(' ')?;
    let (date, time) = time.split_once(':')?;
    let mut date = date.split('/');
    let (day, month, year) = (date.next()?, date.next()?, date.next()?);
    let (hours, minutes) = (offset.get(..3)?, offset.get(3..)?);
    let month = month_of(month)?;
    rfc3339(&format!("{year}-{month:02}-{day}T{time}{hours}:{minutes}"))
}

/// `Nov  3 10:00:00`, as syslog writes it (RFC 3164), in UTC and in `year`.
pub(super) fn syslog_time(words: &mut Words<'_>, year: i32) -> Option<i64> {
    let (month, day, time) = (words.next()?, words.next()?, words.next()?);
    let month = month_of(month)?;
    rfc3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

fn month_of(name: &str) -> Option<usize> {
    const NAMES: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let index = NAMES.iter().position(|one| *one == name)?;
    Some(index + 1)
}

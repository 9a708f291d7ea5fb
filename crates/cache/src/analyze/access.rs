//! A registry's own access log: JSON as distribution writes it, or combined lines as distribution, Apache, nginx and
//! Harbor's proxy write them.

use serde::Deserialize;

use super::line::{Words, common_log_time, request_line, rfc3339, syslog_time};
use super::{Line, Request, is_pull, subject_of};

/// What distribution says when a request is answered.
const ANSWERED: &str = "response completed";

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    msg: String,
    #[serde(default)]
    time: String,
    #[serde(default, rename = "http.request.method")]
    method: String,
    #[serde(default, rename = "http.request.remoteaddr")]
    client: String,
    #[serde(default, rename = "http.request.uri")]
    uri: String,
    #[serde(default, rename = "http.response.status")]
    status: u16,
    #[serde(default, rename = "http.response.written")]
    written: u64,
}

/// distribution's, with `log.formatter: json`.
pub(super) fn json(text: &str, _year: i32) -> Option<Line> {
    if !text.starts_with('{') {
        return None;
    }
    let entry: Entry = serde_json::from_str(text).ok()?;
    if entry.msg != ANSWERED {
        return Some(Line::Other);
    }
    let at = rfc3339(&entry.time)?;
    let client = entry
        .client
        .rsplit_once(':')
        .map_or(entry.client.as_str(), |(address, _port)| address);
    let answered = Answered {
        at,
        client,
        request: (&entry.method, &entry.uri),
        status: entry.status,
        bytes: entry.written,
    };
    Some(answered.line())
}

/// `CLIENT - - [TIME] "REQUEST" STATUS BYTES …`, or Harbor's `MON D TIME HOST proxy[N]: CLIENT - "REQUEST" STATUS BYTES …`.
pub(super) fn combined(text: &str, year: i32) -> Option<Line> {
    let mut words = Words::new(text);
    let (at, client) = match common_start(&mut words) {
        Some(start) => start,
        None => {
            words = Words::new(text);
            syslog_start(&mut words, year)?
        }
    };
    let request = request_line(words.next()?)?;
    let answered = Answered {
        at,
        client,
        request,
        status: words.next()?.parse().ok()?,
        bytes: words.next()?.parse().unwrap_or(0),
    };
    Some(answered.line())
}

fn common_start<'a>(words: &mut Words<'a>) -> Option<(i64, &'a str)> {
    let client = words.next()?;
    let (_identity, _user) = (words.next()?, words.next()?);
    let is_time = words.rest().starts_with(" [");
    let at = is_time.then(|| words.next()).flatten()?;
    Some((common_log_time(at)?, client))
}

fn syslog_start<'a>(words: &mut Words<'a>, year: i32) -> Option<(i64, &'a str)> {
    let at = syslog_time(words, year)?;
    let (_host, _process) = (words.next()?, words.next()?);
    let client = words.next()?;
    words.next().filter(|word| *word == "-")?;
    Some((at, client))
}

struct Answered<'a> {
    at: i64,
    client: &'a str,
    request: (&'a str, &'a str),
    status: u16,
    bytes: u64,
}

impl Answered<'_> {
    fn line(&self) -> Line {
        let (method, path) = self.request;
        match subject_of(path) {
            Some((repository, subject)) if is_pull(method, self.status) => Line::Request(Request {
                at: self.at,
                client: self.client.to_owned(),
                repository: repository.to_owned(),
                subject,
                bytes: self.bytes,
                size: (self.status == 200).then_some(self.bytes),
            }),
            Some(_) | None => Line::Other,
        }
    }
}

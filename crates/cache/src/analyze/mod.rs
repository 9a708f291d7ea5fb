//! What other registries' access logs tell: which blobs were pulled how often, and what a cache would have saved.
//!
//! A log is a text of lines, each read by itself: lines that are of no known kind, or of something else than pulls, are
//! counted and passed over. Nothing in a log is believed beyond its line: digests must be digests, sizes are bounded by
//! what they are added up in.

mod access;
mod daemon;
mod line;
mod s3;
mod summary;

pub use summary::{BlobUse, RepositoryUse, Savings, Summary, Window, summarize};

use std::io::{self, BufRead};

/// A line longer than this is no log's.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Something that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Seconds since 1970, UTC.
    pub at: i64,
    /// The address or the name the client goes by; empty if the log does not tell.
    pub client: String,
    /// The repository; empty if the log does not tell (an object store keeps blobs of all repositories together).
    pub repository: String,
    /// What was asked for.
    pub subject: Subject,
    /// Bytes that were sent.
    pub bytes: u64,
    /// Size of the whole, where the log tells it: a range is less.
    pub size: Option<u64>,
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A blob, by its digest as text.
    Blob(String),
    /// A manifest, by tag or digest.
    Manifest(String),
    /// A whole image, as a container engine tells it.
    Image(String),
}

/// What a log was made of.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Log {
    /// The requests that were answered well, in the order of their lines.
    pub requests: Vec<Request>,
    /// Lines of other things: health checks, pushes, errors.
    pub others: u64,
    /// Lines of no known kind.
    pub unknown: u64,
}

/// What one line is.
enum Line {
    Request(Request),
    Other,
    Unknown,
}

/// Reads a log of any known kind: distribution's (JSON, or combined as Apache and nginx write it), Harbor's proxy, an S3
/// bucket's server access log, or containerd's.
///
/// `year` is of the lines that tell none (syslog's, RFC 3164).
///
/// # Errors
/// The reader's.
pub fn read(mut log: impl BufRead, year: i32) -> io::Result<Log> {
    let mut found = Log::default();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut limited = io::Read::take(&mut log, LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(found);
        }
        let text = String::from_utf8_lossy(&bytes);
        match understand(text.trim_end(), year) {
            Line::Request(request) => found.requests.push(request),
            Line::Other => found.others += 1,
            Line::Unknown => found.unknown += 1,
        }
    }
}

fn understand(text: &str, year: i32) -> Line {
    if text.is_empty() {
        return Line::Other;
    }
    let kinds = [
        access::json as fn(&str, i32) -> Option<Line>,
        s3::server_access,
        access::combined,
        daemon::containerd,
    ];
    let mut read = kinds.iter().filter_map(|kind| kind(text, year));
    read.next().unwrap_or(Line::Unknown)
}

/// What a path of the distribution protocol asks for: `/v2/<name>/blobs/<digest>` or `/v2/<name>/manifests/<reference>`.
fn subject_of(path: &str) -> Option<(&str, Subject)> {
    let path = path.split('?').next()?.strip_prefix("/v2/")?;
    if let Some((name, digest)) = path.rsplit_once("/blobs/") {
        let digest = digest_of(digest)?;
        return Some((name, Subject::Blob(digest)));
    }
    let (name, reference) = path.rsplit_once("/manifests/")?;
    let is_plain = !reference.is_empty() && !reference.contains('/');
    is_plain.then(|| (name, Subject::Manifest(reference.to_owned())))
}

fn digest_of(text: &str) -> Option<String> {
    let digest: orlop_types::Digest = text.replacen("%3A", ":", 1).parse().ok()?;
    Some(digest.to_string())
}

/// Whether a request brought something to the client: a redirect to an object store did, by way of that.
fn is_pull(method: &str, status: u16) -> bool {
    method == "GET" && matches!(status, 200 | 206 | 302 | 307)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read_one(line: &str) -> Log {
        read(line.as_bytes(), 2026).unwrap()
    }

    fn table() -> Vec<(String, i64, &'static str, u64)> {
        vec![
            (
                format!(
                    r#"{{"http.request.method":"GET","http.request.remoteaddr":"10.0.0.7:5123","http.request.uri":"/v2/lib/app/blobs/sha256:{HEX}","http.response.status":200,"http.response.written":1234,"level":"info","msg":"response completed","time":"2026-11-23T10:00:00.5Z"}}"#
                ),
                1_795_428_000,
                "lib/app",
                1234,
            ),
            (
                format!(
                    r#"10.0.0.7 - - [23/Nov/2026:11:00:00 +0100] "GET /v2/lib/app/blobs/sha256:{HEX} HTTP/1.1" 206 99 "" "containerd/2.3""#
                ),
                1_795_428_000,
                "lib/app",
                99,
            ),
            (
                format!(
                    r#"Nov 23 10:00:00 172.18.0.1 proxy[889]: 10.0.0.7 - "GET /v2/lib/app/blobs/sha256:{HEX} HTTP/1.1" 200 77 "-" "docker/24" 0.003 0.002 ."#
                ),
                1_795_428_000,
                "lib/app",
                77,
            ),
            (
                format!(
                    r#"79a5 bucket [23/Nov/2026:10:00:00 +0000] 10.0.0.7 arn:aws:sts::1:x 3E57 REST.GET.OBJECT docker/registry/v2/blobs/sha256/e3/{HEX}/data "GET /bucket/x?X-Amz=1 HTTP/1.1" 200 - 4096 4096 7 6 "-" "aws" - abc= SigV4 ECDHE AuthHeader s3.amazonaws.com TLSv1.3 - -"#
                ),
                1_795_428_000,
                "",
                4096,
            ),
            (
                format!(
                    r#"time="2026-11-23T10:00:00Z" level=debug msg="fetch response received" digest="sha256:{HEX}" mediatype=application/vnd.oci.image.layer.v1.tar+gzip response.header.content-length=55 response.status="200 OK" size=55 url="https://r.example/v2/lib/app/blobs/sha256:{HEX}""#
                ),
                1_795_428_000,
                "lib/app",
                55,
            ),
        ]
    }

    #[test]
    fn every_kind_of_line_tells_who_had_what_and_when() {
        for (line, at, repository, bytes) in table() {
            let log = read_one(&line);
            assert_eq!(log.requests.len(), 1, "{line}");
            let request = &log.requests[0];
            assert_eq!(request.at, at, "{line}");
            assert_eq!(request.repository, repository, "{line}");
            assert_eq!(request.bytes, bytes, "{line}");
            assert_eq!(request.subject, Subject::Blob(format!("sha256:{HEX}")));
        }
    }

    #[test]
    fn a_pull_of_an_image_is_told_by_containerd() {
        let line = r#"time="2026-11-23T10:00:00.123456789Z" level=info msg="PullImage \"docker.io/library/alpine:3\" returns image reference \"sha256:abc\"""#;
        let log = read_one(line);
        let expected = Subject::Image("docker.io/library/alpine:3".to_owned());
        assert_eq!(log.requests[0].subject, expected);
    }

    #[test]
    fn what_brought_nobody_anything_is_counted_and_passed_over() {
        let lines = [
            r#"10.0.0.7 - - [23/Nov/2026:11:00:00 +0100] "GET /v2/ HTTP/1.1" 200 2 "" "curl""#
                .to_owned(),
            format!(
                r#"10.0.0.7 - - [23/Nov/2026:11:00:00 +0100] "HEAD /v2/a/blobs/sha256:{HEX} HTTP/1.1" 200 0 "" "x""#
            ),
            format!(
                r#"10.0.0.7 - - [23/Nov/2026:11:00:00 +0100] "GET /v2/a/blobs/sha256:{HEX} HTTP/1.1" 404 9 "" "x""#
            ),
            r#"{"level":"info","msg":"listening on [::]:5000","time":"2026-11-23T10:00:00Z"}"#
                .to_owned(),
            r#"time="2026-11-23T10:00:00Z" level=info msg="starting containerd""#.to_owned(),
        ];
        for line in lines {
            let log = read_one(&line);
            assert_eq!((log.requests.len(), log.others), (0, 1), "{line}");
        }
    }

    #[test]
    fn nonsense_is_counted_and_breaks_nothing() {
        let long = "x".repeat(200_000);
        for line in ["\u{0}\u{1}", "a b c", "{", "[", "\"", "time=", &long] {
            let log = read_one(line);
            assert!(log.requests.is_empty());
            assert!(log.unknown >= 1, "{}", &line[..line.len().min(20)]);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_fail(line in ".{0,200}") {
            read_one(&line);
        }

        #[test]
        fn no_line_cut_anywhere_makes_it_fail(which in 0..5_usize, end in 0..500_usize) {
            let line = &table()[which].0;
            let end = end.min(line.len());
            read_one(&String::from_utf8_lossy(&line.as_bytes()[..end]));
        }
    }
}

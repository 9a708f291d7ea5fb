//! `orlop cache analyze LOG…`

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use flate2::bufread::MultiGzDecoder;
use orlop_base::clock::{Clock, SystemClock};
use orlop_base::table::{self, Row};
use orlop_base::units::{ByteSize, format_bytes, format_moment};
use orlop_cache::analyze::{BlobUse, Log, RepositoryUse, Savings, Summary, read, summarize};
use orlop_cache::tier::Prices;
use serde::Serialize;

use crate::Format;
use crate::error::CacheError;

/// Sizes of caches that are tried if none is asked for.
const ROOMS: [ByteSize; 3] = [ByteSize::gib(10), ByteSize::gib(100), ByteSize::gib(1000)];

/// What a gzip file begins with (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Standard input, where a file is named.
const STDIN: &str = "-";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Access logs, plain or gzip; - is standard input
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// Size of a cache to try; may be given several times [default: 10GiB,
    /// 100GiB, 1000GiB]
    #[arg(long, value_name = "SIZE")]
    room: Vec<ByteSize>,
    /// A price list other than the one that comes with this version (TOML)
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// The year of lines that tell none, as syslog's [default: this year, UTC]
    #[arg(long)]
    year: Option<i32>,
    /// Lines of each table; 0 for all
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
}

/// The answer, to be written to stdout.
pub(crate) fn run(
    arguments: &Arguments,
    format: Format,
    width: Option<usize>,
) -> Result<String, CacheError> {
    let prices = prices(arguments.prices.as_deref())?;
    let year = arguments.year.unwrap_or_else(this_year);
    let mut all = Log::default();
    for path in &arguments.logs {
        let log = read_file(path, year).map_err(|source| CacheError::Log {
            path: path.clone(),
            source,
        })?;
        all.requests.extend(log.requests);
        all.others += log.others;
        all.unknown += log.unknown;
    }
    if all.requests.is_empty() {
        return Err(no_pull(&arguments.logs, &all));
    }
    let rooms = if arguments.room.is_empty() {
        ROOMS.to_vec()
    } else {
        arguments.room.clone()
    };
    let rooms: Vec<u64> = rooms.into_iter().map(ByteSize::as_u64).collect();
    let passed_over = (all.others, all.unknown);
    let summary = summarize(all.requests, &prices, &rooms);
    let report = Report::new(&summary, passed_over, &prices, arguments.top);
    Ok(match format {
        Format::Json => report.json(),
        Format::Text => report.text(width),
    })
}

pub(crate) fn prices(path: Option<&Path>) -> Result<Prices, CacheError> {
    let Some(path) = path else {
        return Ok(Prices::default());
    };
    let path = path.to_owned();
    let text = std::fs::read_to_string(&path).map_err(|source| CacheError::Prices {
        path: path.clone(),
        source,
    })?;
    Prices::parse(&text).map_err(|source| CacheError::WrongPrices { path, source })
}

fn this_year() -> i32 {
    let now = format_moment(SystemClock.wall());
    let year = now.split('-').next().and_then(|year| year.parse().ok());
    year.unwrap_or_default()
}

fn read_file(path: &Path, year: i32) -> io::Result<Log> {
    let raw: Box<dyn Read> = if path.as_os_str() == STDIN {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path)?)
    };
    let mut raw = BufReader::new(raw);
    if raw.fill_buf()?.starts_with(&GZIP) {
        return read(BufReader::new(MultiGzDecoder::new(raw)), year);
    }
    read(raw, year)
}

fn no_pull(logs: &[PathBuf], all: &Log) -> CacheError {
    let files: Vec<_> = logs.iter().map(|path| path.display().to_string()).collect();
    CacheError::NoPull {
        files: files.join(", "),
        lines: all.others + all.unknown,
        unknown: all.unknown,
    }
}

/// What is shown. Times are RFC 3339, sizes bytes, costs US dollars.
#[derive(Serialize)]
struct Report {
    from: Option<String>,
    until: Option<String>,
    requests: u64,
    bytes: u64,
    dollars: f64,
    prices_of: String,
    lines_of_other_requests: u64,
    lines_not_understood: u64,
    caches: Vec<CacheLine>,
    blobs: Vec<BlobLine>,
    repositories: Vec<RepositoryLine>,
    images: Vec<ImageLine>,
}

#[derive(Serialize)]
struct CacheLine {
    room_bytes: u64,
    hits: u64,
    misses: u64,
    hit_bytes: u64,
    upstream_bytes: u64,
    /// Of the bytes that were sent.
    saved_bytes_percent: f64,
    hits_percent: f64,
    dollars_saved: f64,
}

#[derive(Serialize)]
struct BlobLine {
    digest: String,
    size: u64,
    requests_7d: u64,
    requests_30d: u64,
    bytes_30d: u64,
    clients_30d: u64,
    repositories: Vec<String>,
}

#[derive(Serialize)]
struct RepositoryLine {
    repository: String,
    manifest_requests_30d: u64,
    blob_requests_7d: u64,
    blob_requests_30d: u64,
    blob_bytes_30d: u64,
}

#[derive(Serialize)]
struct ImageLine {
    image: String,
    pulls_30d: u64,
}

impl Report {
    fn new(summary: &Summary, passed_over: (u64, u64), prices: &Prices, top: usize) -> Self {
        let most = if top == 0 { usize::MAX } else { top };
        let time = |at: Option<i64>| at.map(moment);
        Self {
            from: time(summary.from),
            until: time(summary.until),
            requests: summary.all.requests,
            bytes: summary.all.bytes,
            dollars: summary.dollars,
            prices_of: format!("{}, {}", prices.region, prices.checked),
            lines_of_other_requests: passed_over.0,
            lines_not_understood: passed_over.1,
            caches: summary
                .savings
                .iter()
                .map(|one| cache_line(one, summary))
                .collect(),
            blobs: summary.blobs.iter().take(most).map(blob_line).collect(),
            repositories: summary
                .repositories
                .iter()
                .take(most)
                .map(repository_line)
                .collect(),
            images: summary
                .images
                .iter()
                .take(most)
                .map(|(image, pulls)| ImageLine {
                    image: image.clone(),
                    pulls_30d: *pulls,
                })
                .collect(),
        }
    }

    fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a report has only text keys");
        text + "\n"
    }

    fn text(&self, width: Option<usize>) -> String {
        let until = self.until.clone().unwrap_or_default();
        let properties = [
            ("From", self.from.clone().unwrap_or_default()),
            (
                "Until",
                format!("{until} (the windows of 7 and 30 days end here)"),
            ),
            ("Requests for blobs", self.requests.to_string()),
            ("Bytes sent", format_bytes(self.bytes)),
            (
                "Cost",
                format!("{} ({})", dollars(self.dollars), self.prices_of),
            ),
            ("Other lines", self.lines_of_other_requests.to_string()),
            ("Not understood", self.lines_not_understood.to_string()),
        ];
        let mut text = table::render_properties(&properties);
        let mut add = |rendered: String, is_empty: bool| {
            if !is_empty {
                // Writing to a string does not fail.
                let _written = write!(text, "\n{rendered}");
            }
        };
        add(table::render(&self.caches, width), self.requests == 0);
        add(table::render(&self.blobs, width), self.blobs.is_empty());
        add(
            table::render(&self.repositories, width),
            self.repositories.is_empty(),
        );
        add(table::render(&self.images, width), self.images.is_empty());
        text
    }
}

fn cache_line(savings: &Savings, summary: &Summary) -> CacheLine {
    CacheLine {
        room_bytes: savings.room_bytes,
        hits: savings.hits.requests,
        misses: savings.misses.requests,
        hit_bytes: savings.hits.bytes,
        upstream_bytes: savings.misses.bytes,
        saved_bytes_percent: percent(savings.hits.bytes, summary.all.bytes),
        hits_percent: percent(savings.hits.requests, summary.all.requests),
        dollars_saved: savings.dollars,
    }
}

fn blob_line(blob: &BlobUse) -> BlobLine {
    BlobLine {
        digest: blob.digest.clone(),
        size: blob.size,
        requests_7d: blob.week.requests,
        requests_30d: blob.month.requests,
        bytes_30d: blob.month.bytes,
        clients_30d: blob.clients,
        repositories: blob.repositories.clone(),
    }
}

fn repository_line(repository: &RepositoryUse) -> RepositoryLine {
    RepositoryLine {
        repository: repository.name.clone(),
        manifest_requests_30d: repository.manifests,
        blob_requests_7d: repository.week.requests,
        blob_requests_30d: repository.month.requests,
        blob_bytes_30d: repository.month.bytes,
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a share for people, to a tenth of a per cent"
)]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 * 100.0 / whole as f64
}

/// Logs tell no moment before 1970.
fn moment(at: i64) -> String {
    let seconds = u64::try_from(at).unwrap_or_default();
    format_moment(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn dollars(amount: f64) -> String {
    format!("${amount:.2}")
}

impl Row for CacheLine {
    const HEADINGS: &'static [&'static str] =
        &["CACHE", "HITS", "BYTES SAVED", "FROM UPSTREAM", "SAVES"];

    fn cells(&self) -> Vec<String> {
        vec![
            format_bytes(self.room_bytes),
            format!("{:.1} %", self.hits_percent),
            format!("{:.1} %", self.saved_bytes_percent),
            format_bytes(self.upstream_bytes),
            dollars(self.dollars_saved),
        ]
    }
}

impl Row for BlobLine {
    const HEADINGS: &'static [&'static str] = &[
        "BLOB",
        "SIZE",
        "7 DAYS",
        "30 DAYS",
        "BYTES",
        "CLIENTS",
        "REPOSITORIES",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.digest.clone(),
            format_bytes(self.size),
            self.requests_7d.to_string(),
            self.requests_30d.to_string(),
            format_bytes(self.bytes_30d),
            self.clients_30d.to_string(),
            self.repositories.join(", "),
        ]
    }
}

impl Row for RepositoryLine {
    const HEADINGS: &'static [&'static str] =
        &["REPOSITORY", "MANIFESTS", "7 DAYS", "30 DAYS", "BYTES"];

    fn cells(&self) -> Vec<String> {
        vec![
            if self.repository.is_empty() {
                "(not told)".to_owned()
            } else {
                self.repository.clone()
            },
            self.manifest_requests_30d.to_string(),
            self.blob_requests_7d.to_string(),
            self.blob_requests_30d.to_string(),
            format_bytes(self.blob_bytes_30d),
        ]
    }
}

impl Row for ImageLine {
    const HEADINGS: &'static [&'static str] = &["IMAGE", "PULLS IN 30 DAYS"];

    fn cells(&self) -> Vec<String> {
        vec![self.image.clone(), self.pulls_30d.to_string()]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn lines() -> String {
        let mut lines = String::from("nonsense\n");
        for (day, client) in [("01", "10.0.0.1"), ("20", "10.0.0.2"), ("22", "10.0.0.3")] {
            for (path, bytes) in [
                ("manifests/latest", 500),
                (&*format!("blobs/sha256:{HEX}"), 52_428_800),
            ] {
                lines += &format!(
                    "{client} - - [{day}/Nov/2026:08:00:00 +0000] \"GET /v2/team/app/{path} HTTP/1.1\" 200 {bytes} \"\" \"containerd/2.3\"\n"
                );
            }
        }
        lines
    }

    fn arguments(path: PathBuf) -> Arguments {
        Arguments {
            logs: vec![path],
            room: vec![ByteSize::gib(10)],
            prices: None,
            year: Some(2026),
            top: 10,
        }
    }

    fn analyzed(bytes: &[u8], format: Format) -> Result<String, CacheError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        run(&arguments(file.path().to_owned()), format, Some(80))
    }

    #[test]
    fn a_log_becomes_tables_that_fit_a_terminal() {
        insta::assert_snapshot!(analyzed(lines().as_bytes(), Format::Text).unwrap());
    }

    #[test]
    fn a_compressed_log_is_read_as_well_and_json_is_one_object() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(lines().as_bytes()).unwrap();
        let text = analyzed(&gzip.finish().unwrap(), Format::Json).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["blobs"][0]["requests_30d"], 3);
        assert_eq!(report["blobs"][0]["requests_7d"], 2);
        assert_eq!(report["lines_not_understood"], 1);
        assert_eq!(report["caches"][0]["misses"], 1);
    }

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        let missing = run(&arguments("/nonexistent/log".into()), Format::Text, None).unwrap_err();
        let shown = missing.report();
        assert!(
            shown.contains("/nonexistent/log") && shown.contains("ORL-E9001"),
            "{shown}"
        );
        let nothing = analyzed(b"a\nb\n", Format::Text).unwrap_err().report();
        assert!(nothing.contains("2 lines (2 of them"), "{nothing}");
    }
}

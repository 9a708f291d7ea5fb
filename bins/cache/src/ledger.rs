//! `orlop cache top` and `orlop cache compare`: what the ledger tells.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use orlop_base::table::{self, Row};
use orlop_base::units::{format_bytes, format_moment};
use orlop_cache::ledger::{
    By, Change, Changed, Comparison, LedgerReader, RepositoryLine, TopLine, Window,
};
use serde::Serialize;

use crate::error::CacheError;
use crate::root::{Root, clock};
use crate::{Format, json};

#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    #[command(flatten)]
    root: Root,
    /// Today, as far as it has gone, and the UTC days before it
    #[arg(long, value_enum, default_value = "7d")]
    window: Days,
    /// What comes first
    #[arg(long, value_enum, default_value = "pulls")]
    by: Order,
    /// Lines of each table; 0 for all
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    #[command(flatten)]
    root: Root,
    /// This window and the one before it; today counts as far as it has gone
    #[arg(long, value_enum, default_value = "7d")]
    window: Days,
    /// Lines of each kind of change; 0 for all
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Days {
    #[value(name = "7d")]
    Week,
    #[value(name = "30d")]
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    Pulls,
    Bytes,
}

pub(crate) fn top(
    arguments: &TopArguments,
    format: Format,
    width: Option<usize>,
) -> Result<String, CacheError> {
    let root = &arguments.root;
    let now = this_second();
    let (window, most) = (arguments.window.into(), most(arguments.top));
    let by = match arguments.by {
        Order::Pulls => By::Requests,
        Order::Bytes => By::Bytes,
    };
    let read = || {
        let ledger = LedgerReader::open(&root.root)?;
        Ok((
            ledger.top(window, by, most, now)?,
            ledger.repositories(window, most, now)?,
        ))
    };
    let (blobs, repositories) =
        read().map_err(|error: orlop_cache::DatabaseError| root.failed(error.into()))?;
    let report = TopReport {
        window_days: window.length_days(),
        until: format_moment(now),
        blobs: blobs.into_iter().map(BlobPulls::from).collect(),
        repositories: repositories
            .into_iter()
            .map(RepositoryPulls::from)
            .collect(),
    };
    Ok(match format {
        Format::Json => json(&report),
        Format::Text => report.text(width),
    })
}

pub(crate) fn compare(
    arguments: &CompareArguments,
    format: Format,
    width: Option<usize>,
) -> Result<String, CacheError> {
    let root = &arguments.root;
    let now = this_second();
    let compared = LedgerReader::open(&root.root)
        .and_then(|ledger| ledger.compare(arguments.window.into(), most(arguments.top), now));
    let compared = compared.map_err(|error| root.failed(error.into()))?;
    let report = CompareReport::from(compared);
    Ok(match format {
        Format::Json => json(&report),
        Format::Text => report.text(width),
    })
}

/// Now, without the part of a second that nobody asks for.
fn this_second() -> SystemTime {
    let since = clock()
        .wall()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

impl From<Days> for Window {
    fn from(days: Days) -> Self {
        match days {
            Days::Week => Self::Week,
            Days::Month => Self::Month,
        }
    }
}

const fn most(top: usize) -> usize {
    if top == 0 { usize::MAX } else { top }
}

#[derive(Serialize)]
struct TopReport {
    window_days: i64,
    until: String,
    blobs: Vec<BlobPulls>,
    repositories: Vec<RepositoryPulls>,
}

#[derive(Serialize)]
struct BlobPulls {
    digest: String,
    manifest: bool,
    size: u64,
    pulls: u64,
    bytes: u64,
    upstream_pulls: u64,
    upstream_bytes: u64,
    repositories: Vec<String>,
}

#[derive(Serialize)]
struct RepositoryPulls {
    repository: String,
    manifest_pulls: u64,
    blob_pulls: u64,
    bytes: u64,
    upstream_bytes: u64,
}

#[derive(Serialize)]
struct CompareReport {
    from: String,
    middle: String,
    until: String,
    changed: Vec<ChangedLine>,
    steady: u64,
}

#[derive(Serialize)]
struct ChangedLine {
    change: &'static str,
    digest: String,
    pulls_before: u64,
    pulls: u64,
    repositories: Vec<String>,
}

impl TopReport {
    fn text(&self, width: Option<usize>) -> String {
        let mut text = table::render(&self.blobs, width);
        if !self.repositories.is_empty() {
            // Writing to a string does not fail.
            let _written = write!(text, "\n{}", table::render(&self.repositories, width));
        }
        text
    }
}

impl CompareReport {
    fn text(&self, width: Option<usize>) -> String {
        let properties = [
            ("Before", format!("{} to {}", self.from, self.middle)),
            ("Now", format!("{} to {}", self.middle, self.until)),
            ("Steady", self.steady.to_string()),
        ];
        let mut text = table::render_properties(&properties);
        if !self.changed.is_empty() {
            let _written = write!(text, "\n{}", table::render(&self.changed, width));
        }
        text
    }
}

impl From<TopLine> for BlobPulls {
    fn from(line: TopLine) -> Self {
        Self {
            digest: line.digest,
            manifest: line.is_manifest,
            size: line.size,
            pulls: line.counts.requests,
            bytes: line.counts.bytes,
            upstream_pulls: line.counts.upstream_requests,
            upstream_bytes: line.counts.upstream_bytes,
            repositories: line.repositories,
        }
    }
}

impl From<RepositoryLine> for RepositoryPulls {
    fn from(line: RepositoryLine) -> Self {
        Self {
            repository: line.locator,
            manifest_pulls: line.manifests,
            blob_pulls: line.blobs,
            bytes: line.counts.bytes,
            upstream_bytes: line.counts.upstream_bytes,
        }
    }
}

impl From<Comparison> for CompareReport {
    fn from(compared: Comparison) -> Self {
        Self {
            from: format_moment(compared.from),
            middle: format_moment(compared.middle),
            until: format_moment(compared.until),
            changed: compared
                .changed
                .into_iter()
                .map(ChangedLine::from)
                .collect(),
            steady: compared.steady,
        }
    }
}

impl From<Changed> for ChangedLine {
    fn from(changed: Changed) -> Self {
        let change = match changed.change {
            Change::New => "new",
            Change::Hotter => "hotter",
            Change::Colder => "colder",
            Change::Gone => "gone",
            Change::Steady => "steady",
        };
        Self {
            change,
            digest: changed.digest,
            pulls_before: changed.before,
            pulls: changed.now,
            repositories: changed.repositories,
        }
    }
}

impl Row for BlobPulls {
    const HEADINGS: &'static [&'static str] = &[
        "BLOB",
        "SIZE",
        "PULLS",
        "BYTES",
        "FROM UPSTREAM",
        "REPOSITORIES",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.digest.clone(),
            format_bytes(self.size),
            self.pulls.to_string(),
            format_bytes(self.bytes),
            format_bytes(self.upstream_bytes),
            self.repositories.join(", "),
        ]
    }
}

impl Row for RepositoryPulls {
    const HEADINGS: &'static [&'static str] =
        &["REPOSITORY", "MANIFESTS", "BLOBS", "BYTES", "FROM UPSTREAM"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.repository.clone(),
            self.manifest_pulls.to_string(),
            self.blob_pulls.to_string(),
            format_bytes(self.bytes),
            format_bytes(self.upstream_bytes),
        ]
    }
}

impl Row for ChangedLine {
    const HEADINGS: &'static [&'static str] = &["CHANGE", "BLOB", "BEFORE", "NOW", "REPOSITORIES"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.change.to_owned(),
            self.digest.clone(),
            self.pulls_before.to_string(),
            self.pulls.to_string(),
            self.repositories.join(", "),
        ]
    }
}

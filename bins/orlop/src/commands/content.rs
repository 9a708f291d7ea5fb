//! `orlop content`: blobs.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use orlop_api::containerd::services::content::v1::{
    DeleteContentRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest,
    ReadContentRequest,
};
use orlop_base::units::format_bytes;
use orlop_types::Digest;
use serde::Serialize;

use super::{Context, each};
use crate::error::{CliError, Explain};
use crate::output::{Card, Row};
use crate::time;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List blobs
    Ls(Filters),
    /// Tell about a blob
    Info(One),
    /// Write a blob to standard output
    Get(One),
    /// List blobs that are being written
    Active(Filters),
    /// Remove blobs
    Rm(Several),
}

#[derive(Debug, Args)]
pub(crate) struct Filters {
    /// containerd's filters, such as labels."x"==y; any of several matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// A digest, such as sha256:…
    digest: Digest,
}

#[derive(Debug, Args)]
pub(crate) struct Several {
    /// Digests
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Blob {
    digest: String,
    size: i64,
    created_at: Option<String>,
    updated_at: Option<String>,
    labels: BTreeMap<String, String>,
    #[serde(skip)]
    age: String,
}

#[derive(Debug, Serialize)]
struct IngestRow {
    reference: String,
    offset: i64,
    total: i64,
    expected: String,
    started_at: Option<String>,
    #[serde(skip)]
    age: String,
}

/// Algorithm and the first twelve digits: enough to tell blobs apart on a screen.
pub(crate) fn short(digest: &str) -> String {
    match digest.split_once(':') {
        Some((algorithm, hex)) => {
            let hex: String = hex.chars().take(12).collect();
            format!("{algorithm}:{hex}")
        }
        None => digest.to_owned(),
    }
}

pub(crate) async fn run(command: &Command, context: &mut Context<'_>) -> Result<(), CliError> {
    match command {
        Command::Ls(arguments) => list(arguments, context).await,
        Command::Info(arguments) => info(arguments, context).await,
        Command::Get(arguments) => get(arguments, context).await,
        Command::Active(arguments) => active(arguments, context).await,
        Command::Rm(arguments) => remove(arguments, context).await,
    }
}

async fn list(arguments: &Filters, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = ListContentRequest {
        filters: arguments.filters.clone(),
    };
    let what = || "cannot list blobs".to_owned();
    let mut pages = context
        .client
        .content()
        .list(request)
        .await
        .explain(what)?
        .into_inner();
    let now = context.clock.wall();
    let mut rows = Vec::new();
    while let Some(page) = pages.message().await.explain(what)? {
        rows.extend(page.info.into_iter().map(|info| Blob::new(info, now)));
    }
    rows.sort_by(|left, right| left.digest.cmp(&right.digest));
    context.output.rows(&rows)
}

async fn info(arguments: &One, context: &mut Context<'_>) -> Result<(), CliError> {
    let digest = arguments.digest.to_string();
    let request = InfoRequest {
        digest: digest.clone(),
    };
    let answer = context.client.content().info(request).await;
    let found = answer
        .explain(|| format!("cannot find blob {digest}"))?
        .into_inner();
    let now = context.clock.wall();
    context
        .output
        .card(&Blob::new(found.info.unwrap_or_default(), now))
}

async fn get(arguments: &One, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = ReadContentRequest {
        digest: arguments.digest.to_string(),
        offset: 0,
        size: 0,
    };
    let what = || format!("cannot read blob {}", arguments.digest);
    let mut chunks = context
        .client
        .content()
        .read(request)
        .await
        .explain(what)?
        .into_inner();
    while let Some(chunk) = chunks.message().await.explain(what)? {
        context.output.write(&chunk.data)?;
    }
    Ok(())
}

async fn active(arguments: &Filters, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = ListStatusesRequest {
        filters: arguments.filters.clone(),
    };
    let answer = context.client.content().list_statuses(request).await;
    let answer = answer
        .explain(|| "cannot list what is being written".to_owned())?
        .into_inner();
    let now = context.clock.wall();
    let rows: Vec<IngestRow> = answer
        .statuses
        .into_iter()
        .map(|status| IngestRow {
            age: time::age(status.started_at.as_ref(), now),
            started_at: time::moment(status.started_at.as_ref()),
            reference: status.r#ref,
            offset: status.offset,
            total: status.total,
            expected: status.expected,
        })
        .collect();
    context.output.rows(&rows)
}

async fn remove(arguments: &Several, context: &mut Context<'_>) -> Result<(), CliError> {
    each(&arguments.digests, context, async |digest, context| {
        let digest: Digest = digest
            .parse()
            .map_err(|error| CliError::argument("DIGEST", error))?;
        let request = DeleteContentRequest {
            digest: digest.to_string(),
        };
        let deleted = context.client.content().delete(request).await;
        deleted.explain(|| format!("cannot remove blob {digest}"))?;
        Ok(digest.to_string())
    })
    .await
}

impl Blob {
    fn new(info: Info, now: SystemTime) -> Self {
        Self {
            age: time::age(info.created_at.as_ref(), now),
            created_at: time::moment(info.created_at.as_ref()),
            updated_at: time::moment(info.updated_at.as_ref()),
            digest: info.digest,
            size: info.size,
            labels: info.labels.into_iter().collect(),
        }
    }

    fn size(&self) -> String {
        format_bytes(u64::try_from(self.size).unwrap_or_default())
    }
}

impl Row for Blob {
    const HEADINGS: &'static [&'static str] = &["DIGEST", "SIZE", "AGE", "LABELS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.digest.clone(),
            self.size(),
            self.age.clone(),
            labels(&self.labels, ","),
        ]
    }
}

impl Card for Blob {
    fn properties(&self) -> Vec<(&'static str, String)> {
        vec![
            ("digest", self.digest.clone()),
            ("size", format!("{} ({} bytes)", self.size(), self.size)),
            ("created", self.created_at.clone().unwrap_or_default()),
            ("updated", self.updated_at.clone().unwrap_or_default()),
            ("labels", labels(&self.labels, "\n")),
        ]
    }
}

impl Row for IngestRow {
    const HEADINGS: &'static [&'static str] = &["REFERENCE", "DONE", "TOTAL", "STARTED"];

    fn cells(&self) -> Vec<String> {
        let bytes = |count: i64| format_bytes(u64::try_from(count).unwrap_or_default());
        vec![
            self.reference.clone(),
            bytes(self.offset),
            bytes(self.total),
            self.age.clone(),
        ]
    }
}

/// `name=value` pairs in one text.
pub(crate) fn labels(labels: &BTreeMap<String, String>, between: &str) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(between)
}

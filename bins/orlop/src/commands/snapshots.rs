//! `orlop snapshots`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use orlop_api::containerd::services::snapshots::v1::{
    Info, Kind, ListSnapshotsRequest, RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest,
};
use orlop_base::units::format_bytes;
use serde::Serialize;

use super::content::labels;
use super::{Context, each};
use crate::error::{CliError, Explain};
use crate::output::{Card, Row};
use crate::time;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List snapshots
    Ls(List),
    /// Show how much each snapshot takes
    Usage(Keys),
    /// Show snapshots below their parents
    Tree(Backend),
    /// Tell about a snapshot
    Info(One),
    /// Remove snapshots
    Rm(Several),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Backend {
    /// Which snapshotter
    #[arg(long, value_name = "NAME", default_value = "overlayfs")]
    snapshotter: String,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    backend: Backend,
    /// containerd's filters, such as kind==committed; any of several matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(flatten)]
    backend: Backend,
    /// Snapshots; all of them if none is named
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    #[command(flatten)]
    backend: Backend,
    /// A snapshot
    key: String,
}

#[derive(Debug, Args)]
pub(crate) struct Several {
    #[command(flatten)]
    backend: Backend,
    /// Snapshots
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Snapshot {
    key: String,
    parent: String,
    kind: &'static str,
    created_at: Option<String>,
    updated_at: Option<String>,
    labels: BTreeMap<String, String>,
    #[serde(skip)]
    age: String,
}

#[derive(Debug, Serialize)]
struct Usage {
    key: String,
    bytes: i64,
    inodes: i64,
}

pub(crate) async fn run(command: &Command, context: &mut Context<'_>) -> Result<(), CliError> {
    match command {
        Command::Ls(arguments) => {
            let rows = list(&arguments.backend, &arguments.filters, context).await?;
            context.output.rows(&rows)
        }
        Command::Usage(arguments) => usage(arguments, context).await,
        Command::Tree(backend) => {
            let rows = list(backend, &[], context).await?;
            if context.output.is_json() {
                return context.output.rows(&rows);
            }
            context.output.text(tree(&rows).trim_end())
        }
        Command::Info(arguments) => info(arguments, context).await,
        Command::Rm(arguments) => remove(arguments, context).await,
    }
}

async fn list(
    backend: &Backend,
    filters: &[String],
    context: &Context<'_>,
) -> Result<Vec<Snapshot>, CliError> {
    let request = ListSnapshotsRequest {
        snapshotter: backend.snapshotter.clone(),
        filters: filters.to_vec(),
    };
    let what = || format!("cannot list snapshots of {}", backend.snapshotter);
    let mut pages = context
        .client
        .snapshots()
        .list(request)
        .await
        .explain(what)?
        .into_inner();
    let now = context.clock.wall();
    let mut rows = Vec::new();
    while let Some(page) = pages.message().await.explain(what)? {
        rows.extend(page.info.into_iter().map(|info| Snapshot::new(info, now)));
    }
    rows.sort_by(|left, right| left.key.cmp(&right.key));
    Ok(rows)
}

async fn usage(arguments: &Keys, context: &mut Context<'_>) -> Result<(), CliError> {
    let mut keys = arguments.keys.clone();
    if keys.is_empty() {
        let all = list(&arguments.backend, &[], context).await?;
        keys = all.into_iter().map(|snapshot| snapshot.key).collect();
    }
    let mut rows = Vec::new();
    for key in keys {
        let request = UsageRequest {
            snapshotter: arguments.backend.snapshotter.clone(),
            key: key.clone(),
        };
        let answer = context.client.snapshots().usage(request).await;
        let usage = answer
            .explain(|| format!("cannot measure snapshot {key}"))?
            .into_inner();
        rows.push(Usage {
            key,
            bytes: usage.size,
            inodes: usage.inodes,
        });
    }
    context.output.rows(&rows)
}

async fn info(arguments: &One, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = StatSnapshotRequest {
        snapshotter: arguments.backend.snapshotter.clone(),
        key: arguments.key.clone(),
    };
    let answer = context.client.snapshots().stat(request).await;
    let found = answer
        .explain(|| format!("cannot find snapshot {}", arguments.key))?
        .into_inner();
    let now = context.clock.wall();
    context
        .output
        .card(&Snapshot::new(found.info.unwrap_or_default(), now))
}

async fn remove(arguments: &Several, context: &mut Context<'_>) -> Result<(), CliError> {
    let snapshotter = &arguments.backend.snapshotter;
    each(&arguments.keys, context, async |key, context| {
        let request = RemoveSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.to_owned(),
        };
        let removed = context.client.snapshots().remove(request).await;
        removed.explain(|| format!("cannot remove snapshot {key}"))?;
        Ok(key.to_owned())
    })
    .await
}

/// Each snapshot below its parent, indented. A parent that is not in the list counts as none, and what is not
/// reached from the top (a circle, which no sound database has) is listed at the end: nothing is hidden.
fn tree(snapshots: &[Snapshot]) -> String {
    let known: BTreeMap<&str, &Snapshot> = snapshots.iter().map(|s| (s.key.as_str(), s)).collect();
    let mut children: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        let parent = known
            .get(snapshot.parent.as_str())
            .map_or("", |parent| parent.key.as_str());
        children.entry(parent).or_default().push(snapshot);
    }
    let mut text = String::new();
    let mut left: Vec<(usize, &Snapshot)> = Vec::new();
    let mut shown = std::collections::BTreeSet::new();
    let top = children.get("").into_iter().flatten().copied();
    for root in top.chain(snapshots) {
        left.push((0, root));
        while let Some((depth, snapshot)) = left.pop() {
            if !shown.insert(snapshot.key.as_str()) {
                continue;
            }
            // Chains of layers are long and do not branch: beyond this depth indenting shows nothing more.
            let indent = "  ".repeat(depth.min(20));
            text.push_str(&format!("{indent}{}  {}\n", snapshot.key, snapshot.kind));
            let below = children.get(snapshot.key.as_str()).into_iter().flatten();
            left.extend(below.rev().map(|child| (depth + 1, *child)));
        }
    }
    text
}

impl Snapshot {
    fn new(info: Info, now: SystemTime) -> Self {
        Self {
            kind: match info.kind() {
                Kind::Unknown => "unknown",
                Kind::View => "view",
                Kind::Active => "active",
                Kind::Committed => "committed",
            },
            age: time::age(info.created_at.as_ref(), now),
            created_at: time::moment(info.created_at.as_ref()),
            updated_at: time::moment(info.updated_at.as_ref()),
            key: info.name,
            parent: info.parent,
            labels: info.labels.into_iter().collect(),
        }
    }
}

impl Row for Snapshot {
    const HEADINGS: &'static [&'static str] = &["KEY", "PARENT", "KIND", "AGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.key.clone(),
            self.parent.clone(),
            self.kind.to_owned(),
            self.age.clone(),
        ]
    }
}

impl Card for Snapshot {
    fn properties(&self) -> Vec<(&'static str, String)> {
        vec![
            ("key", self.key.clone()),
            ("parent", self.parent.clone()),
            ("kind", self.kind.to_owned()),
            ("created", self.created_at.clone().unwrap_or_default()),
            ("updated", self.updated_at.clone().unwrap_or_default()),
            ("labels", labels(&self.labels, "\n")),
        ]
    }
}

impl Row for Usage {
    const HEADINGS: &'static [&'static str] = &["KEY", "SIZE", "INODES"];

    fn cells(&self) -> Vec<String> {
        let bytes = u64::try_from(self.bytes).unwrap_or_default();
        vec![
            self.key.clone(),
            format_bytes(bytes),
            self.inodes.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(key: &str, parent: &str) -> Snapshot {
        let info = Info {
            name: key.to_owned(),
            parent: parent.to_owned(),
            kind: Kind::Committed.into(),
            ..Info::default()
        };
        Snapshot::new(info, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_tree_shows_every_snapshot_once_even_in_a_circle() {
        let snapshots = [
            snapshot("base", ""),
            snapshot("child", "base"),
            snapshot("circle-a", "circle-b"),
            snapshot("circle-b", "circle-a"),
            snapshot("grandchild", "child"),
            snapshot("orphan", "unknown"),
        ];
        insta::assert_snapshot!(tree(&snapshots), @r"
        base  committed
          child  committed
            grandchild  committed
        orphan  committed
        circle-a  committed
          circle-b  committed
        ");
    }
}

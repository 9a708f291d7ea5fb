//! `orlop leases`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use orlop_api::containerd::services::leases::v1::{
    CreateRequest, DeleteRequest, Lease, ListRequest, ListResourcesRequest,
};
use orlop_base::units::format_moment;
use serde::Serialize;

use super::content::labels;
use super::{Context, each};
use crate::cli::parse_span;
use crate::error::{CliError, Explain};
use crate::output::Row;
use crate::time;

/// When a lease ends, as containerd's clients say it.
const EXPIRE: &str = "containerd.io/gc.expire";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List leases
    Ls(List),
    /// Make a lease
    Create(Create),
    /// Show what a lease holds
    Resources(One),
    /// Remove leases
    Rm(Several),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// containerd's filters, such as id~=pull; any of several matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its id; without one the daemon makes one up
    #[arg(default_value = "", hide_default_value = true)]
    id: String,
    /// How long it lasts, such as 24h; without it, until it is removed
    #[arg(long, value_parser = parse_span, value_name = "TIME")]
    expires: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// A lease
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Several {
    /// Wait until what the leases held is collected
    #[arg(long)]
    sync: bool,
    /// Leases
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Debug, Serialize)]
struct LeaseRow {
    id: String,
    created_at: Option<String>,
    labels: BTreeMap<String, String>,
    #[serde(skip)]
    age: String,
}

#[derive(Debug, Serialize)]
struct ResourceRow {
    kind: String,
    id: String,
}

pub(crate) async fn run(command: &Command, context: &mut Context<'_>) -> Result<(), CliError> {
    match command {
        Command::Ls(arguments) => list(arguments, context).await,
        Command::Create(arguments) => create(arguments, context).await,
        Command::Resources(arguments) => resources(arguments, context).await,
        Command::Rm(arguments) => remove(arguments, context).await,
    }
}

async fn list(arguments: &List, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = ListRequest {
        filters: arguments.filters.clone(),
    };
    let answer = context.client.leases().list(request).await;
    let answer = answer
        .explain(|| "cannot list leases".to_owned())?
        .into_inner();
    let now = context.clock.wall();
    let mut rows: Vec<LeaseRow> = answer
        .leases
        .into_iter()
        .map(|lease| LeaseRow::new(lease, now))
        .collect();
    rows.sort_by(|left, right| left.id.cmp(&right.id));
    context.output.rows(&rows)
}

async fn create(arguments: &Create, context: &mut Context<'_>) -> Result<(), CliError> {
    let mut labels = BTreeMap::new();
    if let Some(span) = arguments.expires {
        let end = context.clock.wall().checked_add(span);
        let end = end.ok_or_else(|| CliError::argument("--expires", "lies beyond any calendar"))?;
        labels.insert(EXPIRE.to_owned(), format_moment(end));
    }
    let request = CreateRequest {
        id: arguments.id.clone(),
        labels,
    };
    let answer = context.client.leases().create(request).await;
    let answer = answer
        .explain(|| format!("cannot make lease {}", arguments.id))?
        .into_inner();
    let now = context.clock.wall();
    let lease = LeaseRow::new(answer.lease.unwrap_or_default(), now);
    context.output.done(&lease, &lease.id)
}

async fn resources(arguments: &One, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = ListResourcesRequest {
        id: arguments.id.clone(),
    };
    let answer = context.client.leases().list_resources(request).await;
    let answer = answer.explain(|| format!("cannot list what lease {} holds", arguments.id))?;
    let rows: Vec<ResourceRow> = answer
        .into_inner()
        .resources
        .into_iter()
        .map(|resource| ResourceRow {
            kind: resource.r#type,
            id: resource.id,
        })
        .collect();
    context.output.rows(&rows)
}

async fn remove(arguments: &Several, context: &mut Context<'_>) -> Result<(), CliError> {
    let sync = arguments.sync;
    each(&arguments.ids, context, async |id, context| {
        let request = DeleteRequest {
            id: id.to_owned(),
            sync,
        };
        let deleted = context.client.leases().delete(request).await;
        deleted.explain(|| format!("cannot remove lease {id}"))?;
        Ok(id.to_owned())
    })
    .await
}

impl LeaseRow {
    fn new(lease: Lease, now: SystemTime) -> Self {
        Self {
            age: time::age(lease.created_at.as_ref(), now),
            created_at: time::moment(lease.created_at.as_ref()),
            id: lease.id,
            labels: lease.labels.into_iter().collect(),
        }
    }
}

impl Row for LeaseRow {
    const HEADINGS: &'static [&'static str] = &["ID", "CREATED", "EXPIRES", "LABELS"];

    fn cells(&self) -> Vec<String> {
        let mut others = self.labels.clone();
        let expires = others.remove(EXPIRE).unwrap_or_else(|| "never".to_owned());
        vec![
            self.id.clone(),
            self.age.clone(),
            expires,
            labels(&others, ","),
        ]
    }
}

impl Row for ResourceRow {
    const HEADINGS: &'static [&'static str] = &["KIND", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![self.kind.clone(), self.id.clone()]
    }
}

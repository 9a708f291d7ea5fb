//! `orlop gc`: collection, and why something is kept.

use clap::{Args, Subcommand, ValueEnum};
use orlop_api::orlop::v1::{
    GcRunRequest, GcRunResponse, GcStatusRequest, GcStatusResponse, GcWhyRequest, Holding,
    Resource, ResourceKind, SweepItem,
};
use orlop_base::units::{format_bytes, format_duration};
use serde::Serialize;
use serde_json::{Value, json};

use super::Context;
use crate::error::{CliError, Explain};
use crate::output::Card;
use crate::time;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Collect now
    Run(Run),
    /// Show the last collection and what still waits for removal
    Status(Status),
    /// Show what holds a blob, snapshot, image or any other thing
    Why(Why),
}

#[derive(Debug, Args)]
pub(crate) struct Run {}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show so many waiting items at most
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    items: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Only this kind of thing
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// A digest or its first digits, a snapshot's key, an image's name, an id
    key: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    Namespace,
    Lease,
    Image,
    Container,
    Sandbox,
    Content,
    Snapshot,
    Ingest,
    Mount,
}

#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    json: Value,
    #[serde(skip)]
    text: Vec<(&'static str, String)>,
}

impl Card for Answer {
    fn properties(&self) -> Vec<(&'static str, String)> {
        self.text.clone()
    }
}

pub(crate) async fn run(command: &Command, context: &mut Context<'_>) -> Result<(), CliError> {
    match command {
        Command::Run(Run {}) => collect(context).await,
        Command::Status(arguments) => status(arguments, context).await,
        Command::Why(arguments) => why(arguments, context).await,
    }
}

async fn collect(context: &mut Context<'_>) -> Result<(), CliError> {
    let answer = context.client.collection().run(GcRunRequest {}).await;
    let answer = answer.explain(|| "cannot collect".to_owned())?.into_inner();
    context.output.card(&collected(&answer))
}

async fn status(arguments: &Status, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = GcStatusRequest {
        items_max: arguments.items,
    };
    let answer = context.client.collection().status(request).await;
    let answer = answer
        .explain(|| "cannot ask for the state of collection".to_owned())?
        .into_inner();
    context.output.card(&state(&answer))
}

async fn why(arguments: &Why, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = GcWhyRequest {
        key: arguments.key.clone(),
        kind: arguments
            .kind
            .map_or(ResourceKind::Unspecified, Kind::resource)
            .into(),
    };
    let answer = context.client.collection().why(request).await;
    let what = || format!("cannot tell what holds {}", arguments.key);
    let holdings = answer.explain(what)?.into_inner().holdings;
    if holdings.is_empty() {
        let status = tonic::Status::not_found(format!(
            "nothing of that name in namespace {}",
            context.client.namespace()
        ));
        return Err(status).explain(what);
    }
    if context.output.is_json() {
        let values: Vec<Value> = holdings.iter().map(holding_json).collect();
        return context.output.json(&values);
    }
    let texts: Vec<String> = holdings.iter().map(holding_text).collect();
    context.output.text(texts.join("\n").trim_end())
}

fn collected(answer: &GcRunResponse) -> Answer {
    let (duration, pause) = (
        time::span(answer.duration.as_ref()),
        time::span(answer.pause.as_ref()),
    );
    Answer {
        json: json!({
            "duration_seconds": duration.as_secs_f64(),
            "pause_seconds": pause.as_secs_f64(),
            "content_collected": answer.content_collected,
            "snapshots_collected": answer.snapshots_collected,
            "leases_expired": answer.leases_expired,
            "bytes_freed": answer.bytes_freed,
            "failed": answer.failed.iter().map(sweep_json).collect::<Vec<_>>(),
        }),
        text: vec![
            ("freed", format_bytes(answer.bytes_freed)),
            ("blobs", answer.content_collected.to_string()),
            ("snapshots", answer.snapshots_collected.to_string()),
            ("leases expired", answer.leases_expired.to_string()),
            ("took", format_duration(duration)),
            ("writers waited", format_duration(pause)),
            ("failed", sweep_lines(&answer.failed)),
        ],
    }
}

fn state(answer: &GcStatusResponse) -> Answer {
    let duration = time::span(answer.last_duration.as_ref());
    let last = time::moment(answer.last_started_at.as_ref());
    let next = time::moment(answer.next_at.as_ref());
    Answer {
        json: json!({
            "last_started_at": last,
            "last_duration_seconds": duration.as_secs_f64(),
            "last_pause_seconds": time::span(answer.last_pause.as_ref()).as_secs_f64(),
            "last_collected": answer.last_collected,
            "last_bytes_freed": answer.last_bytes_freed,
            "next_at": next,
            "queue_length": answer.queue_length,
            "queue": answer.queue.iter().map(sweep_json).collect::<Vec<_>>(),
            "bytes_held": answer.bytes_held,
        }),
        text: vec![
            ("held", format_bytes(answer.bytes_held)),
            (
                "last",
                last.unwrap_or_else(|| "none since the daemon started".to_owned()),
            ),
            ("took", format_duration(duration)),
            (
                "collected",
                format!(
                    "{}, {} freed",
                    answer.last_collected,
                    format_bytes(answer.last_bytes_freed)
                ),
            ),
            (
                "next",
                next.unwrap_or_else(|| "when something changes".to_owned()),
            ),
            ("waiting", answer.queue_length.to_string()),
            ("soonest", sweep_lines(&answer.queue)),
        ],
    }
}

/// The path as one reads it: what is asked about first, then who holds it, up to the root.
fn holding_text(holding: &Holding) -> String {
    let resource = holding.resource.clone().unwrap_or_default();
    let mut text = format!("{}  {}\n", name(&resource), format_bytes(holding.bytes));
    if let Some(sweep) = &holding.sweep {
        text.push_str(&format!(
            "  is collected, its bytes wait for removal: {}\n",
            sweep_line(sweep)
        ));
        return text;
    }
    if holding.path.is_empty() {
        text.push_str("  is held by nothing: the next collection takes it\n");
        return text;
    }
    for pair in holding.path.windows(2).rev() {
        if let [holder, held] = pair {
            let holder = name(&holder.resource.clone().unwrap_or_default());
            text.push_str(&format!("  held by {holder}: {}\n", held.reason));
        }
    }
    if let Some(root) = holding.path.first() {
        text.push_str(&format!("  which is a root: {}\n", root.reason));
    }
    text
}

fn holding_json(holding: &Holding) -> Value {
    let path: Vec<Value> = holding
        .path
        .iter()
        .map(|hop| {
            let mut value = resource_json(&hop.resource.clone().unwrap_or_default());
            value["reason"] = json!(hop.reason);
            value
        })
        .collect();
    json!({
        "resource": resource_json(&holding.resource.clone().unwrap_or_default()),
        "held": !holding.path.is_empty(),
        "path": path,
        "sweep": holding.sweep.as_ref().map(sweep_json),
        "bytes": holding.bytes,
    })
}

/// `kind key`, with what tells it apart from others of its key.
pub(crate) fn name(resource: &Resource) -> String {
    let mut text = format!("{} {}", kind_name(resource.kind()), resource.key);
    if !resource.snapshotter.is_empty() {
        text.push_str(&format!(" ({})", resource.snapshotter));
    }
    if !resource.namespace.is_empty() {
        text.push_str(&format!(" in {}", resource.namespace));
    }
    text
}

pub(crate) fn resource_json(resource: &Resource) -> Value {
    json!({
        "kind": kind_name(resource.kind()),
        "namespace": resource.namespace,
        "key": resource.key,
        "snapshotter": resource.snapshotter,
    })
}

fn kind_name(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Unspecified => "thing",
        ResourceKind::Namespace => "namespace",
        ResourceKind::Lease => "lease",
        ResourceKind::Image => "image",
        ResourceKind::Container => "container",
        ResourceKind::Sandbox => "sandbox",
        ResourceKind::Content => "content",
        ResourceKind::Snapshot => "snapshot",
        ResourceKind::Ingest => "ingest",
        ResourceKind::Mount => "mount",
    }
}

impl Kind {
    fn resource(self) -> ResourceKind {
        match self {
            Self::Namespace => ResourceKind::Namespace,
            Self::Lease => ResourceKind::Lease,
            Self::Image => ResourceKind::Image,
            Self::Container => ResourceKind::Container,
            Self::Sandbox => ResourceKind::Sandbox,
            Self::Content => ResourceKind::Content,
            Self::Snapshot => ResourceKind::Snapshot,
            Self::Ingest => ResourceKind::Ingest,
            Self::Mount => ResourceKind::Mount,
        }
    }
}

fn sweep_json(item: &SweepItem) -> Value {
    json!({
        "resource": resource_json(&item.resource.clone().unwrap_or_default()),
        "attempts": item.attempts,
        "next_try_at": time::moment(item.next_try_at.as_ref()),
        "last_error": item.last_error,
    })
}

fn sweep_lines(items: &[SweepItem]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let lines: Vec<String> = items.iter().map(sweep_line).collect();
    lines.join("\n")
}

fn sweep_line(item: &SweepItem) -> String {
    let mut line = name(&item.resource.clone().unwrap_or_default());
    if item.attempts > 0 {
        line.push_str(&format!(", {} tries: {}", item.attempts, item.last_error));
    }
    line
}

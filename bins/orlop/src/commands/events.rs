//! `orlop events`: history, and what happens now.

mod describe;

use clap::Args;
use orlop_api::orlop::v1::{Event, EventGap, EventsRequest, ExitCause, events_response};
use serde_json::{Value, json};

use super::Context;
use super::inspect::cause_name;
use crate::error::{CliError, Explain};
use crate::time;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Events since a moment, a span ago such as 10m, or after a sequence number
    #[arg(long, value_name = "TIME|NUMBER")]
    since: Option<String>,
    /// Go on with new events; this is so unless --since is given
    #[arg(long, short)]
    follow: bool,
    /// Events of every namespace
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// containerd's filters, such as topic~=/tasks/; any of several matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl Arguments {
    fn request(&self, now: std::time::SystemTime) -> Result<EventsRequest, CliError> {
        let since_sequence = self.since.as_deref().and_then(|text| text.parse().ok());
        let since_time = match (&self.since, since_sequence) {
            (Some(text), None) => Some(time::parse("--since", text, now)?),
            _known => None,
        };
        Ok(EventsRequest {
            since_sequence,
            since_time,
            follow: self.follow || self.since.is_none(),
            filters: self.filters.clone(),
            all_namespaces: self.all_namespaces,
        })
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = arguments.request(context.clock.wall())?;
    let what = || "cannot read events".to_owned();
    let mut events = context
        .client
        .node()
        .events(request)
        .await
        .explain(what)?
        .into_inner();
    while let Some(message) = events.message().await.explain(what)? {
        match message.message {
            Some(events_response::Message::Event(event)) => show(event, context)?,
            Some(events_response::Message::Gap(gap)) => show_gap(&gap, context)?,
            None => {}
        }
    }
    Ok(())
}

fn show(event: Event, context: &mut Context<'_>) -> Result<(), CliError> {
    let cause = event.cause();
    let envelope = event.envelope.unwrap_or_default();
    let mut details = envelope
        .event
        .as_ref()
        .map(describe::describe)
        .unwrap_or_default();
    if cause != ExitCause::Unspecified {
        details.insert("cause".to_owned(), json!(cause_name(cause)));
    }
    let value = json!({
        "sequence": event.sequence,
        "time": time::moment(envelope.timestamp.as_ref()),
        "namespace": envelope.namespace,
        "topic": envelope.topic,
        "type": envelope.event.as_ref().map(|event| event.type_url.clone()),
        "event": details,
    });
    context.output.item(&value, line)
}

fn show_gap(gap: &EventGap, context: &mut Context<'_>) -> Result<(), CliError> {
    let value = json!({ "gap": { "after_sequence": gap.after_sequence, "next_sequence": gap.next_sequence } });
    context.output.item(&value, |_| {
        format!(
            "-- events after {} and before {} are no longer kept: list anew what you follow",
            gap.after_sequence, gap.next_sequence
        )
    })
}

fn line(value: &Value) -> String {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let details: Vec<String> = value["event"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text}"),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                format!("{name}={value}")
            }
        })
        .collect();
    format!(
        "{} {} {} {} {}",
        value["sequence"],
        text("time"),
        text("namespace"),
        text("topic"),
        details.join(" ")
    )
    .trim_end()
    .to_owned()
}

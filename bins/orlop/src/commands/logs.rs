//! `orlop logs`.

use clap::Args;
use orlop_api::orlop::v1::{LogEntry, LogStream, LogsRequest};
use serde_json::json;

use super::Context;
use crate::error::{CliError, Explain};
use crate::time;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Go on until the container ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last so many entries
    #[arg(long, value_name = "COUNT")]
    tail: Option<u64>,
    /// Only entries since a moment, or since a span ago such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Put the time in front
    #[arg(long, short)]
    timestamps: bool,
    /// A container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let now = context.clock.wall();
    let since = arguments
        .since
        .as_deref()
        .map(|text| time::parse("--since", text, now))
        .transpose()?;
    let request = LogsRequest {
        id: arguments.id.clone(),
        follow: arguments.follow,
        since,
        tail: arguments.tail,
    };
    let what = || format!("cannot read the log of {}", arguments.id);
    let mut entries = context
        .client
        .containers()
        .logs(request)
        .await
        .explain(what)?
        .into_inner();
    while let Some(entry) = entries.message().await.explain(what)? {
        show(&entry, arguments.timestamps, context)?;
    }
    Ok(())
}

/// The container's bytes are shown as they are, on the stream they were written to: that is what a log is for.
fn show(entry: &LogEntry, timestamps: bool, context: &mut Context<'_>) -> Result<(), CliError> {
    let moment = time::moment(entry.time.as_ref()).unwrap_or_default();
    let is_error = entry.stream() == LogStream::Stderr;
    if context.output.is_json() {
        let value = json!({
            "time": moment,
            "stream": if is_error { "stderr" } else { "stdout" },
            "text": String::from_utf8_lossy(&entry.data),
            "partial": entry.partial,
        });
        return context.output.item(&value, |_| String::new());
    }
    let mut bytes = Vec::with_capacity(entry.data.len() + moment.len() + 1);
    if timestamps {
        bytes.extend_from_slice(moment.as_bytes());
        bytes.push(b' ');
    }
    bytes.extend_from_slice(&entry.data);
    if is_error {
        context.output.write_error(&bytes)
    } else {
        context.output.write(&bytes)
    }
}

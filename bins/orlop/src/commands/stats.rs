//! `orlop stats`.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use clap::Args;
use orlop_api::orlop::v1::{StatsRequest, StatsResponse};
use orlop_base::units::format_bytes;
use serde::Serialize;

use super::Context;
use crate::cli::parse_span;
use crate::error::{CliError, Explain};
use crate::output::Row;
use crate::time;

/// Between the two samples from which the processor's share is computed.
const SAMPLE_DISTANCE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Show a line for each container again and again, at this interval
    #[arg(long, value_parser = parse_span, value_name = "TIME")]
    interval: Option<Duration>,
    /// Containers; all running ones if none is named
    #[arg(value_name = "CONTAINER")]
    ids: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Sample {
    time: Option<String>,
    id: String,
    /// Of one processor; absent until there are two samples.
    cpu_percent: Option<f64>,
    cpu_usage_nanos: u64,
    cpu_throttled_nanos: u64,
    memory_bytes: u64,
    memory_working_set_bytes: u64,
    memory_peak_bytes: u64,
    memory_limit_bytes: u64,
    oom_kills: u64,
    pids: u64,
    io_read_bytes: u64,
    io_written_bytes: u64,
    shim_memory_bytes: u64,
}

/// The last sample of each container, to compute shares from.
#[derive(Default)]
struct Last(HashMap<String, (SystemTime, u64)>);

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let interval = arguments
        .interval
        .map(orlop_api::Duration::try_from)
        .transpose();
    let request = StatsRequest {
        ids: arguments.ids.clone(),
        interval: interval.map_err(|_| CliError::argument("--interval", "is too long"))?,
    };
    let what = || "cannot measure containers".to_owned();
    let mut last = Last::default();
    if request.interval.is_none() {
        return once(request, &mut last, context).await;
    }
    let mut samples = context
        .client
        .containers()
        .stats(request)
        .await
        .explain(what)?
        .into_inner();
    while let Some(sample) = samples.message().await.explain(what)? {
        let sample = last.sample(sample);
        context
            .output
            .item(&sample, |sample| sample.cells().join("  "))?;
    }
    Ok(())
}

/// One table: a sample of each container, and a second one a moment later.
async fn once(
    request: StatsRequest,
    last: &mut Last,
    context: &mut Context<'_>,
) -> Result<(), CliError> {
    let first = round(&request, last, context).await?;
    if first.is_empty() {
        return context.output.rows(&first);
    }
    context.clock.sleep(SAMPLE_DISTANCE).await;
    let second = round(&request, last, context).await?;
    context.output.rows(&second)
}

async fn round(
    request: &StatsRequest,
    last: &mut Last,
    context: &Context<'_>,
) -> Result<Vec<Sample>, CliError> {
    let what = || "cannot measure containers".to_owned();
    let answer = context.client.containers().stats(request.clone()).await;
    let mut samples = answer.explain(what)?.into_inner();
    let mut rows = Vec::new();
    while let Some(sample) = samples.message().await.explain(what)? {
        rows.push(last.sample(sample));
    }
    rows.sort_by(|left, right| left.id.cmp(&right.id));
    Ok(rows)
}

impl Last {
    fn sample(&mut self, answer: StatsResponse) -> Sample {
        let moment = answer.time.and_then(|time| SystemTime::try_from(time).ok());
        let cpu_percent = moment.and_then(|moment| {
            let before = self
                .0
                .insert(answer.id.clone(), (moment, answer.cpu_usage_nanos));
            share(before?, (moment, answer.cpu_usage_nanos))
        });
        Sample {
            time: time::moment(answer.time.as_ref()),
            id: answer.id,
            cpu_percent,
            cpu_usage_nanos: answer.cpu_usage_nanos,
            cpu_throttled_nanos: answer.cpu_throttled_nanos,
            memory_bytes: answer.memory_bytes,
            memory_working_set_bytes: answer.memory_working_set_bytes,
            memory_peak_bytes: answer.memory_peak_bytes,
            memory_limit_bytes: answer.memory_limit_bytes,
            oom_kills: answer.oom_kills,
            pids: answer.pids,
            io_read_bytes: answer.io_read_bytes,
            io_written_bytes: answer.io_written_bytes,
            shim_memory_bytes: answer.shim_memory_bytes,
        }
    }
}

/// Percent of one processor between two samples.
fn share(
    (before, used_before): (SystemTime, u64),
    (now, used_now): (SystemTime, u64),
) -> Option<f64> {
    let elapsed = now
        .duration_since(before)
        .ok()
        .filter(|elapsed| !elapsed.is_zero())?;
    let used = Duration::from_nanos(used_now.saturating_sub(used_before));
    Some(used.as_secs_f64() / elapsed.as_secs_f64() * 100.0)
}

impl Row for Sample {
    const HEADINGS: &'static [&'static str] = &[
        "CONTAINER",
        "CPU",
        "MEMORY",
        "LIMIT",
        "PEAK",
        "PIDS",
        "OOM",
        "SHIM",
    ];

    fn cells(&self) -> Vec<String> {
        let limit = match self.memory_limit_bytes {
            0 => "-".to_owned(),
            bytes => format_bytes(bytes),
        };
        vec![
            self.id.clone(),
            self.cpu_percent
                .map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}%")),
            format_bytes(self.memory_working_set_bytes),
            limit,
            format_bytes(self.memory_peak_bytes),
            self.pids.to_string(),
            self.oom_kills.to_string(),
            format_bytes(self.shim_memory_bytes),
        ]
    }
}

//! `orlop stop`.

use std::time::Duration;

use clap::Args;
use orlop_api::containerd::services::containers::v1::Container;

use super::{Context, each};
use crate::cli::parse_span;
use crate::container::{self, Process};
use crate::error::CliError;
use crate::signals;

/// Where containerd's clients keep the signal that the image asks for.
const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long a container may take before it is killed
    #[arg(long, short, default_value = "10s", value_parser = parse_span, value_name = "TIME")]
    time: Duration,
    /// Another signal than the image asks for
    #[arg(long, short, value_parser = signals::parse, value_name = "SIGNAL")]
    signal: Option<u32>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    ids: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    each(&arguments.ids, context, async |id, context| {
        let record = container::record(&context.client, id).await?;
        container::keep_stopped(&context.client, &record).await?;
        let signal = arguments.signal.unwrap_or_else(|| image_signal(&record));
        stop(id, signal, arguments.time, context).await?;
        Ok(id.to_owned())
    })
    .await
}

/// Sends `signal`, and after `grace` the one that nobody survives.
pub(crate) async fn stop(
    id: &str,
    signal: u32,
    grace: Duration,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let process = Process::first(id);
    container::kill(&context.client, &process, signal, false).await?;
    let ended = tokio::select! {
        ended = container::wait(&context.client, &process) => Some(ended),
        () = context.clock.sleep(grace) => None,
    };
    match ended {
        Some(ended) => ended.map(drop),
        None => {
            let killed = container::kill(&context.client, &process, signals::KILL, true).await;
            // It may have ended in between, which is what was wanted.
            if let Err(failure) = killed
                && !failure.is_not_found()
            {
                return Err(failure);
            }
            container::wait(&context.client, &process).await.map(drop)
        }
    }
}

fn image_signal(record: &Container) -> u32 {
    let named = record.labels.get(STOP_SIGNAL);
    let signal = named.and_then(|name| signals::parse(name).ok());
    signal.unwrap_or(signals::TERM)
}

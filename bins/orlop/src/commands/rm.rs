//! `orlop rm`.

use std::time::Duration;

use clap::Args;

use super::{Context, each};
use crate::container::{self, Process};
use crate::error::CliError;
use crate::signals;

/// Together about three seconds.
const ATTEMPTS_MAX: u32 = 30;
const ATTEMPT_DISTANCE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Kill those that run
    #[arg(long, short)]
    force: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    ids: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let force = arguments.force;
    each(&arguments.ids, context, async |id, context| {
        delete_task(id, force, context).await?;
        container::delete(&context.client, id).await?;
        Ok(id.to_owned())
    })
    .await
}

/// Deletes the task, if there is one. A task that is just going away, as after its shim was killed, refuses everything
/// until it has gone, which is soon.
async fn delete_task(id: &str, force: bool, context: &Context<'_>) -> Result<(), CliError> {
    let mut attempts_left = ATTEMPTS_MAX;
    loop {
        attempts_left -= 1;
        match try_delete_task(id, force, context).await {
            Err(failure) if failure.is_unavailable() && attempts_left > 0 => {
                context.clock.sleep(ATTEMPT_DISTANCE).await;
            }
            settled => return settled,
        }
    }
}

async fn try_delete_task(id: &str, force: bool, context: &Context<'_>) -> Result<(), CliError> {
    if force {
        let record = container::record(&context.client, id).await?;
        container::keep_stopped(&context.client, &record).await?;
        end(id, context).await?;
    }
    // The daemon refuses to delete what runs, and says so better than a check of ours that is old at once.
    container::delete_task(&context.client, id).await
}

/// Kills everything in a container and waits. One that does not run is as good.
async fn end(id: &str, context: &Context<'_>) -> Result<(), CliError> {
    let process = Process::first(id);
    let ended = match container::kill(&context.client, &process, signals::KILL, true).await {
        Ok(()) => container::wait(&context.client, &process).await.map(drop),
        Err(failure) => Err(failure),
    };
    match ended {
        // A shim that was killed took its container along: there is nobody left to send a signal.
        Err(failure) if !failure.is_not_found() && !failure.is_unavailable() => Err(failure),
        _ended => Ok(()),
    }
}

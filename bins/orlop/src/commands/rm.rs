//! `orlop rm`.

use clap::Args;

use super::{Context, each};
use crate::container::{self, Process};
use crate::error::CliError;
use crate::signals;

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
        if force {
            end(id, context).await?;
        }
        // The daemon refuses to delete what runs, and says so better than a check of ours that is old at once.
        container::delete_task(&context.client, id).await?;
        container::delete(&context.client, id).await?;
        Ok(id.to_owned())
    })
    .await
}

/// Kills everything in a container and waits. One that does not run is as good.
async fn end(id: &str, context: &Context<'_>) -> Result<(), CliError> {
    let process = Process::first(id);
    let ended = match container::kill(&context.client, &process, signals::KILL, true).await {
        Ok(()) => container::wait(&context.client, &process).await.map(drop),
        Err(failure) => Err(failure),
    };
    match ended {
        Err(failure) if !failure.is_not_found() => Err(failure),
        _ended => Ok(()),
    }
}

//! `orlop kill`.

use clap::Args;

use super::{Context, each};
use crate::container::{self, Process};
use crate::error::CliError;
use crate::signals;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which signal, by name or number
    #[arg(long, short, default_value = "KILL", value_parser = signals::parse, value_name = "SIGNAL")]
    signal: u32,
    /// Send it to every process of the container
    #[arg(long)]
    all: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    ids: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let Arguments { signal, all, .. } = *arguments;
    each(&arguments.ids, context, async |id, context| {
        container::kill(&context.client, &Process::first(id), signal, all).await?;
        Ok(id.to_owned())
    })
    .await
}

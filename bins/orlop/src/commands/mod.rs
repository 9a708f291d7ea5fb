//! A module for each command.

pub(crate) mod completions;
pub(crate) mod content;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod leases;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod namespaces;
pub(crate) mod program;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod snapshots;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod tag;
pub(crate) mod version;

use std::future::Future;

use orlop_base::clock::SharedClock;

use crate::cli::{Cli, Command, Global, Local, Remote};
use crate::client::Client;
use crate::error::CliError;
use crate::output::Output;
use crate::signals;

/// What a command works with.
pub(crate) struct Context<'a> {
    pub(crate) client: Client,
    pub(crate) output: &'a mut Output,
    pub(crate) clock: SharedClock,
}

/// Runs what was typed and returns the exit code.
pub(crate) async fn run(cli: Cli, output: &mut Output, clock: SharedClock) -> Result<u8, CliError> {
    let Cli { global, command } = cli;
    let timeout = global.timeout;
    // `run` and `exec` hand Ctrl-C on to the container; everything else ends by it.
    let hands_signals_on = matches!(command, Command::Remote(Remote::Run(_) | Remote::Exec(_)));
    let work = dispatch(command, global, output, clock);
    tokio::select! {
        result = within(timeout, work) => result,
        () = signals::interrupted(), if !hands_signals_on => Err(CliError::Interrupted),
    }
}

async fn within(
    timeout: Option<std::time::Duration>,
    work: impl Future<Output = Result<u8, CliError>>,
) -> Result<u8, CliError> {
    match timeout {
        None => work.await,
        Some(timeout) => {
            tokio::time::timeout(timeout, work)
                .await
                .unwrap_or(Err(CliError::Timeout {
                    seconds: timeout.as_secs_f64(),
                }))
        }
    }
}

async fn dispatch(
    command: Command,
    global: Global,
    output: &mut Output,
    clock: SharedClock,
) -> Result<u8, CliError> {
    match command {
        Command::Local(Local::Completions(arguments)) => completions::run(&arguments, output)?,
        Command::Local(Local::Man(arguments)) => man::run(&arguments)?,
        Command::Local(Local::Cache(arguments)) => {
            match program::run("orlop-cache", &arguments)? {}
        }
        Command::Local(Local::Version(arguments)) => {
            version::run(&arguments, &global, output).await?
        }
        Command::Remote(command) => {
            let client = Client::connect(&global.address, &global.namespace).await?;
            let mut context = Context {
                client,
                output,
                clock,
            };
            return perform(command, &mut context).await;
        }
    }
    Ok(0)
}

/// Runs a command that speaks to the daemon.
async fn perform(command: Remote, context: &mut Context<'_>) -> Result<u8, CliError> {
    match command {
        Remote::Run(arguments) => return run::run(*arguments, context).await,
        Remote::Exec(arguments) => return exec::run(arguments, context).await,
        Remote::Fsck(arguments) => return fsck::run(&arguments, context).await,
        Remote::Ps(arguments) => ps::run(&arguments, context).await,
        Remote::Logs(arguments) => logs::run(&arguments, context).await,
        Remote::Stop(arguments) => stop::run(&arguments, context).await,
        Remote::Kill(arguments) => kill::run(&arguments, context).await,
        Remote::Rm(arguments) => rm::run(&arguments, context).await,
        Remote::Inspect(arguments) => inspect::run(&arguments, context).await,
        Remote::Stats(arguments) => stats::run(&arguments, context).await,
        Remote::Events(arguments) => events::run(&arguments, context).await,
        Remote::Pull(arguments) => pull::run(&arguments, context).await,
        Remote::Push(arguments) => push::run(&arguments, context).await,
        Remote::Images(arguments) => images::run(&arguments, context).await,
        Remote::Rmi(arguments) => rmi::run(&arguments, context).await,
        Remote::Import(arguments) => import::run(&arguments, context).await,
        Remote::Export(arguments) => export::run(&arguments, context).await,
        Remote::Tag(arguments) => tag::run(&arguments, context).await,
        Remote::Content(command) => content::run(&command, context).await,
        Remote::Snapshots(command) => snapshots::run(&command, context).await,
        Remote::Leases(command) => leases::run(&command, context).await,
        Remote::Namespaces(command) => namespaces::run(&command, context).await,
        Remote::Gc(command) => gc::run(&command, context).await,
        Remote::Info(arguments) => info::run(&arguments, context).await,
    }?;
    Ok(0)
}

/// Does the same to each of several things: names those done, goes on after a failure, and ends with the first one.
pub(crate) async fn each<'a>(
    names: &[String],
    context: &mut Context<'a>,
    work: impl AsyncFn(&str, &mut Context<'a>) -> Result<String, CliError>,
) -> Result<(), CliError> {
    let mut first_failure = None;
    let mut done = Vec::new();
    for name in names {
        match work(name, context).await {
            Ok(name) => done.push(name),
            Err(failure) => match first_failure {
                None => first_failure = Some(failure),
                // The first failure is shown at the end, by `main`.
                Some(_) => context.output.failure(&failure)?,
            },
        }
    }
    if context.output.is_json() {
        context.output.json(&done)?;
    } else {
        done.iter().try_for_each(|name| context.output.text(name))?;
    }
    first_failure.map_or(Ok(()), Err)
}

//! `orlop run`.

mod options;

use clap::Args;
use orlop_api::containerd::services::images::v1::GetImageRequest;
use orlop_api::containerd::services::tasks::v1::{CreateTaskRequest, StartRequest};
use orlop_api::orlop::v1::{CreateRequest, PullRequest};

use super::{Context, pull};
use crate::container::{self, Process};
use crate::error::{CliError, Explain};
use crate::image;
use crate::stdio::{Paths, Stdio, Wanted};

pub(crate) use self::options::variable;
use self::options::{Options, PullPolicy};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Leave the container running and print its id
    #[arg(long, short)]
    detach: bool,
    /// Connect standard input
    #[arg(long, short)]
    interactive: bool,
    /// Give the process a terminal
    #[arg(long, short)]
    tty: bool,
    /// Remove the container when it ends
    #[arg(long)]
    rm: bool,
    /// An image; fetched when it is not here
    image: String,
    /// The command, instead of the image's
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl Arguments {
    fn wanted(&self) -> Wanted {
        Wanted {
            stdin: self.interactive,
            tty: self.tty,
        }
    }

    fn request(&self) -> Result<CreateRequest, CliError> {
        let request = CreateRequest {
            image: image::name(&self.image),
            args: self.command.clone(),
            tty: self.tty,
            stdin: self.interactive && !self.detach,
            auto_remove: self.rm,
            ..CreateRequest::default()
        };
        self.options.apply(request)
    }
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context<'_>) -> Result<u8, CliError> {
    let not_started = |failure| CliError::NotStarted(Box::new(failure));
    let (request, wanted) = (arguments.request(), arguments.wanted());
    let request = request.map_err(not_started)?;
    if !arguments.detach {
        wanted.check().map_err(not_started)?;
    }
    let id = create(request, &arguments, context)
        .await
        .map_err(not_started)?;
    let stdio = match start(&id, &arguments, context).await {
        Ok(stdio) => stdio,
        Err(failure) => {
            // Nothing has run, so nothing is worth keeping; what fails here is told after the failure that led here.
            undo(&id, context).await?;
            return Err(not_started(failure));
        }
    };
    let Some(stdio) = stdio else {
        return detached(&id, context).map(|()| 0);
    };
    let process = Process::first(&id);
    let code = stdio
        .attend(&context.client, &process, context.output)
        .await?;
    container::delete_task(&context.client, &id).await?;
    if arguments.rm {
        remove(&id, context).await?;
    }
    Ok(code)
}

/// Makes the container, after fetching its image if that is wanted.
async fn create(
    request: CreateRequest,
    arguments: &Arguments,
    context: &mut Context<'_>,
) -> Result<String, CliError> {
    if must_pull(&request.image, arguments.options.pull, context).await? {
        let pull_request = PullRequest {
            reference: image::reference("IMAGE", &arguments.image)?,
            platform: request.platform.clone(),
            snapshotter: request.snapshotter.clone(),
            ..PullRequest::default()
        };
        pull::pull(pull_request, context).await?;
    }
    let what = || format!("cannot make a container of {}", request.image);
    let answer = context.client.containers().create(request.clone()).await;
    let created = answer.explain(what)?.into_inner();
    for warning in &created.warnings {
        context.output.note(&format!("orlop: {warning}"))?;
    }
    Ok(created.id)
}

async fn must_pull(
    name: &str,
    policy: PullPolicy,
    context: &Context<'_>,
) -> Result<bool, CliError> {
    match policy {
        PullPolicy::Always => return Ok(true),
        PullPolicy::Never => return Ok(false),
        PullPolicy::Missing => {}
    }
    let request = GetImageRequest {
        name: name.to_owned(),
    };
    let found = context.client.image_records().get(request).await;
    match found.explain(|| format!("cannot find image {name}")) {
        Ok(_) => Ok(false),
        Err(failure) if failure.is_not_found() => Ok(true),
        Err(failure) => Err(failure),
    }
}

/// Starts the container; with its streams, unless it is to be left alone.
async fn start(
    id: &str,
    arguments: &Arguments,
    context: &Context<'_>,
) -> Result<Option<Stdio>, CliError> {
    let stdio = match arguments.detach {
        true => None,
        false => Some(Stdio::create(arguments.wanted())?),
    };
    // Without paths the daemon writes the output to its log.
    let paths = stdio
        .as_ref()
        .map_or_else(Paths::default, |stdio| stdio.paths.clone());
    let request = CreateTaskRequest {
        container_id: id.to_owned(),
        stdin: paths.stdin,
        stdout: paths.stdout,
        stderr: paths.stderr,
        terminal: arguments.tty,
        ..CreateTaskRequest::default()
    };
    let what = || format!("cannot start container {id}");
    let mut tasks = context.client.tasks();
    tasks.create(request).await.explain(what)?;
    let request = StartRequest {
        container_id: id.to_owned(),
        exec_id: String::new(),
    };
    tasks.start(request).await.explain(what)?;
    Ok(stdio)
}

fn detached(id: &str, context: &mut Context<'_>) -> Result<(), CliError> {
    let result = serde_json::json!({ "id": id });
    context.output.done(&result, id)
}

/// Removes what a failed start has left. Each step is tried; failures are shown.
async fn undo(id: &str, context: &mut Context<'_>) -> Result<(), CliError> {
    let steps = [
        container::delete_task(&context.client, id).await,
        remove(id, context).await,
    ];
    for failure in steps.into_iter().filter_map(Result::err) {
        context.output.failure(&failure)?;
    }
    Ok(())
}

/// Removes the container. With `auto_remove` the daemon may have been faster.
async fn remove(id: &str, context: &Context<'_>) -> Result<(), CliError> {
    match container::delete(&context.client, id).await {
        Err(failure) if failure.is_not_found() => Ok(()),
        removed => removed,
    }
}

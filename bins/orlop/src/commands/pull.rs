//! `orlop pull`.

use clap::Args;
use orlop_api::orlop::v1::{PullDone, PullRequest, pull_event};
use orlop_base::units::{format_bytes, format_duration};
use serde::Serialize;

use super::Context;
use crate::error::{CliError, Explain};
use crate::image;
use crate::output::Progress;
use crate::time;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    registry: super::push::RegistryArguments,
    /// Another platform than this machine's, such as linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// Fetch every platform
    #[arg(long)]
    all_platforms: bool,
    /// Fetch without unpacking
    #[arg(long)]
    no_unpack: bool,
    /// Which snapshotter holds the layers
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    snapshotter: String,
    /// An image, such as alpine:3 or registry.example.com/team/app@sha256:…
    #[arg(value_name = "IMAGE")]
    reference: String,
}

#[derive(Debug, Serialize)]
struct Pulled {
    name: String,
    digest: String,
    chain_id: String,
    snapshotter: String,
    bytes_fetched: u64,
    seconds: f64,
}

impl Arguments {
    fn request(&self) -> Result<PullRequest, CliError> {
        Ok(PullRequest {
            reference: image::reference("IMAGE", &self.reference)?,
            platform: image::platform(self.platform.as_deref())?,
            all_platforms: self.all_platforms,
            snapshotter: self.snapshotter.clone(),
            skip_unpack: self.no_unpack,
            registry: self.registry.options()?,
            labels: Default::default(),
        })
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let done = pull(arguments.request()?, context).await?;
    let elapsed = time::span(done.duration.as_ref());
    let pulled = Pulled {
        digest: done.target.unwrap_or_default().digest,
        name: done.name,
        chain_id: done.chain_id,
        snapshotter: done.snapshotter,
        bytes_fetched: done.bytes_fetched,
        seconds: elapsed.as_secs_f64(),
    };
    if !context.output.is_json() {
        let fetched = format_bytes(pulled.bytes_fetched);
        let note = format!("{fetched} fetched in {}", format_duration(elapsed));
        context.output.note(&note)?;
    }
    let text = format!("{}\n{}", pulled.name, pulled.digest);
    context.output.done(&pulled, &text)
}

/// Pulls with progress; also for `run`.
pub(crate) async fn pull(
    request: PullRequest,
    context: &mut Context<'_>,
) -> Result<PullDone, CliError> {
    let what = format!("cannot pull {}", request.reference);
    let mut events = context
        .client
        .images()
        .pull(request)
        .await
        .explain(|| what.clone())?
        .into_inner();
    let mut progress = Progress::default();
    while let Some(message) = events.message().await.explain(|| what.clone())? {
        match message.event {
            Some(pull_event::Event::Blob(blob)) => {
                progress.update(&blob, context.clock.boottime());
                context.output.progress(&mut progress)?;
            }
            Some(pull_event::Event::Done(done)) => return Ok(done),
            // Something newer than this program.
            Some(pull_event::Event::Resolved(_)) | None => {}
        }
    }
    Err(CliError::Incomplete {
        what,
        missing: "the stream ended before the image was there",
    })
}

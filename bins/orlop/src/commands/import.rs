//! `orlop import`.

use clap::Args;
use orlop_api::orlop::v1::{ImportOptions, ImportRequest, import_request};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Context;
use crate::error::{CliError, Explain};
use crate::image;
use crate::output::Row;

/// A message of this size is far below the daemon's limit, and two of them are all that is held.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The name of images that the archive does not name
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    base_name: String,
    /// Another platform than this machine's
    #[arg(long)]
    platform: Option<String>,
    /// Store every platform
    #[arg(long)]
    all_platforms: bool,
    /// Store without unpacking
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
    /// An OCI or docker archive; - is standard input
    #[arg(value_name = "FILE")]
    file: String,
}

#[derive(Debug, Serialize)]
struct ImportedRow {
    name: String,
    digest: String,
}

impl Row for ImportedRow {
    const HEADINGS: &'static [&'static str] = &["NAME", "TARGET"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), super::content::short(&self.digest)]
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let options = ImportOptions {
        base_name: arguments.base_name.clone(),
        snapshotter: arguments.snapshotter.clone(),
        skip_unpack: arguments.no_unpack,
        platform: image::platform(arguments.platform.as_deref())?,
        all_platforms: arguments.all_platforms,
    };
    let what = || format!("cannot import {}", arguments.file);
    let mut source = open(&arguments.file).await?;
    let (sender, receiver) = mpsc::channel(2);
    let mut images = context.client.images();
    let (sent, answer) = tokio::join!(
        send(options, &mut source, sender),
        images.import(ReceiverStream::new(receiver)),
    );
    // A daemon that refuses stops reading, so its word explains more than ours; unless it saw a cut archive.
    sent.explain(|| format!("cannot read {}", arguments.file))?;
    let rows: Vec<ImportedRow> = answer
        .explain(what)?
        .into_inner()
        .images
        .into_iter()
        .map(|image| ImportedRow {
            name: image.name,
            digest: image.target.unwrap_or_default().digest,
        })
        .collect();
    context.output.rows(&rows)
}

async fn open(file: &str) -> Result<Box<dyn AsyncRead + Unpin>, CliError> {
    if file == "-" {
        return Ok(Box::new(tokio::io::stdin()));
    }
    let opened = tokio::fs::File::open(file).await;
    Ok(Box::new(opened.explain(|| format!("cannot open {file}"))?))
}

async fn send(
    options: ImportOptions,
    source: &mut (impl AsyncRead + Unpin),
    sender: mpsc::Sender<ImportRequest>,
) -> std::io::Result<()> {
    let message = |message| ImportRequest {
        message: Some(message),
    };
    if sender
        .send(message(import_request::Message::Options(options)))
        .await
        .is_err()
    {
        return Ok(());
    }
    loop {
        let mut data = vec![0; CHUNK_BYTES];
        let length = source.read(&mut data).await?;
        data.truncate(length);
        let ended = length == 0;
        if ended
            || sender
                .send(message(import_request::Message::Data(data.into())))
                .await
                .is_err()
        {
            return Ok(());
        }
    }
}

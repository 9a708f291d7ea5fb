//! `orlop export`.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use clap::Args;
use orlop_api::orlop::v1::ExportRequest;

use super::Context;
use crate::error::{CliError, Explain};
use crate::image;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Another platform than this machine's
    #[arg(long)]
    platform: Option<String>,
    /// Write every platform that is here
    #[arg(long)]
    all_platforms: bool,
    /// The archive; - is standard output
    #[arg(value_name = "FILE")]
    file: String,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = ExportRequest {
        images: arguments
            .images
            .iter()
            .map(|text| image::name(text))
            .collect(),
        platform: image::platform(arguments.platform.as_deref())?,
        all_platforms: arguments.all_platforms,
    };
    if arguments.file == "-" {
        if io::stdout().is_terminal() {
            return Err(CliError::argument(
                "FILE",
                "an archive would spoil the terminal: name a file, or pipe",
            ));
        }
        return receive(request, context, None).await;
    }
    let path = Path::new(&arguments.file);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let what = || format!("cannot write {}", path.display());
    // Half an archive must not look like one: it gets its name when it is whole, and goes when it is not.
    let mut file = tempfile::NamedTempFile::new_in(folder).explain(what)?;
    receive(request, context, Some(file.as_file_mut())).await?;
    file.as_file().sync_all().explain(what)?;
    file.persist(path)
        .map_err(|error| error.error)
        .explain(what)?;
    let result = serde_json::json!({ "file": arguments.file });
    context.output.done(&result, &arguments.file)
}

/// Writes the archive to `file`, or to standard output.
async fn receive(
    request: ExportRequest,
    context: &mut Context<'_>,
    mut file: Option<&mut std::fs::File>,
) -> Result<(), CliError> {
    let what = || format!("cannot export {}", request.images.join(", "));
    let mut chunks = context
        .client
        .images()
        .export(request.clone())
        .await
        .explain(what)?
        .into_inner();
    while let Some(chunk) = chunks.message().await.explain(what)? {
        match &mut file {
            Some(file) => file.write_all(&chunk.data).map_err(CliError::Output)?,
            None => context.output.write(&chunk.data)?,
        }
    }
    Ok(())
}

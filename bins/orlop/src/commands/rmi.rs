//! `orlop rmi`: the name goes; what it alone held is collected afterwards.

use clap::Args;
use orlop_api::containerd::services::images::v1::DeleteImageRequest;

use super::{Context, each};
use crate::error::{CliError, Explain};
use crate::image;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Wait until what the images held is collected
    #[arg(long)]
    sync: bool,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let sync = arguments.sync;
    each(&arguments.images, context, async |text, context| {
        let name = image::name(text);
        let request = DeleteImageRequest {
            name: name.clone(),
            sync,
            target: None,
        };
        let deleted = context.client.image_records().delete(request).await;
        deleted.explain(|| format!("cannot remove image {name}"))?;
        Ok(name)
    })
    .await
}

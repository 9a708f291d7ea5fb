//! `orlop tag`.

use clap::Args;
use orlop_api::FieldMask;
use orlop_api::containerd::services::images::v1::{
    CreateImageRequest, GetImageRequest, Image, UpdateImageRequest,
};
use tonic::Code;

use super::Context;
use crate::error::{CliError, Explain};
use crate::image;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An image
    source: String,
    /// Its further name
    target: String,
    /// Take the name from another image that has it
    #[arg(long, short)]
    force: bool,
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let source = image::name(&arguments.source);
    let name = image::reference("TARGET", &arguments.target)?;
    let mut records = context.client.image_records();
    let request = GetImageRequest {
        name: source.clone(),
    };
    let found = records
        .get(request)
        .await
        .explain(|| format!("cannot find image {source}"))?;
    let image = Image {
        name: name.clone(),
        ..found.into_inner().image.unwrap_or_default()
    };
    let request = CreateImageRequest {
        image: Some(image.clone()),
        source_date_epoch: None,
    };
    match records.create(request).await {
        Err(status) if status.code() == Code::AlreadyExists && arguments.force => {
            let request = UpdateImageRequest {
                image: Some(image),
                update_mask: Some(FieldMask {
                    paths: vec!["target".to_owned()],
                }),
                source_date_epoch: None,
            };
            records.update(request).await.map(drop)
        }
        created => created.map(drop),
    }
    .explain(|| format!("cannot name {source} {name}"))?;
    context
        .output
        .done(&serde_json::json!({ "name": name }), &name)
}

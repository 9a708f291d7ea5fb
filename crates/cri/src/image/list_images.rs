//! `ListImages`: every image that can be run here, or the one that the filter names.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use super::message;
use crate::{Cri, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::ListImagesRequest,
) -> Result<api::ListImagesResponse, Status> {
    let images = images(cri, request.filter).await?;
    Ok(api::ListImagesResponse { images })
}

/// The images of both kinds of list.
pub(super) async fn images(
    cri: &Cri,
    filter: Option<api::ImageFilter>,
) -> Result<Vec<api::Image>, Status> {
    let wanted = filter
        .and_then(|filter| filter.image)
        .map(|spec| spec.image)
        .filter(|image| !image.is_empty());
    let found = match wanted {
        Some(text) => cri
            .images()
            .find(&cri.scope(), &text)
            .await
            .map(|found| found.into_iter().collect()),
        None => cri.images().catalog(&cri.scope()).await,
    };
    let entries: Vec<_> = found.map_err(|error| status::of_image(&error))?;
    Ok(entries.into_iter().map(message::image).collect())
}

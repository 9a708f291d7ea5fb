//! `RemoveImage`: every name of the image goes. What a container or another image still needs stays until nothing does.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use super::message;
use crate::{Cri, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::RemoveImageRequest,
) -> Result<api::RemoveImageResponse, Status> {
    let text = message::name(request.image)?;
    let removed = cri.images().remove_all_names(&cri.scope(), &text).await;
    let removed = removed.map_err(|error| status::of_image(&error))?;
    tracing::info!(image = text, names = removed.len(), "removed an image");
    Ok(api::RemoveImageResponse {})
}

//! `StreamImages`: `ListImages` in pieces.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use super::list_images;
use crate::Cri;
use crate::stream::{Answers, in_pieces};

pub(super) async fn call(
    cri: &Cri,
    request: api::StreamImagesRequest,
) -> Result<Answers<api::StreamImagesResponse>, Status> {
    let images = list_images::images(cri, request.filter).await?;
    Ok(in_pieces(images, |images| api::StreamImagesResponse {
        images,
    }))
}

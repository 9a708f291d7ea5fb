//! `StreamContainers`: the list in pieces.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use super::list_containers;
use crate::Cri;
use crate::stream::{Answers, in_pieces};

pub(super) async fn call(
    cri: &Cri,
    request: api::StreamContainersRequest,
) -> Result<Answers<api::StreamContainersResponse>, Status> {
    let kept = list_containers::kept(cri, request.filter).await?;
    Ok(in_pieces(kept, |containers| {
        api::StreamContainersResponse { containers }
    }))
}

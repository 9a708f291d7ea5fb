//! `StreamContainerStats`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;
use crate::stream::Answers;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StreamContainerStatsRequest,
) -> Result<Answers<api::StreamContainerStatsResponse>, Status> {
    Err(Status::unimplemented(
        "StreamContainerStats is not served yet",
    ))
}

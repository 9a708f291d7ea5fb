//! `ListContainerStats`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ListContainerStatsRequest,
) -> Result<api::ListContainerStatsResponse, Status> {
    Err(Status::unimplemented(
        "ListContainerStats is not served yet",
    ))
}

//! `ContainerStats`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ContainerStatsRequest,
) -> Result<api::ContainerStatsResponse, Status> {
    Err(Status::unimplemented("ContainerStats is not served yet"))
}

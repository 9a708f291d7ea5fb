//! `UpdateContainerResources`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::UpdateContainerResourcesRequest,
) -> Result<api::UpdateContainerResourcesResponse, Status> {
    Err(Status::unimplemented(
        "UpdateContainerResources is not served yet",
    ))
}

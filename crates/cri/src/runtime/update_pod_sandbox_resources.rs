//! `UpdatePodSandboxResources`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::UpdatePodSandboxResourcesRequest,
) -> Result<api::UpdatePodSandboxResourcesResponse, Status> {
    Err(Status::unimplemented(
        "UpdatePodSandboxResources is not served yet",
    ))
}

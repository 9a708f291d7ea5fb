//! `ListPodSandboxStats`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ListPodSandboxStatsRequest,
) -> Result<api::ListPodSandboxStatsResponse, Status> {
    Err(Status::unimplemented(
        "ListPodSandboxStats is not served yet",
    ))
}

//! `PodSandboxStats`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::PodSandboxStatsRequest,
) -> Result<api::PodSandboxStatsResponse, Status> {
    Err(Status::unimplemented("PodSandboxStats is not served yet"))
}

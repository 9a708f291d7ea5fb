//! `ListPodSandboxMetrics`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ListPodSandboxMetricsRequest,
) -> Result<api::ListPodSandboxMetricsResponse, Status> {
    Err(Status::unimplemented(
        "ListPodSandboxMetrics is not served yet",
    ))
}

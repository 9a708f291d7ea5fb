//! `StreamPodSandboxMetrics`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;
use crate::stream::Answers;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StreamPodSandboxMetricsRequest,
) -> Result<Answers<api::StreamPodSandboxMetricsResponse>, Status> {
    Err(Status::unimplemented(
        "StreamPodSandboxMetrics is not served yet",
    ))
}

//! `StreamPodSandboxMetrics`: `ListPodSandboxMetrics` in pieces.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::stream::{Answers, in_pieces};
use crate::{Cri, metrics};

pub(super) async fn call(
    cri: &Cri,
    _request: api::StreamPodSandboxMetricsRequest,
) -> Result<Answers<api::StreamPodSandboxMetricsResponse>, Status> {
    let samples = metrics::samples(cri).await?;
    Ok(in_pieces(samples, |pod_sandbox_metrics| {
        api::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }
    }))
}

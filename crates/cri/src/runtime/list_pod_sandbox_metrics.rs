//! `ListPodSandboxMetrics`: cAdvisor's figures of every pod.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, metrics};

pub(super) async fn call(
    cri: &Cri,
    _request: api::ListPodSandboxMetricsRequest,
) -> Result<api::ListPodSandboxMetricsResponse, Status> {
    Ok(api::ListPodSandboxMetricsResponse {
        pod_metrics: metrics::samples(cri).await?,
    })
}

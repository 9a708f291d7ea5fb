//! `PodSandboxStats`: the figures of one pod and its running containers.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, find, stats};

pub(super) async fn call(
    cri: &Cri,
    request: api::PodSandboxStatsRequest,
) -> Result<api::PodSandboxStatsResponse, Status> {
    let pod = find::pod(cri, &request.pod_sandbox_id).await?;
    let mut stats = stats::of_pods(cri, vec![pod]).await?;
    Ok(api::PodSandboxStatsResponse { stats: stats.pop() })
}

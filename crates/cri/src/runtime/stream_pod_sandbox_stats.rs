//! `StreamPodSandboxStats`: `ListPodSandboxStats` in pieces.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::stream::{Answers, in_pieces};
use crate::{Cri, stats};

pub(super) async fn call(
    cri: &Cri,
    request: api::StreamPodSandboxStatsRequest,
) -> Result<Answers<api::StreamPodSandboxStatsResponse>, Status> {
    let pods = stats::wanted_pods(cri, request.filter).await?;
    let stats = stats::of_pods(cri, pods).await?;
    Ok(in_pieces(stats, |pod_sandbox_stats| {
        api::StreamPodSandboxStatsResponse { pod_sandbox_stats }
    }))
}

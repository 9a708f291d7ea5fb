//! `ListPodSandboxStats`: the figures of the pods that a filter keeps.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, stats};

pub(super) async fn call(
    cri: &Cri,
    request: api::ListPodSandboxStatsRequest,
) -> Result<api::ListPodSandboxStatsResponse, Status> {
    let pods = stats::wanted_pods(cri, request.filter).await?;
    let stats = stats::of_pods(cri, pods).await?;
    Ok(api::ListPodSandboxStatsResponse { stats })
}

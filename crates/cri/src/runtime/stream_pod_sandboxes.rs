//! `StreamPodSandboxes`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use super::list_pod_sandbox::wanted;
use crate::Cri;
use crate::stream::{Answers, in_pieces};

pub(super) async fn call(
    cri: &Cri,
    request: api::StreamPodSandboxesRequest,
) -> Result<Answers<api::StreamPodSandboxesResponse>, Status> {
    let pods = wanted(cri, request.filter).await?;
    Ok(in_pieces(pods, |pod_sandboxes| {
        api::StreamPodSandboxesResponse { pod_sandboxes }
    }))
}

//! `StreamPodSandboxStats`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;
use crate::stream::Answers;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StreamPodSandboxStatsRequest,
) -> Result<Answers<api::StreamPodSandboxStatsResponse>, Status> {
    Err(Status::unimplemented(
        "StreamPodSandboxStats is not served yet",
    ))
}

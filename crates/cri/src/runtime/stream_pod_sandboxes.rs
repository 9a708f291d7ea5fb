//! `StreamPodSandboxes`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;
use crate::stream::Answers;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StreamPodSandboxesRequest,
) -> Result<Answers<api::StreamPodSandboxesResponse>, Status> {
    Err(Status::unimplemented(
        "StreamPodSandboxes is not served yet",
    ))
}

//! `CheckpointContainer`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::CheckpointContainerRequest,
) -> Result<api::CheckpointContainerResponse, Status> {
    Err(Status::unimplemented(
        "CheckpointContainer is not served yet",
    ))
}

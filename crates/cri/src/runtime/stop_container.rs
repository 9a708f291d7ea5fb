//! `StopContainer`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StopContainerRequest,
) -> Result<api::StopContainerResponse, Status> {
    Err(Status::unimplemented("StopContainer is not served yet"))
}

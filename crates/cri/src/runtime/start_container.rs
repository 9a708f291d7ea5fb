//! `StartContainer`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StartContainerRequest,
) -> Result<api::StartContainerResponse, Status> {
    Err(Status::unimplemented("StartContainer is not served yet"))
}

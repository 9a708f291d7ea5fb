//! `CreateContainer`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::CreateContainerRequest,
) -> Result<api::CreateContainerResponse, Status> {
    Err(Status::unimplemented("CreateContainer is not served yet"))
}

//! `RemoveContainer`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::RemoveContainerRequest,
) -> Result<api::RemoveContainerResponse, Status> {
    Err(Status::unimplemented("RemoveContainer is not served yet"))
}

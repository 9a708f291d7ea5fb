//! `PodSandboxStatus`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::PodSandboxStatusRequest,
) -> Result<api::PodSandboxStatusResponse, Status> {
    Err(Status::unimplemented("PodSandboxStatus is not served yet"))
}

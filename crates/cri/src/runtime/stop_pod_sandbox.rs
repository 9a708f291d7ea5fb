//! `StopPodSandbox`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StopPodSandboxRequest,
) -> Result<api::StopPodSandboxResponse, Status> {
    Err(Status::unimplemented("StopPodSandbox is not served yet"))
}

//! `RunPodSandbox`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::RunPodSandboxRequest,
) -> Result<api::RunPodSandboxResponse, Status> {
    Err(Status::unimplemented("RunPodSandbox is not served yet"))
}

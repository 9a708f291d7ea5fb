//! `RemovePodSandbox`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::RemovePodSandboxRequest,
) -> Result<api::RemovePodSandboxResponse, Status> {
    Err(Status::unimplemented("RemovePodSandbox is not served yet"))
}

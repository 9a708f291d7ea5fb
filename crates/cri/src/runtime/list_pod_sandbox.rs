//! `ListPodSandbox`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ListPodSandboxRequest,
) -> Result<api::ListPodSandboxResponse, Status> {
    Err(Status::unimplemented("ListPodSandbox is not served yet"))
}

//! `ListContainers`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ListContainersRequest,
) -> Result<api::ListContainersResponse, Status> {
    Err(Status::unimplemented("ListContainers is not served yet"))
}

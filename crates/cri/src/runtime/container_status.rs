//! `ContainerStatus`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ContainerStatusRequest,
) -> Result<api::ContainerStatusResponse, Status> {
    Err(Status::unimplemented("ContainerStatus is not served yet"))
}

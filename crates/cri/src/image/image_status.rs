//! `ImageStatus`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ImageStatusRequest,
) -> Result<api::ImageStatusResponse, Status> {
    Err(Status::unimplemented("ImageStatus is not served yet"))
}

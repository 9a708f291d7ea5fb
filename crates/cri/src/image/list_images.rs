//! `ListImages`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ListImagesRequest,
) -> Result<api::ListImagesResponse, Status> {
    Err(Status::unimplemented("ListImages is not served yet"))
}

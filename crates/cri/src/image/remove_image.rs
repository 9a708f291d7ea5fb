//! `RemoveImage`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::RemoveImageRequest,
) -> Result<api::RemoveImageResponse, Status> {
    Err(Status::unimplemented("RemoveImage is not served yet"))
}

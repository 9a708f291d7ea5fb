//! `ImageFsInfo`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ImageFsInfoRequest,
) -> Result<api::ImageFsInfoResponse, Status> {
    Err(Status::unimplemented("ImageFsInfo is not served yet"))
}

//! `PullImage`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::PullImageRequest,
) -> Result<api::PullImageResponse, Status> {
    Err(Status::unimplemented("PullImage is not served yet"))
}

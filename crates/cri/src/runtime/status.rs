//! `Status`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StatusRequest,
) -> Result<api::StatusResponse, Status> {
    Err(Status::unimplemented("Status is not served yet"))
}

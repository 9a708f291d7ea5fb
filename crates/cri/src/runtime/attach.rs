//! `Attach`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::AttachRequest,
) -> Result<api::AttachResponse, Status> {
    Err(Status::unimplemented("Attach is not served yet"))
}

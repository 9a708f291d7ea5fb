//! `ReopenContainerLog`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ReopenContainerLogRequest,
) -> Result<api::ReopenContainerLogResponse, Status> {
    Err(Status::unimplemented(
        "ReopenContainerLog is not served yet",
    ))
}

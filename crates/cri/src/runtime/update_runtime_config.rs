//! `UpdateRuntimeConfig`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::UpdateRuntimeConfigRequest,
) -> Result<api::UpdateRuntimeConfigResponse, Status> {
    Err(Status::unimplemented(
        "UpdateRuntimeConfig is not served yet",
    ))
}

//! `Version`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::VersionRequest,
) -> Result<api::VersionResponse, Status> {
    Err(Status::unimplemented("Version is not served yet"))
}

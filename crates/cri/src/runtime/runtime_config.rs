//! `RuntimeConfig`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::RuntimeConfigRequest,
) -> Result<api::RuntimeConfigResponse, Status> {
    Err(Status::unimplemented("RuntimeConfig is not served yet"))
}

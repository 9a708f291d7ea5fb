//! `PortForward`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::PortForwardRequest,
) -> Result<api::PortForwardResponse, Status> {
    Err(Status::unimplemented("PortForward is not served yet"))
}

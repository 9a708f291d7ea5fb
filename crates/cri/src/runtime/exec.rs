//! `Exec`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ExecRequest,
) -> Result<api::ExecResponse, Status> {
    Err(Status::unimplemented("Exec is not served yet"))
}

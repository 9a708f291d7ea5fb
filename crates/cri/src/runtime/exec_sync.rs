//! `ExecSync`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ExecSyncRequest,
) -> Result<api::ExecSyncResponse, Status> {
    Err(Status::unimplemented("ExecSync is not served yet"))
}

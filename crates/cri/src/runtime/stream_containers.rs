//! `StreamContainers`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;
use crate::stream::Answers;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StreamContainersRequest,
) -> Result<Answers<api::StreamContainersResponse>, Status> {
    Err(Status::unimplemented("StreamContainers is not served yet"))
}

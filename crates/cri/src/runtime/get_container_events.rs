//! `GetContainerEvents`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;
use crate::stream::Answers;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::GetEventsRequest,
) -> Result<Answers<api::ContainerEventResponse>, Status> {
    Err(Status::unimplemented(
        "GetContainerEvents is not served yet",
    ))
}

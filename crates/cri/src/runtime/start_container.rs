//! `StartContainer`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, find, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::StartContainerRequest,
) -> Result<api::StartContainerResponse, Status> {
    let member = find::member(cri, &request.container_id).await?;
    let started = cri.runtime().start_member(cri.namespace(), &member.id);
    started.await.map_err(|error| status::of_runtime(&error))?;
    Ok(api::StartContainerResponse {})
}

//! `RemoveContainer`: ends the container if it runs. What is not there is removed.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, find, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::RemoveContainerRequest,
) -> Result<api::RemoveContainerResponse, Status> {
    let answer = api::RemoveContainerResponse {};
    let found = find::member(cri, &request.container_id).await;
    let Some(member) = find::if_there(found)? else {
        return Ok(answer);
    };
    let removed = cri.runtime().remove_member(cri.namespace(), &member.id);
    removed.await.map_err(|error| status::of_runtime(&error))?;
    Ok(answer)
}

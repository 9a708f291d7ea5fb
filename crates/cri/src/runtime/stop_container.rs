//! `StopContainer`: what is not there is stopped.

use std::time::Duration;

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, find, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::StopContainerRequest,
) -> Result<api::StopContainerResponse, Status> {
    let answer = api::StopContainerResponse {};
    let found = find::member(cri, &request.container_id).await;
    let Some(member) = find::if_there(found)? else {
        return Ok(answer);
    };
    // No time, and less than none, is at once.
    let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    let stopped = cri
        .runtime()
        .stop_member(cri.namespace(), &member.id, grace);
    stopped.await.map_err(|error| status::of_runtime(&error))?;
    Ok(answer)
}

//! `UpdateContainerResources`: changes what a container may use, at once if it runs.

use orlop_api::runtime::v1 as api;
use orlop_runtime::spec::Limits;
use tonic::Status;

use crate::{Cri, container, find, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::UpdateContainerResourcesRequest,
) -> Result<api::UpdateContainerResourcesResponse, Status> {
    let member = find::member(cri, &request.container_id).await?;
    let wanted = request.linux.ok_or_else(|| status::missing("linux"))?;
    let limits = Limits {
        // A process's score is set when it is started; here it is not said whether zero means zero.
        oom_score_adjustment: None,
        ..container::limits(wanted)?
    };
    let updated = cri
        .runtime()
        .update_member(cri.namespace(), &member.id, limits);
    updated.await.map_err(|error| status::of_runtime(&error))?;
    Ok(api::UpdateContainerResourcesResponse {})
}

//! `ListContainers`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, container, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::ListContainersRequest,
) -> Result<api::ListContainersResponse, Status> {
    let containers = kept(cri, request.filter).await?;
    Ok(api::ListContainersResponse { containers })
}

/// The containers that a filter keeps.
pub(super) async fn kept(
    cri: &Cri,
    filter: Option<api::ContainerFilter>,
) -> Result<Vec<api::Container>, Status> {
    let filter = filter.unwrap_or_default();
    let members = cri.runtime().members(cri.namespace(), None).await;
    let members = members.map_err(|error| status::of_runtime(&error))?;
    let kept = members
        .into_iter()
        .filter(|member| container::keeps(&filter, member));
    Ok(kept.map(container::entry).collect())
}

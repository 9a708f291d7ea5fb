//! `ListPodSandbox`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, pods, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::ListPodSandboxRequest,
) -> Result<api::ListPodSandboxResponse, Status> {
    let items = wanted(cri, request.filter).await?;
    Ok(api::ListPodSandboxResponse { items })
}

/// The pods that a filter keeps, by id.
pub(super) async fn wanted(
    cri: &Cri,
    filter: Option<api::PodSandboxFilter>,
) -> Result<Vec<api::PodSandbox>, Status> {
    let filter = filter.unwrap_or_default();
    let all = cri.runtime().pods(cri.namespace()).await;
    let all = all.map_err(|error| status::of_runtime(&error))?;
    let wanted = all.into_iter().filter(|pod| pods::is_wanted(pod, &filter));
    Ok(wanted.map(pods::listed).collect())
}

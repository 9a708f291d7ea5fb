//! `UpdatePodSandboxResources`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, find, pods, status};

/// Kept with the pod's record. The limits are set by the kubelet, whose cgroup it is.
pub(super) async fn call(
    cri: &Cri,
    request: api::UpdatePodSandboxResourcesRequest,
) -> Result<api::UpdatePodSandboxResourcesResponse, Status> {
    let pod = find::pod(cri, &request.pod_sandbox_id).await?;
    let changes = (
        request.overhead.map(pods::resources),
        request.resources.map(pods::resources),
    );
    let runtime = cri.runtime();
    let kept = runtime.update_pod_resources(cri.namespace(), &pod.id, changes);
    kept.await.map_err(|error| status::of_runtime(&error))?;
    Ok(api::UpdatePodSandboxResourcesResponse {})
}

//! `RemovePodSandbox`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, find, status};

/// A pod that is not there is as good as removed.
pub(super) async fn call(
    cri: &Cri,
    request: api::RemovePodSandboxRequest,
) -> Result<api::RemovePodSandboxResponse, Status> {
    let found = find::pod(cri, &request.pod_sandbox_id).await;
    if let Some(pod) = find::if_there(found)? {
        let removed = cri.runtime().remove_pod(cri.namespace(), &pod.id).await;
        find::if_there(removed.map_err(|error| status::of_runtime(&error)))?;
    }
    Ok(api::RemovePodSandboxResponse {})
}

//! `RunPodSandbox`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, pods, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::RunPodSandboxRequest,
) -> Result<api::RunPodSandboxResponse, Status> {
    let config = request.config.ok_or_else(|| status::missing("config"))?;
    let config = pods::config(config, request.runtime_handler)?;
    let made = cri.runtime().run_pod(cri.namespace(), config).await;
    let pod = made.map_err(|error| status::of_runtime(&error))?;
    Ok(api::RunPodSandboxResponse {
        pod_sandbox_id: pod.to_string(),
    })
}

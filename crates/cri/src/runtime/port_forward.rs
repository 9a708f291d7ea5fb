//! `PortForward`: where ports of a pod can be reached.

use orlop_api::runtime::v1 as api;
use orlop_runtime::pod::PodPhase;
use tonic::Status;

use crate::runtime::streams;
use crate::{Cri, find, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::PortForwardRequest,
) -> Result<api::PortForwardResponse, Status> {
    if request.pod_sandbox_id.is_empty() {
        return Err(status::missing("pod_sandbox_id"));
    }
    let ports: Result<Vec<u16>, _> = request
        .port
        .iter()
        .map(|port| u16::try_from(*port))
        .collect();
    let ports = ports.map_err(|_| status::invalid_text("a port is from 1 to 65535"))?;
    let pod = find::pod(cri, &request.pod_sandbox_id).await?;
    if pod.phase != PodPhase::Ready {
        let text = format!("pod sandbox {} is not ready", pod.id);
        return Err(status::failed_precondition(text));
    }
    let url = cri
        .parts()
        .streaming
        .port_forward(pod.places.network, ports);
    let url = url.map_err(|error| streams::no_token(&error))?;
    Ok(api::PortForwardResponse { url })
}

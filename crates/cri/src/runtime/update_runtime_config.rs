//! `UpdateRuntimeConfig`: the kubelet tells the node's pod network. CNI's configuration says it here, so it is only noted.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    request: api::UpdateRuntimeConfigRequest,
) -> Result<api::UpdateRuntimeConfigResponse, Status> {
    let network = request
        .runtime_config
        .and_then(|config| config.network_config);
    if let Some(network) = network.filter(|network| !network.pod_cidr.is_empty()) {
        tracing::info!(
            pod_cidr = network.pod_cidr,
            "the kubelet told its pod network; CNI's configuration decides"
        );
    }
    Ok(api::UpdateRuntimeConfigResponse {})
}

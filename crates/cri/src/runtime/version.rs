//! `Version`: who serves this socket.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

/// What the kubelet itself sends and expects here (`kubeRuntimeAPIVersion`).
const KUBELET_API_VERSION: &str = "0.1.0";

pub(super) async fn call(
    cri: &Cri,
    _request: api::VersionRequest,
) -> Result<api::VersionResponse, Status> {
    Ok(api::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: "orlop".to_owned(),
        runtime_version: cri.parts().version.clone(),
        runtime_api_version: "v1".to_owned(),
    })
}

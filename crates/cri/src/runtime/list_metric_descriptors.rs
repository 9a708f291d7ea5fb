//! `ListMetricDescriptors`: which metrics `ListPodSandboxMetrics` may tell.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, metrics};

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ListMetricDescriptorsRequest,
) -> Result<api::ListMetricDescriptorsResponse, Status> {
    Ok(api::ListMetricDescriptorsResponse {
        descriptors: metrics::descriptors(),
    })
}

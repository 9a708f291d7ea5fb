//! `ListMetricDescriptors`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::ListMetricDescriptorsRequest,
) -> Result<api::ListMetricDescriptorsResponse, Status> {
    Err(Status::unimplemented(
        "ListMetricDescriptors is not served yet",
    ))
}

//! `ReopenContainerLog`: the log was rotated.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::runtime::streams;
use crate::{Cri, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::ReopenContainerLogRequest,
) -> Result<api::ReopenContainerLogResponse, Status> {
    let container = streams::running(cri, &request.container_id).await?;
    let reopened = cri.runtime().reopen_log(cri.namespace(), &container);
    reopened.await.map_err(|error| status::of_runtime(&error))?;
    Ok(api::ReopenContainerLogResponse {})
}

//! `ContainerStatus`.

use std::collections::BTreeMap;

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, container, find};

pub(super) async fn call(
    cri: &Cri,
    request: api::ContainerStatusRequest,
) -> Result<api::ContainerStatusResponse, Status> {
    let member = find::member(cri, &request.container_id).await?;
    let info = if request.verbose {
        container::info(&member)
    } else {
        BTreeMap::new()
    };
    Ok(api::ContainerStatusResponse {
        status: Some(container::status(&member)),
        info,
    })
}

//! `ContainerStats`: the figures of one container.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, find, stats};

pub(super) async fn call(
    cri: &Cri,
    request: api::ContainerStatsRequest,
) -> Result<api::ContainerStatsResponse, Status> {
    let member = find::member(cri, &request.container_id).await?;
    let mut stats = stats::of_members(cri, vec![member]).await?;
    Ok(api::ContainerStatsResponse { stats: stats.pop() })
}

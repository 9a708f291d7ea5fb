//! `ListContainerStats`: the figures of the containers that a filter keeps.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, stats};

pub(super) async fn call(
    cri: &Cri,
    request: api::ListContainerStatsRequest,
) -> Result<api::ListContainerStatsResponse, Status> {
    let members = stats::wanted_members(cri, request.filter).await?;
    let stats = stats::of_members(cri, members).await?;
    Ok(api::ListContainerStatsResponse { stats })
}

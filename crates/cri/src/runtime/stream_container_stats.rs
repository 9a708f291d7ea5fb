//! `StreamContainerStats`: `ListContainerStats` in pieces.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::stream::{Answers, in_pieces};
use crate::{Cri, stats};

pub(super) async fn call(
    cri: &Cri,
    request: api::StreamContainerStatsRequest,
) -> Result<Answers<api::StreamContainerStatsResponse>, Status> {
    let members = stats::wanted_members(cri, request.filter).await?;
    let stats = stats::of_members(cri, members).await?;
    Ok(in_pieces(stats, |container_stats| {
        api::StreamContainerStatsResponse { container_stats }
    }))
}

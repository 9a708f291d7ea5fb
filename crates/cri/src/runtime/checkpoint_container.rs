//! `CheckpointContainer`: refused, with what is missing.

use std::path::Path;

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, find, status};

/// Where distributions install CRIU, which does the work for every OCI runtime.
const CRIU_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];

pub(super) async fn call(
    cri: &Cri,
    request: api::CheckpointContainerRequest,
) -> Result<api::CheckpointContainerResponse, Status> {
    let member = find::member(cri, &request.container_id).await?;
    let has_criu = CRIU_FOLDERS
        .iter()
        .any(|folder| Path::new(folder).join("criu").exists());
    let lack = if has_criu {
        "this engine cannot write checkpoint archives yet"
    } else {
        "there is no criu on this machine"
    };
    Err(status::failed_precondition(format!(
        "container {} cannot be checkpointed: {lack}",
        member.id
    )))
}

//! `ImageFsInfo`: what images take on disk, and what containers do. The kubelet collects images by it.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::{Cri, disk};

pub(super) async fn call(
    cri: &Cri,
    _request: api::ImageFsInfoRequest,
) -> Result<api::ImageFsInfoResponse, Status> {
    let snapshotter = cri.images().default_snapshotter();
    let holdings = cri.disk().holdings(cri, snapshotter).await?;
    let folder = cri.snapshot_folder(snapshotter);
    Ok(api::ImageFsInfoResponse {
        image_filesystems: vec![disk::message(&folder, holdings.images)],
        container_filesystems: vec![disk::message(&folder, holdings.containers)],
    })
}

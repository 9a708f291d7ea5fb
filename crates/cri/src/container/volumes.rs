//! The images that a container mounts: each has to be on this node already, and is unpacked if it is not.

use std::sync::Arc;

use orlop_image::images::{NoProgress, UnpackRequest};
use orlop_runtime::member::MemberConfig;
use orlop_runtime::pod::VolumeImage;
use orlop_types::{ErrorKind, SnapshotKey};
use tonic::Status;

use crate::{Cri, status};

/// Finds the images that the mounts of `config` name, each once.
///
/// # Errors
/// One is not here, is not for this machine, or cannot be unpacked.
pub(crate) async fn volume_images(
    cri: &Cri,
    config: &MemberConfig,
) -> Result<Vec<VolumeImage>, Status> {
    let mut images: Vec<VolumeImage> = Vec::new();
    for mounted in config
        .mounts
        .iter()
        .filter_map(|mount| mount.image.as_ref())
    {
        let reference = mounted.reference.as_str();
        if images.iter().all(|image| image.reference != reference) {
            images.push(find(cri, reference).await?);
        }
    }
    Ok(images)
}

async fn find(cri: &Cri, reference: &str) -> Result<VolumeImage, Status> {
    if reference.is_empty() {
        return Err(status::image_volume(
            ErrorKind::InvalidArgument,
            "a mount names no image",
        ));
    }
    let failed = |error: orlop_image::images::Error| {
        let message = format!("image {reference:?}: {}", orlop_types::chain(&error));
        status::image_volume(error.kind(), message)
    };
    let scope = cri.scope();
    let entry = cri.images().find(&scope, reference).await.map_err(failed)?;
    let named = entry.and_then(|entry| Some((entry.names.first()?.clone(), entry.manifest)));
    let Some((name, manifest)) = named else {
        let message = format!("image {reference:?} is not on this node; it has to be pulled first");
        return Err(status::image_volume(ErrorKind::NotFound, message));
    };
    let request = UnpackRequest {
        image: name,
        platform: None,
        snapshotter: None,
    };
    let unpacked = cri.images().unpack(&scope, request, Arc::new(NoProgress));
    let unpacked = unpacked.await.map_err(failed)?;
    let snapshot = unpacked.chain_id.ok_or_else(|| {
        let message = format!("image {reference:?} has no files");
        status::image_volume(ErrorKind::FailedPrecondition, message)
    })?;
    Ok(VolumeImage {
        reference: reference.to_owned(),
        manifest: manifest.digest,
        snapshot: SnapshotKey::new(snapshot.to_string())
            .map_err(|error| status::invalid(&error))?,
        snapshotter: unpacked.snapshotter,
    })
}

//! `CreateContainer`: makes a container in a pod, and starts nothing.

use orlop_api::runtime::v1 as api;
use orlop_image::images::{CatalogEntry, ImageDetails, UnpackRequest};
use orlop_runtime::member::{MemberImage, NewMember};
use orlop_runtime::spec::ImageDefaults;
use orlop_types::SnapshotKey;
use tonic::Status;

use crate::{Cri, container, find, status};

pub(super) async fn call(
    cri: &Cri,
    request: api::CreateContainerRequest,
) -> Result<api::CreateContainerResponse, Status> {
    let pod = find::pod(cri, &request.pod_sandbox_id).await?;
    let mut config = request.config.ok_or_else(|| status::missing("config"))?;
    let asked = config.image.take().unwrap_or_default();
    let config = container::member_config(config)?;
    let (entry, details) = image(cri, &asked.image).await?;
    let mounted_images = container::volume_images(cri, &config).await?;
    let snapshot = details.chain_id.ok_or_else(|| {
        status::failed_precondition(format!("image {} has no layers", asked.image))
    })?;
    let new = NewMember {
        pod: pod.id,
        config,
        image: member_image(asked, &entry, &details),
        image_defaults: defaults(&details),
        image_snapshot: SnapshotKey::new(snapshot.to_string())
            .map_err(|error| status::invalid(&error))?,
        snapshotter: cri.images().default_snapshotter().clone(),
        mounted_images,
    };
    let made = cri.runtime().create_member(cri.namespace(), new).await;
    let id = made.map_err(|error| status::of_runtime(&error))?;
    Ok(api::CreateContainerResponse {
        container_id: id.to_string(),
    })
}

/// The image by its id or one of its names, unpacked, and what its config says.
async fn image(cri: &Cri, text: &str) -> Result<(CatalogEntry, ImageDetails), Status> {
    if text.is_empty() {
        return Err(status::missing("config.image"));
    }
    let found = cri.images().find(&cri.scope(), text).await;
    let entry = found
        .map_err(|error| status::of_image(&error))?
        .ok_or_else(|| status::not_found(format!("image {text:?}")))?;
    let name = entry.names.first().cloned();
    let name = name.ok_or_else(|| status::not_found(format!("image {text:?}")))?;
    let request = UnpackRequest {
        image: name,
        platform: None,
        snapshotter: None,
    };
    let details = cri.images().prepare(&cri.scope(), request).await;
    let details = details.map_err(|error| status::of_image(&error))?;
    Ok((entry, details))
}

fn member_image(
    asked: api::ImageSpec,
    entry: &CatalogEntry,
    details: &ImageDetails,
) -> MemberImage {
    let tag = entry.tags.first().map(ToString::to_string);
    MemberImage {
        // The kubelet asks by id and shows what it is told, so people are told a name.
        requested: tag.unwrap_or(asked.image),
        user_specified: asked.user_specified_image,
        id: entry.id.to_string(),
        reference: entry
            .digests
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
        stop_signal: details.config.config.stop_signal.clone(),
    }
}

fn defaults(details: &ImageDetails) -> ImageDefaults {
    let config = details.config.config.clone();
    ImageDefaults {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        working_dir: config.working_dir,
        user: config.user,
    }
}

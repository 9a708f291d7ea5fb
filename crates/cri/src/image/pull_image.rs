//! `PullImage`: an image with all its layers unpacked, under its name and its repository's digest.

use std::sync::Arc;

use orlop_api::runtime::v1 as api;
use orlop_image::images::{Credential, NoProgress, PullRequest, Pulled, RegistryAccess};
use orlop_types::{ImageName, Labels, Reference};
use tonic::Status;

use super::message;
use crate::{Cri, auth, status};

/// Marks what the kubelet has pulled, for tools that know containerd.
const MANAGED_LABEL: (&str, &str) = ("io.cri-containerd.image", "managed");

pub(super) async fn call(
    cri: &Cri,
    request: api::PullImageRequest,
) -> Result<api::PullImageResponse, Status> {
    let text = message::name(request.image)?;
    let reference: Reference = crate::translate::parse(&text)?;
    // A digest beside a tag overrules it, and the tag would be a claim that nobody has checked.
    let reference = match reference.digest() {
        Some(digest) => reference.with_digest(*digest),
        None => reference,
    };
    let credential = match request.auth {
        Some(auth) => auth::credential(auth, reference.registry())?,
        None => None,
    };
    let pulled = pull(cri, &reference, credential).await?;
    let exact = reference.with_digest(pulled.image.target.digest);
    if exact != reference {
        let tagged = cri
            .images()
            .tag(&cri.scope(), pulled.image.name.clone(), name(&exact)?)
            .await;
        tagged.map_err(|error| status::of_image(&error))?;
    }
    let found = cri.images().find(&cri.scope(), &exact.to_string()).await;
    let entry = found
        .map_err(|error| status::of_image(&error))?
        .ok_or_else(|| status::not_found(format!("image {exact}, removed while it was pulled")))?;
    Ok(api::PullImageResponse {
        image_ref: entry.id.to_string(),
    })
}

async fn pull(
    cri: &Cri,
    reference: &Reference,
    credential: Option<Credential>,
) -> Result<Pulled, Status> {
    let mut labels = Labels::new();
    labels
        .insert(MANAGED_LABEL.0, MANAGED_LABEL.1)
        .map_err(|error| status::invalid(&error))?;
    let request = PullRequest {
        reference: reference.to_string(),
        name: Some(name(reference)?),
        registry: RegistryAccess {
            credential,
            ..RegistryAccess::default()
        },
        labels,
        ..PullRequest::default()
    };
    let pulled = cri
        .images()
        .pull(&cri.scope(), request, Arc::new(NoProgress))
        .await;
    pulled.map_err(|error| status::of_image(&error))
}

fn name(reference: &Reference) -> Result<ImageName, Status> {
    ImageName::new(reference.to_string()).map_err(|error| status::invalid(&error))
}

//! What is refused before anything large is fetched.

use orlop_types::{Descriptor, Platform};

use super::super::error::Error;
use crate::model::{CONFIG_BYTES_MAX, ImageConfig, Manifest, MediaKind, ModelError, kind_of};

/// A config is read into memory.
pub(super) fn check_config_size(descriptor: &Descriptor) -> Result<(), Error> {
    let (size, limit) = (descriptor.size, CONFIG_BYTES_MAX);
    if size <= limit {
        return Ok(());
    }
    Err(Error::model(descriptor.digest)(ModelError::TooLarge {
        what: "config",
        size,
        limit,
    }))
}

/// An image without an index says only in its config what it is for.
pub(super) fn check_platform(config: &ImageConfig, wanted: &Platform) -> Result<(), ModelError> {
    if config.os.is_empty() || wanted.rank(&config.platform()).is_some() {
        return Ok(());
    }
    Err(ModelError::NoPlatform {
        wanted: wanted.to_string(),
        offered: config.platform().to_string(),
    })
}

/// Layers whose bytes are not in the registry are not fetched from elsewhere.
pub(super) fn refuse_foreign(manifest: &Manifest) -> Result<(), Error> {
    let is_foreign = |layer: &&Descriptor| kind_of(&layer.media_type) == MediaKind::ForeignLayer;
    match manifest.layers.iter().find(is_foreign) {
        None => Ok(()),
        Some(layer) => Err(Error::model(layer.digest)(ModelError::ForeignLayer {
            digest: Box::new(layer.digest),
            media_type: layer.media_type.clone(),
        })),
    }
}

/// Entries of an index that are images: attestations say that they are for no platform.
pub(super) fn is_image_entry(entry: &Descriptor) -> bool {
    let is_attestation = entry.annotations.contains_key("vnd.docker.reference.type");
    let is_known = entry.platform.as_ref().is_none_or(|platform| {
        let platform = Platform::from(platform).to_string();
        !platform.starts_with("unknown")
    });
    !is_attestation && is_known
}

//! Image records: list, name, remove, and what a container needs to know of one.

use std::collections::BTreeMap;

use orlop_meta::{ErrorKind, Image, View};
use orlop_types::{ChainId, Descriptor, Digest, ImageName, Platform, SnapshotterName};

use super::document::{load, load_image};
use super::error::Error;
use super::pull::name_image;
use super::rootfs::name_of;
use super::{Images, Scope, blocking};
use crate::model::{
    Document, INDEX_DEPTH_MAX, ImageConfig, MANIFEST_BYTES_MAX, MediaKind, chain_ids, children,
    kind_of, parse_document,
};

/// What is needed to make a container of an image.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The record.
    pub image: Image,
    /// The manifest for the platform.
    pub manifest: Descriptor,
    /// The image's config.
    pub config: ImageConfig,
    /// What CRI calls the image's id: the config's digest, or an artifact's manifest's.
    pub config_digest: Digest,
    /// The snapshot of the whole image, if it has layers. That it is committed is another question.
    pub chain_id: Option<ChainId>,
}

/// What an image takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// Bytes of its blobs in the store, each counted once.
    pub content_bytes: u64,
    /// How many those are.
    pub blobs: u64,
    /// Bytes of its committed layers.
    pub snapshot_bytes: u64,
    /// Their inodes.
    pub snapshot_inodes: u64,
}

impl Images {
    /// The images that any of `filters` keeps, by name.
    ///
    /// # Errors
    /// A filter that does not parse; the database's.
    pub async fn list(&self, scope: &Scope, filters: Vec<String>) -> Result<Vec<Image>, Error> {
        let view = self.view(scope);
        blocking("image-list", move || Ok(view.images().list(&filters)?)).await
    }

    /// The record, manifest and config of an image for `platform`, or for this machine.
    ///
    /// # Errors
    /// `NotFound` for the image or one of its documents; documents that cannot be used.
    pub async fn config_of(
        &self,
        scope: &Scope,
        name: ImageName,
        platform: Option<Platform>,
    ) -> Result<ImageDetails, Error> {
        let view = self.view(scope);
        let platform = platform.unwrap_or_else(Platform::host);
        blocking("image-config", move || {
            let image = view.images().find(&name)?;
            let stored = load_image(&view, "read", &image.target, &platform)?;
            Ok(ImageDetails {
                chain_id: chain_ids(&stored.config.rootfs.diff_ids).last().copied(),
                config_digest: stored.id(),
                image,
                manifest: stored.target,
                config: stored.config,
            })
        })
        .await
    }

    /// What an image takes, in the store and on a snapshotter.
    ///
    /// # Errors
    /// `NotFound`; the store's.
    pub async fn usage(
        &self,
        scope: &Scope,
        name: ImageName,
        snapshotter: Option<SnapshotterName>,
    ) -> Result<ImageUsage, Error> {
        let view = self.view(scope);
        let snapshotter = self.snapshotter(snapshotter);
        blocking("image-usage", move || {
            let image = view.images().find(&name)?;
            let mut blobs = BTreeMap::new();
            collect(&view, &image.target, &mut blobs, 0)?;
            let mut usage = ImageUsage {
                content_bytes: blobs.values().sum(),
                blobs: blobs.len() as u64,
                ..ImageUsage::default()
            };
            add_snapshots(&view, &image.target, &snapshotter, &mut usage)?;
            Ok(usage)
        })
        .await
    }

    /// Gives an image a further name. One that exists moves.
    ///
    /// # Errors
    /// `NotFound` for the image; the database's.
    pub async fn tag(
        &self,
        scope: &Scope,
        source: ImageName,
        target: ImageName,
    ) -> Result<Image, Error> {
        let view = self.view(scope);
        blocking("image-tag", move || {
            let mut image = view.images().find(&source)?;
            image.name = target;
            name_image(&view, &image)
        })
        .await
    }

    /// Removes a name. What nothing else holds then is collected.
    ///
    /// # Errors
    /// `NotFound`; the database's.
    pub async fn delete(&self, scope: &Scope, name: ImageName) -> Result<(), Error> {
        let view = self.view(scope);
        blocking("image-delete", move || {
            Ok(view.images().delete(&name, None)?)
        })
        .await
    }
}

/// Adds the blobs below `target` that are in the store.
pub(crate) fn collect(
    view: &View,
    target: &Descriptor,
    blobs: &mut BTreeMap<Digest, u64>,
    depth: usize,
) -> Result<(), Error> {
    let size = match view.content().info(&target.digest) {
        Ok(blob) => blob.size,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if blobs.insert(target.digest, size).is_some() || depth > INDEX_DEPTH_MAX {
        return Ok(());
    }
    if !matches!(
        kind_of(&target.media_type),
        MediaKind::Manifest | MediaKind::Index
    ) {
        return Ok(());
    }
    let Some(bytes) = load(view, &target.digest, MANIFEST_BYTES_MAX)? else {
        return Ok(());
    };
    let document =
        parse_document(&target.media_type, &bytes).map_err(Error::model(target.digest))?;
    for child in children(&document) {
        collect(view, child, blobs, depth + 1)?;
    }
    Ok(())
}

fn add_snapshots(
    view: &View,
    target: &Descriptor,
    snapshotter: &SnapshotterName,
    usage: &mut ImageUsage,
) -> Result<(), Error> {
    // An image that is not for this machine has no snapshots here.
    let Ok(stored) = load_image(view, "measure", target, &Platform::host()) else {
        return Ok(());
    };
    let snapshots = view.snapshots(snapshotter);
    for id in chain_ids(&stored.config.rootfs.diff_ids) {
        match snapshots.usage(&name_of(&id)?) {
            Ok(layer) => {
                usage.snapshot_bytes += layer.bytes;
                usage.snapshot_inodes += layer.inodes;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A document of the store, parsed.
pub(crate) fn load_document(
    view: &View,
    operation: &'static str,
    descriptor: &Descriptor,
) -> Result<(bytes::Bytes, Document), Error> {
    let bytes =
        load(view, &descriptor.digest, MANIFEST_BYTES_MAX)?.ok_or_else(|| Error::Missing {
            operation,
            subject: descriptor.media_type.clone(),
            missing: format!("blob {}", descriptor.digest),
        })?;
    let document =
        parse_document(&descriptor.media_type, &bytes).map_err(Error::model(descriptor.digest))?;
    Ok((bytes, document))
}

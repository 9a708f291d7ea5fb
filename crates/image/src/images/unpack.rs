//! Unpacking an image whose blobs are in the store.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use orlop_base::task::{CancellationToken, TaskKind};
use orlop_meta::{SnapshotKind, View};
use orlop_types::{ChainId, Descriptor, ImageName, Labels, Platform, SnapshotKey, SnapshotterName};

use super::document::{StoredImage, add_labels, add_snapshot_label, load_image};
use super::error::Error;
use super::layers::{Layer, Supply, Unpacker};
use super::lease::OperationLease;
use super::progress::{BlobState, Board, Progress, UnpackState};
use super::rootfs::Rootfs;
use super::{ImageDetails, Images, NoProgress, Scope, blocking};
use crate::model::chain_ids;

const UNPACK: TaskKind = TaskKind::cooperative("image-unpack");

/// What to unpack.
#[derive(Debug, Clone)]
pub struct UnpackRequest {
    /// The image's name in the store.
    pub image: ImageName,
    /// The machine's own if absent.
    pub platform: Option<Platform>,
    /// The default one if absent.
    pub snapshotter: Option<SnapshotterName>,
}

/// An image with its snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedImage {
    /// The committed snapshot of the whole image; none for an image without layers.
    pub chain_id: Option<ChainId>,
    /// Where that is.
    pub snapshotter: SnapshotterName,
}

/// What an unpacking is done with.
pub(crate) struct UnpackTarget {
    pub(crate) target: Descriptor,
    pub(crate) platform: Platform,
    pub(crate) snapshotter: SnapshotterName,
}

impl Images {
    /// Makes the snapshots of an image that is in the store.
    ///
    /// # Errors
    /// `NotFound` for the image or one of its blobs; layers that are not what the config says; the store's.
    pub async fn unpack(
        &self,
        scope: &Scope,
        request: UnpackRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<UnpackedImage, Error> {
        let (images, view) = (self.clone(), self.view(scope));
        self.run(UNPACK, |stop| async move {
            let (looked, name) = (view.clone(), request.image.clone());
            let image = blocking("image-find", move || Ok(looked.images().find(&name)?)).await?;
            let target = UnpackTarget {
                target: image.target,
                platform: request.platform.unwrap_or_else(Platform::host),
                snapshotter: images.snapshotter(request.snapshotter),
            };
            let active = images.inner.leases.clone();
            let lifetime = images.inner.options.lease_lifetime;
            let begin =
                move || OperationLease::begin(view, &active, request.image.as_str(), lifetime);
            let lease = blocking("unpack-lease", begin).await?;
            let board = Arc::new(Board::new(progress));
            let work = images.unpack_stored(lease.view(), &target, (&board, &stop));
            let result = board.while_doing(work).await;
            let ended = blocking("unpack-release", move || lease.end(false)).await;
            let chain_id = result?;
            ended?;
            Ok(UnpackedImage {
                chain_id,
                snapshotter: target.snapshotter,
            })
        })
        .await
    }

    /// What is known of an image that is to be run, which is unpacked if it has not been: pulled without, brought from
    /// another engine, or unpacked by another snapshotter.
    ///
    /// # Errors
    /// As [`Images::config_of`] and [`Images::unpack`].
    pub async fn prepare(
        &self,
        scope: &Scope,
        request: UnpackRequest,
    ) -> Result<ImageDetails, Error> {
        let (image, platform) = (request.image.clone(), request.platform.clone());
        let details = self.config_of(scope, image, platform).await?;
        let Some(top) = details.chain_id else {
            return Ok(details);
        };
        let (view, snapshotter) = (
            self.view(scope),
            self.snapshotter(request.snapshotter.clone()),
        );
        let look = move || is_committed(&view, &snapshotter, &top);
        if !blocking("snapshot-look", look).await? {
            self.unpack(scope, request, Arc::new(NoProgress)).await?;
        }
        Ok(details)
    }

    /// The snapshotter asked for, or the default one.
    pub(crate) fn snapshotter(&self, asked: Option<SnapshotterName>) -> SnapshotterName {
        asked.unwrap_or_else(|| self.inner.options.snapshotter.clone())
    }

    /// Unpacks under the view's lease.
    pub(crate) async fn unpack_stored(
        &self,
        view: &View,
        wanted: &UnpackTarget,
        (board, stop): (&Arc<Board>, &CancellationToken),
    ) -> Result<Option<ChainId>, Error> {
        let image = load(view, wanted).await?;
        if image.manifest.is_artifact() {
            let artifact = (&image.target.digest, &image.manifest);
            return self
                .unpack_artifact(view, &wanted.snapshotter, artifact, stop)
                .await;
        }
        let diff_ids = &image.config.rootfs.diff_ids;
        let rootfs = Rootfs::new(
            view.clone(),
            wanted.snapshotter.clone(),
            chain_ids(diff_ids),
        )?;
        let Some(top) = rootfs.top().copied() else {
            return Ok(None);
        };
        let lock = self.unpack_lock(&wanted.snapshotter, &top);
        let _locked = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Cancelled),
            locked = lock.lock() => locked,
        };
        let looking = rootfs.clone();
        let base = blocking("snapshot-look", move || looking.find_base()).await?;
        let layers = image.manifest.layers.iter().zip(diff_ids);
        let layers = layers.map(|(descriptor, diff_id)| {
            let line = board.add(descriptor, UnpackState::Waiting);
            board.set_state(line, BlobState::Present);
            Layer {
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
                line,
                supply: Supply::stored(),
            }
        });
        let unpacker = Unpacker {
            view: view.clone(),
            rootfs,
            layers: layers.collect(),
            board: Arc::clone(board),
            recorder: Arc::clone(&self.inner.recorder),
            stop: stop.clone(),
            flag: Arc::new(AtomicBool::new(false)),
        };
        unpacker.run(base).await?;
        Ok(Some(top))
    }
}

fn is_committed(view: &View, snapshotter: &SnapshotterName, top: &ChainId) -> Result<bool, Error> {
    let text = top.to_string();
    let key = SnapshotKey::new(&text).map_err(Error::name(&text))?;
    match view.snapshots(snapshotter).stat(&key) {
        Ok(found) => Ok(found.kind == SnapshotKind::Committed),
        Err(error) if error.kind() == orlop_meta::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads the image, and labels its config with the snapshot that is to be made.
async fn load(view: &View, wanted: &UnpackTarget) -> Result<StoredImage, Error> {
    let (view, target) = (view.clone(), wanted.target.clone());
    let (platform, snapshotter) = (wanted.platform.clone(), wanted.snapshotter.clone());
    blocking("image-load", move || {
        let image = load_image(&view, "unpack", &target, &platform)?;
        if image.manifest.is_artifact() {
            return Ok(image);
        }
        let digest = image.manifest.config.digest;
        image
            .manifest
            .check_unpackable(&image.config)
            .map_err(Error::model(digest))?;
        if let Some(top) = chain_ids(&image.config.rootfs.diff_ids).last() {
            let mut labels = Labels::new();
            add_snapshot_label(&mut labels, &snapshotter, top)?;
            add_labels(&view, &digest, &labels)?;
        }
        Ok(image)
    })
    .await
}

//! From a reference to an image that can be run.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join;
use orlop_base::task::{CancellationToken, TaskKind};
use orlop_base::telemetry::spans;
use orlop_base::traced;
use orlop_meta::{Image, View};
use orlop_registry::Client;
use orlop_types::{
    ChainId, Descriptor, Digest, ImageName, Labels, Platform, Reference, SnapshotterName,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Instrument;
use tracing::field::Empty;

use super::document::{add_snapshot_label, document_labels, load, source_labels, store, verify};
use super::error::{Error, first_cause};
use super::layers::{Layer, Supply, Unpacker};
use super::lease::OperationLease;
use super::memory::MemorySink;
use super::progress::{BlobState, Board, Progress, UnpackState};
use super::rootfs::{Base, Rootfs};
use super::{Images, RegistryAccess, Scope, blocking};
use crate::model::{
    CONFIG_BYTES_MAX, ImageConfig, MANIFEST_BYTES_MAX, Manifest, Resolution, chain_ids,
    parse_document,
};

mod beside;
mod check;
mod download;
mod select;

pub use select::{Beside, Selection};

use beside::Other;
use check::{check_config_size, check_platform, refuse_foreign};
use download::Blobs;

const PULL: TaskKind = TaskKind::cooperative("image-pull");

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// As a user writes it.
    pub reference: String,
    /// The name the image gets; the reference in its normal form if absent.
    pub name: Option<ImageName>,
    /// The machine's own if absent.
    pub platform: Option<Platform>,
    /// What to fetch besides; only the image for `platform` is unpacked.
    pub beside: Beside,
    /// The default one if absent.
    pub snapshotter: Option<SnapshotterName>,
    /// Fetch without unpacking.
    pub skip_unpack: bool,
    /// How to reach the registry.
    pub registry: RegistryAccess,
    /// Labels of the image record.
    pub labels: Labels,
}

/// A pulled image.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Its record.
    pub image: Image,
    /// Its records under further names.
    pub further: Vec<Image>,
    /// The committed snapshot of the whole image; none if nothing was unpacked.
    pub chain_id: Option<ChainId>,
    /// Where that is.
    pub snapshotter: SnapshotterName,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// How long it took.
    pub duration: Duration,
}

/// Says how an image is called, once it is known what it is: at least one name, and all for the target told.
pub type Naming = Box<dyn FnOnce(&Descriptor) -> Result<Vec<Image>, Error> + Send>;

/// One pull.
struct Pull {
    images: Images,
    client: Client,
    reference: Reference,
    name: ImageName,
    platform: Platform,
    snapshotter: SnapshotterName,
    request: PullRequest,
    board: Arc<Board>,
    stop: CancellationToken,
    permits: Semaphore,
}

/// A manifest that was stored, with its descriptor.
struct Stored {
    descriptor: Descriptor,
    manifest: Manifest,
}

impl Images {
    /// Pulls an image, unpacks it and writes its name last.
    ///
    /// Dropping the future ends the pull; what was fetched by then is kept for the next try.
    ///
    /// # Errors
    /// See [`Error::kind`]. Nothing unverified was stored, and no snapshot was left that no lease holds.
    pub async fn pull(
        &self,
        scope: &Scope,
        request: PullRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<Pulled, Error> {
        let name = match request.name.clone() {
            Some(name) => name,
            None => own_name(&parse_reference(&request.reference)?)?,
        };
        let labels = request.labels.clone();
        let names = move |target: &Descriptor| Ok(vec![Image::new(name, target.clone(), labels)]);
        self.pull_as(scope, request, progress, Box::new(names))
            .await
    }

    /// Like [`Self::pull`], but `names` says how the image is called, and with which labels.
    ///
    /// # Errors
    /// As [`Self::pull`], and what `names` says.
    pub async fn pull_as(
        &self,
        scope: &Scope,
        request: PullRequest,
        progress: Arc<dyn Progress>,
        names: Naming,
    ) -> Result<Pulled, Error> {
        let reference = parse_reference(&request.reference)?;
        let name = match request.name.clone() {
            Some(name) => name,
            None => own_name(&reference)?,
        };
        let options = &self.inner.options;
        let pull = |stop| Pull {
            images: self.clone(),
            client: self.client(&reference, &request.registry),
            name,
            platform: request.platform.clone().unwrap_or_else(Platform::host),
            snapshotter: (request.snapshotter.clone())
                .unwrap_or_else(|| options.snapshotter.clone()),
            reference,
            request,
            board: Arc::new(Board::new(progress)),
            stop,
            permits: Semaphore::new(options.downloads_max.max(1)),
        };
        let view = self.view(scope);
        self.run(PULL, |stop| pull(stop).run(view, names)).await
    }
}

/// The reference in its normal form, as a name.
fn own_name(reference: &Reference) -> Result<ImageName, Error> {
    let text = reference.to_string();
    ImageName::new(&text).map_err(Error::name(&text))
}

/// Reads a reference as users write it.
pub(crate) fn parse_reference(text: &str) -> Result<Reference, Error> {
    text.parse().map_err(|source| Error::Reference {
        text: text.to_owned(),
        source,
    })
}

/// Creates an image record, or points an existing one at the new target. Blocks.
pub(crate) fn name_image(view: &View, image: &Image) -> Result<Image, Error> {
    match view.images().create(image) {
        Err(error) if error.kind() == orlop_meta::ErrorKind::AlreadyExists => {
            Ok(view.images().update(image, &[])?)
        }
        other => Ok(other?),
    }
}

impl Pull {
    async fn run(self, view: View, names: Naming) -> Result<Pulled, Error> {
        let began = Instant::now();
        let (active, name) = (self.images.inner.leases.clone(), self.name.clone());
        let lifetime = self.images.inner.options.lease_lifetime;
        let begin = move || OperationLease::begin(view, &active, name.as_str(), lifetime);
        let lease = blocking("pull-lease", begin).await?;
        let span = traced!("pull", image = %self.name, bytes = Empty);
        let work = self.under(lease.view(), names).instrument(span.clone());
        let result = self.board.while_doing(work).await;
        let keep = result.as_ref().is_err_and(Error::keeps_partial);
        let ended = blocking("pull-release", move || lease.end(keep)).await;
        let bytes = self.board.bytes_moved();
        span.record("bytes", bytes);
        let error = result.as_ref().err().or(ended.as_ref().err());
        let recorder = &self.images.inner.recorder;
        recorder.pulled(&self.name, bytes, began.elapsed(), error);
        if let Some(error) = error {
            spans::failed(&span, error.code(), error);
        }
        let (image, further, chain_id) = result?;
        ended?;
        Ok(Pulled {
            image,
            further,
            chain_id,
            snapshotter: self.snapshotter,
            bytes_fetched: bytes,
            duration: began.elapsed(),
        })
    }

    async fn under(
        &self,
        view: &View,
        names: Naming,
    ) -> Result<(Image, Vec<Image>, Option<ChainId>), Error> {
        let target = self.until_stopped(self.resolve()).await?;
        let (descriptor, first) = target;
        self.board.resolved(&self.name, &descriptor);
        let source = source_labels(&self.reference)?;
        let mut chosen = None;
        if self.needs_platform() {
            let documents = self.documents(view, &descriptor, first, &source);
            chosen = Some(self.until_stopped(documents).await?);
        } else {
            let target = async {
                let bytes = self.document(view, &descriptor, first).await?;
                self.keep(view, &descriptor, bytes, &source).await
            };
            self.until_stopped(target).await?;
        }
        let mut rest = Vec::new();
        if self.request.beside != Beside::Nothing {
            let others = self.others(view, &descriptor, chosen.as_ref(), &source);
            rest = self.until_stopped(others).await?;
        }
        let chain_id = self.content(view, chosen.as_ref(), &rest, &source).await?;
        if self.stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (named, naming) = (names(&descriptor)?, view.clone());
        let write = move || named.iter().map(|it| name_image(&naming, it)).collect();
        let mut images: Vec<Image> = blocking("image-name", write).await?;
        if images.is_empty() {
            return Err(Error::Invalid {
                operation: "pull",
                subject: self.reference.to_string(),
                reason: "the image gets no name".to_owned(),
            });
        }
        let image = images.remove(0);
        Ok((image, images, chain_id))
    }

    /// Whether there has to be an image for the platform: it is unpacked, or nothing else is fetched.
    fn needs_platform(&self) -> bool {
        match self.request.beside {
            Beside::Nothing | Beside::Images => true,
            Beside::Selected(_) => !self.request.skip_unpack,
        }
    }

    async fn resolve(&self) -> Result<(Descriptor, Option<Bytes>), Error> {
        let resolved = self.client.resolve(&self.reference).await?;
        let bytes = resolved.manifest.map(|manifest| manifest.bytes);
        Ok((resolved.descriptor, bytes))
    }

    /// Fetches and stores documents down to the manifest for the platform.
    async fn documents(
        &self,
        view: &View,
        target: &Descriptor,
        mut first: Option<Bytes>,
        source: &Labels,
    ) -> Result<Stored, Error> {
        let mut resolution = Resolution::new(target.clone(), self.platform.clone())
            .map_err(Error::model(target.digest))?;
        loop {
            let wanted = resolution.wanted().clone();
            let bytes = self.document(view, &wanted, first.take()).await?;
            let step = resolution
                .step(&bytes)
                .map_err(Error::model(wanted.digest))?;
            self.keep(view, &wanted, bytes, source).await?;
            if let Some(manifest) = step {
                return Ok(Stored {
                    descriptor: wanted,
                    manifest,
                });
            }
        }
    }

    /// A manifest or index, from the store, `known`, or the registry; verified.
    async fn document(
        &self,
        view: &View,
        wanted: &Descriptor,
        known: Option<Bytes>,
    ) -> Result<Bytes, Error> {
        let (stored, digest) = (view.clone(), wanted.digest);
        let load = move || load(&stored, &digest, MANIFEST_BYTES_MAX);
        let bytes = match blocking("document-load", load).await? {
            Some(bytes) => bytes,
            None => match known {
                Some(bytes) => bytes,
                None => {
                    let fetched = self.client.fetch_manifest(&self.reference, &digest);
                    fetched.await?.bytes
                }
            },
        };
        verify(wanted, &bytes)?;
        Ok(bytes)
    }

    /// Stores a document, naming its children.
    async fn keep(
        &self,
        view: &View,
        descriptor: &Descriptor,
        bytes: Bytes,
        source: &Labels,
    ) -> Result<(), Error> {
        let document = parse_document(&descriptor.media_type, &bytes)
            .map_err(Error::model(descriptor.digest))?;
        let labels = document_labels(&document, source)?;
        let (view, descriptor) = (view.clone(), descriptor.clone());
        blocking("document-store", move || {
            store(&view, &descriptor, &bytes, &labels)
        })
        .await
    }

    /// Brings all blobs, and unpacks those of the chosen manifest.
    async fn content(
        &self,
        view: &View,
        chosen: Option<&Stored>,
        rest: &[Other],
        source: &Labels,
    ) -> Result<Option<ChainId>, Error> {
        let mut blobs = Blobs::default();
        self.add_others(&mut blobs, rest)?;
        let Some(chosen) = chosen else {
            self.download_all(view, &blobs, source).await?;
            return Ok(None);
        };
        refuse_foreign(&chosen.manifest)?;
        let manifest = &chosen.manifest;
        if manifest.is_image() && !self.request.skip_unpack {
            return self.unpacked(view, chosen, blobs, source).await;
        }
        if manifest.is_artifact() {
            // Refused before anything large is fetched.
            let files = manifest.artifact_files();
            files.map_err(Error::model(chosen.descriptor.digest))?;
        }
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            blobs.add(&self.board, blob, UnpackState::None);
        }
        self.download_all(view, &blobs, source).await?;
        if !manifest.is_artifact() || self.request.skip_unpack {
            return Ok(None);
        }
        let artifact = (&chosen.descriptor.digest, manifest);
        self.images
            .unpack_artifact(view, &self.snapshotter, artifact, &self.stop)
            .await
    }

    async fn unpacked(
        &self,
        view: &View,
        chosen: &Stored,
        mut blobs: Blobs,
        source: &Labels,
    ) -> Result<Option<ChainId>, Error> {
        let config = self
            .until_stopped(self.config(view, &chosen.manifest, source))
            .await?;
        let diff_ids = &config.rootfs.diff_ids;
        let rootfs = Rootfs::new(view.clone(), self.snapshotter.clone(), chain_ids(diff_ids))?;
        let Some(top) = rootfs.top().copied() else {
            self.download_all(view, &blobs, source).await?;
            return Ok(None);
        };
        let lock = self.images.unpack_lock(&self.snapshotter, &top);
        let _locked = self.until_stopped(async { Ok(lock.lock().await) }).await?;
        let looking = rootfs.clone();
        let base = blocking("snapshot-look", move || looking.find_base()).await?;
        let layers = self.layers(&mut blobs, &chosen.manifest, diff_ids, &base);
        let unpacker = Unpacker {
            view: view.clone(),
            rootfs,
            layers,
            board: Arc::clone(&self.board),
            recorder: Arc::clone(&self.images.inner.recorder),
            stop: self.stop.clone(),
            flag: Arc::new(AtomicBool::new(false)),
        };
        let downloads = async {
            let downloaded = self.download_all(view, &blobs, source).await;
            downloaded.inspect_err(|_| self.stop.cancel())
        };
        let (downloaded, unpacked) = join(downloads, unpacker.run(base)).await;
        first_cause([downloaded, unpacked])?;
        Ok(Some(top))
    }

    /// The layers to be unpacked, and in `blobs` those to be downloaded for it.
    fn layers(
        &self,
        blobs: &mut Blobs,
        manifest: &Manifest,
        diff_ids: &[Digest],
        base: &Base,
    ) -> Vec<Layer> {
        let pairs = manifest.layers.iter().zip(diff_ids).enumerate();
        pairs
            .map(|(index, (descriptor, diff_id))| {
                // A snapshot that another namespace made comes with its blob, which costs no download either.
                let is_wanted = index >= base.present || base.shared.contains(&index);
                let (line, supply) = if is_wanted {
                    blobs.add(&self.board, descriptor, UnpackState::Waiting)
                } else {
                    let line = self.board.add(descriptor, UnpackState::Present);
                    self.board.set_state(line, BlobState::Present);
                    (line, Supply::stored())
                };
                Layer {
                    descriptor: descriptor.clone(),
                    diff_id: *diff_id,
                    line,
                    supply,
                }
            })
            .collect()
    }

    /// A config's bytes from the first host that has the right ones.
    async fn fetch_config(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        loop {
            let sink = Arc::new(MemorySink::new(descriptor.size));
            let fetch = self
                .client
                .fetch_blob(&self.reference, descriptor, Arc::clone(&sink) as _);
            let fetched = fetch.await?;
            let bytes = sink.bytes();
            match verify(descriptor, &bytes) {
                Err(Error::Digest { .. }) => {}
                verified => return verified.map(|()| bytes),
            }
            let distrust = self.client.distrust(&self.reference, descriptor, &fetched);
            distrust.await?;
        }
    }

    /// The image's config, stored with the label that keeps its snapshot.
    async fn config(
        &self,
        view: &View,
        manifest: &Manifest,
        source: &Labels,
    ) -> Result<ImageConfig, Error> {
        let descriptor = manifest.config.clone();
        check_config_size(&descriptor)?;
        let (stored, digest) = (view.clone(), descriptor.digest);
        let load = move || load(&stored, &digest, CONFIG_BYTES_MAX);
        let bytes = match blocking("document-load", load).await? {
            Some(bytes) => bytes,
            None => self.fetch_config(&descriptor).await?,
        };
        verify(&descriptor, &bytes)?;
        let config = ImageConfig::parse(&bytes).map_err(Error::model(digest))?;
        manifest
            .check_unpackable(&config)
            .and_then(|()| check_platform(&config, &self.platform))
            .map_err(Error::model(digest))?;
        let mut labels = source.clone();
        if let Some(top) = chain_ids(&config.rootfs.diff_ids).last() {
            add_snapshot_label(&mut labels, &self.snapshotter, top)?;
        }
        let view = view.clone();
        let keep = move || store(&view, &descriptor, &bytes, &labels);
        blocking("document-store", keep).await?;
        Ok(config)
    }

    /// A place among the requests that this pull makes at once.
    async fn permit(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.permits.acquire().await.map_err(|_| Error::Cancelled)
    }

    async fn until_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::Cancelled),
            result = work => result,
        }
    }
}

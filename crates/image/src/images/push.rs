//! From the store to a registry: blobs first, then manifests, children before parents, the tag last.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use orlop_base::task::{CancellationToken, TaskKind};
use orlop_meta::View;
use orlop_registry::{BlobSource, Client, Pushed};
use orlop_types::{Descriptor, ImageName, Platform, Reference};
use tokio::sync::Semaphore;

use super::document::{add_labels, load_image, source_labels, source_of};
use super::error::{Error, first_cause};
use super::progress::{BlobState, Board, LineId, Meter, Progress, UnpackState};
use super::pull::parse_reference;
use super::table::load_document;
use super::{Images, RegistryAccess, Scope, blocking};
use crate::model::{Document, INDEX_DEPTH_MAX, ModelError};

const PUSH: TaskKind = TaskKind::cooperative("image-push");

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The image's name in the store.
    pub image: ImageName,
    /// Where to; the name itself if absent.
    pub reference: Option<String>,
    /// Only the image for this platform; everything the image refers to if absent.
    pub platform: Option<Platform>,
    /// How to reach the registry.
    pub registry: RegistryAccess,
}

/// A pushed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    /// Where it is now.
    pub reference: Reference,
    /// What the reference stands for.
    pub target: Descriptor,
    /// Bytes that went over the network.
    pub bytes_sent: u64,
}

/// One push.
struct Push {
    view: View,
    client: Client,
    reference: Reference,
    board: Board,
    stop: CancellationToken,
    permits: Semaphore,
    sent: AtomicU64,
}

/// What an image consists of, in the order it is to be pushed.
#[derive(Default)]
struct Contents {
    blobs: Vec<Descriptor>,
    documents: Vec<(Descriptor, Bytes)>,
    seen: HashSet<orlop_types::Digest>,
}

impl Images {
    /// Pushes an image with everything it refers to.
    ///
    /// # Errors
    /// `NotFound` for the image or a part of it; the registry's.
    pub async fn push(
        &self,
        scope: &Scope,
        request: PushRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<PushedImage, Error> {
        let text = request
            .reference
            .clone()
            .unwrap_or_else(|| request.image.to_string());
        let reference = parse_reference(&text)?;
        let client = self.client(&reference, &request.registry);
        let (view, permits) = (self.view(scope), self.inner.options.downloads_max.max(1));
        self.run(PUSH, |stop| async move {
            let push = Push {
                view,
                client,
                reference,
                board: Board::new(progress),
                stop,
                permits: Semaphore::new(permits),
                sent: AtomicU64::new(0),
            };
            let work = push.until_stopped(push.run(&request));
            push.board.while_doing(work).await
        })
        .await
    }
}

impl Push {
    async fn run(&self, request: &PushRequest) -> Result<PushedImage, Error> {
        let (view, request) = (self.view.clone(), request.clone());
        let (target, contents) = blocking("push-plan", move || plan(&view, &request)).await?;
        let blobs = contents.blobs.iter().map(|blob| {
            let line = self.board.add(blob, UnpackState::None);
            self.blob(blob, line)
        });
        first_cause(join_all(blobs).await)?;
        for (descriptor, bytes) in &contents.documents {
            let reference = if descriptor.digest == target.digest {
                self.reference.clone()
            } else {
                self.reference.with_digest(descriptor.digest)
            };
            let line = self.board.add(descriptor, UnpackState::None);
            self.client
                .push_manifest(&reference, &descriptor.media_type, bytes.clone())
                .await?;
            self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.board.set_state(line, BlobState::Remote);
        }
        Ok(PushedImage {
            reference: self.reference.clone(),
            target,
            bytes_sent: self.sent.load(Ordering::Relaxed),
        })
    }

    async fn blob(&self, descriptor: &Descriptor, line: LineId) -> Result<(), Error> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|_| Error::Cancelled)?;
        self.board.set_state(line, BlobState::Uploading);
        let (view, digest) = (self.view.clone(), descriptor.digest);
        let meter = Arc::new(Meter::default());
        meter.set_host(self.reference.registry());
        self.board.follow(line, &meter);
        let open = move || {
            let blob = view.content().open(&digest)?;
            let labels = view.content().info(&digest)?.labels;
            let read = move |buffer: &mut [u8], offset| {
                let count = blob.read_at(buffer, offset)?;
                meter.add(count as u64);
                Ok(count)
            };
            Ok((labels, Arc::new(Reader(read))))
        };
        let (labels, source) = blocking("push-open", open).await?;
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        let mount_from = source_of(&labels, registry, repository);
        let pushed = self
            .client
            .push_blob(&self.reference, descriptor, source, mount_from.as_deref())
            .await?;
        if pushed == Pushed::Uploaded {
            self.sent.fetch_add(descriptor.size, Ordering::Relaxed);
        }
        self.board.set_state(line, BlobState::Remote);
        let (view, labels) = (self.view.clone(), source_labels(&self.reference)?);
        blocking("blob-label", move || add_labels(&view, &digest, &labels)).await
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

/// Reads what is to be pushed. Blocks.
fn plan(view: &View, request: &PushRequest) -> Result<(Descriptor, Contents), Error> {
    let image = view.images().find(&request.image)?;
    let mut target = image.target;
    if let Some(platform) = &request.platform {
        target = load_image(view, "push", &target, platform)?.target;
    }
    let mut contents = Contents::default();
    visit(view, &target, &mut contents, 0)?;
    Ok((target, contents))
}

/// Adds a document after all it refers to.
fn visit(
    view: &View,
    descriptor: &Descriptor,
    contents: &mut Contents,
    depth: usize,
) -> Result<(), Error> {
    if depth > INDEX_DEPTH_MAX {
        let limit = INDEX_DEPTH_MAX;
        return Err(Error::model(descriptor.digest)(ModelError::TooDeep {
            limit,
        }));
    }
    if !contents.seen.insert(descriptor.digest) {
        return Ok(());
    }
    let (bytes, document) = load_document(view, "push", descriptor)?;
    match document {
        Document::Index(index) => {
            for entry in &index.manifests {
                visit(view, entry, contents, depth + 1)?;
            }
        }
        Document::Manifest(manifest) => {
            for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                if contents.seen.insert(blob.digest) {
                    contents.blobs.push(blob.clone());
                }
            }
        }
    }
    contents.documents.push((descriptor.clone(), bytes));
    Ok(())
}

/// A blob of the store.
struct Reader<F>(F);

impl<F> BlobSource for Reader<F>
where
    F: Fn(&mut [u8], u64) -> io::Result<usize> + Send + Sync,
{
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match (self.0)(&mut buffer[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }
}

//! Layers becoming snapshots while their bytes arrive.
//!
//! Each layer has a [`Supply`]: what its download says about it. Its unpacking starts with the first bytes; it is
//! committed after the supply said *stored*, that is verified, and after the layer below is committed.
//!
//! Cancellation: nothing in here is dropped half done. When the token is cancelled, jobs at work end at their next
//! entry and are waited for.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::future::{join, join_all};
use orlop_base::task::CancellationToken;
use orlop_base::telemetry::spans;
use orlop_base::traced;
use orlop_meta::View;
use orlop_types::{Descriptor, Digest, Labels, SnapshotKey};
use tokio::sync::{oneshot, watch};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::document::add_labels;
use super::error::{Error, first_cause};
use super::progress::{Board, LineId, UnpackState};
use super::record::Recorder;
use super::rootfs::{Base, Draft, Rootfs};
use super::{blocking, blocking_long};
use crate::apply::{ApplyError, ApplyOptions};

const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// What is to be had of a layer's blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Have {
    Nothing,
    /// A reader over the growing, unverified prefix.
    Prefix,
    /// The verified blob.
    Blob,
    /// Nothing more will come; the download knows why.
    Failed,
}

/// What a download tells the unpacking.
pub(crate) struct Supply {
    have: watch::Sender<Have>,
    reader: Mutex<Option<Box<dyn Read + Send>>>,
    /// The bytes began to come once more: those that the reader had may have been wrong.
    begun_again: AtomicBool,
}

/// One layer to be unpacked.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) line: LineId,
    pub(crate) supply: Arc<Supply>,
}

/// Unpacks the layers of one image.
pub(crate) struct Unpacker {
    pub(crate) view: View,
    pub(crate) rootfs: Rootfs,
    pub(crate) layers: Vec<Layer>,
    pub(crate) board: Arc<Board>,
    pub(crate) recorder: Arc<dyn Recorder>,
    pub(crate) stop: CancellationToken,
    /// What jobs at work look at.
    pub(crate) flag: Arc<AtomicBool>,
}

impl Supply {
    /// Nothing is there yet.
    pub(crate) fn pending() -> Arc<Self> {
        Self::new(Have::Nothing)
    }

    /// The blob is in the store.
    pub(crate) fn stored() -> Arc<Self> {
        Self::new(Have::Blob)
    }

    fn new(have: Have) -> Arc<Self> {
        Arc::new(Self {
            have: watch::Sender::new(have),
            reader: Mutex::default(),
            begun_again: AtomicBool::new(false),
        })
    }

    /// Bytes begin to come. Only the first reader is used: later ones repeat it.
    pub(crate) fn open(&self, reader: impl FnOnce() -> Option<Box<dyn Read + Send>>) {
        if *self.have.borrow() != Have::Nothing {
            self.begun_again.store(true, Ordering::Relaxed);
            return;
        }
        let Some(reader) = reader() else {
            return;
        };
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
        self.have.send_replace(Have::Prefix);
    }

    /// The blob is verified and stored, or will never be.
    pub(crate) fn end(&self, is_stored: bool) {
        let have = if is_stored { Have::Blob } else { Have::Failed };
        self.have.send_replace(have);
    }

    fn began_again(&self) -> bool {
        self.begun_again.load(Ordering::Relaxed)
    }

    fn take_reader(&self) -> Option<Box<dyn Read + Send>> {
        self.reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Unpacker {
    /// Makes the snapshots above `base`.
    pub(crate) async fn run(&self, base: Base) -> Result<(), Error> {
        for layer in &self.layers[..base.present] {
            self.board.set_unpack(layer.line, UnpackState::Present);
        }
        let work = async {
            if self.rootfs.is_side_by_side() {
                self.side_by_side(base).await
            } else {
                self.one_by_one(base).await
            }
        };
        let result = flagged(&self.stop, &self.flag, work).await;
        let rootfs = self.rootfs.clone();
        let discard = move || {
            rootfs.discard_drafts();
            Ok(())
        };
        let discarded = blocking("snapshot-discard", discard).await;
        result.and(discarded)
    }

    async fn side_by_side(&self, mut base: Base) -> Result<(), Error> {
        let mut first = base.first.take();
        let (mut unpacking, mut drafts) = (Vec::new(), Vec::new());
        for index in base.present..self.layers.len() {
            let (sender, receiver) = oneshot::channel();
            let draft = first.take();
            unpacking.push(async move {
                let unpacked = self.unpack(index, draft).await;
                if unpacked.is_err() {
                    self.stop.cancel();
                }
                unpacked.map(|draft| drop(sender.send(draft)))
            });
            drafts.push((index, receiver));
        }
        let commit = async {
            for (index, draft) in drafts {
                let Ok(draft) = draft.await else {
                    return Err(Error::Cancelled);
                };
                self.commit(index, draft)
                    .await
                    .inspect_err(|_| self.stop.cancel())?;
            }
            Ok(())
        };
        let (unpacked, committed) = join(join_all(unpacking), commit).await;
        first_cause(unpacked.into_iter().chain([committed])).map(drop)
    }

    async fn one_by_one(&self, mut base: Base) -> Result<(), Error> {
        for index in base.present..self.layers.len() {
            let draft = self.unpack(index, base.first.take()).await?;
            self.commit(index, draft).await?;
        }
        Ok(())
    }

    /// Unpacks one layer as its bytes come, and waits until they are verified. Nothing if its snapshot is there.
    async fn unpack(
        &self,
        index: usize,
        draft: Option<SnapshotKey>,
    ) -> Result<Option<Draft>, Error> {
        let layer = &self.layers[index];
        self.have(layer, Have::Prefix).await?;
        let span = traced!("unpack", digest = %layer.descriptor.digest, bytes = Empty);
        let unpacked = self
            .unpack_here(index, draft)
            .instrument(span.clone())
            .await;
        if let Err(error) = &unpacked {
            spans::failed(&span, error.code(), error);
        }
        unpacked
    }

    async fn unpack_here(
        &self,
        index: usize,
        draft: Option<SnapshotKey>,
    ) -> Result<Option<Draft>, Error> {
        let layer = &self.layers[index];
        self.board.set_unpack(layer.line, UnpackState::Unpacking);
        let from_prefix = match layer.supply.take_reader() {
            Some(reader) => Some(self.apply(index, draft.clone(), Some(reader)).await),
            None => None,
        };
        // Also after an error: unless the bytes are what they should be, that is the cause, and the download says so.
        self.have(layer, Have::Blob).await?;
        let unpacked = match from_prefix {
            Some(Ok(unpacked)) => unpacked,
            // The download was broken off, and somebody else finished it; or its bytes were wrong, and another host
            // gave the right ones.
            Some(Err(error)) if is_interrupted(&error) || layer.supply.began_again() => {
                self.apply(index, None, None).await?
            }
            Some(Err(error)) => return Err(error),
            None => self.apply(index, draft, None).await?,
        };
        if unpacked.is_some() {
            self.label(layer).await?;
        }
        Ok(unpacked)
    }

    async fn apply(
        &self,
        index: usize,
        draft: Option<SnapshotKey>,
        reader: Option<Box<dyn Read + Send>>,
    ) -> Result<Option<Draft>, Error> {
        let layer = self.layers[index].clone();
        let (rootfs, view) = (self.rootfs.clone(), self.view.clone());
        let options = ApplyOptions {
            expected_diff_id: Some(layer.diff_id),
            cancel: Some(Arc::clone(&self.flag)),
            unpacked: Some(self.board.unpacked(layer.line)),
            ..ApplyOptions::default()
        };
        let began = Instant::now();
        let job = move || {
            let reader = match reader {
                Some(reader) => reader,
                None => Box::new(view.content().open(&layer.descriptor.digest)?),
            };
            rootfs.apply(index, draft, &layer.descriptor, (reader, &options))
        };
        let result = blocking_long("layer-unpack", job).await;
        let bytes = match &result {
            Ok(Some(draft)) => draft.applied.uncompressed_size,
            Ok(None) | Err(_) => 0,
        };
        Span::current().record("bytes", bytes);
        self.recorder
            .unpacked(bytes, began.elapsed(), result.as_ref().err());
        result
    }

    /// Notes on the blob what it unpacked to; known to be true by now.
    async fn label(&self, layer: &Layer) -> Result<(), Error> {
        let (view, digest) = (self.view.clone(), layer.descriptor.digest);
        let mut labels = Labels::new();
        labels.insert(UNCOMPRESSED, layer.diff_id.to_string())?;
        blocking("blob-label", move || add_labels(&view, &digest, &labels)).await
    }

    async fn commit(&self, index: usize, draft: Option<Draft>) -> Result<(), Error> {
        let layer = self.layers[index].clone();
        let line = layer.line;
        let Some(draft) = draft else {
            self.board.set_unpack(line, UnpackState::Present);
            return Ok(());
        };
        if self.stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let rootfs = self.rootfs.clone();
        blocking("snapshot-commit", move || {
            rootfs.commit(index, &layer.descriptor, &draft)
        })
        .await?;
        self.board.set_unpack(line, UnpackState::Unpacked);
        Ok(())
    }

    /// Waits until a layer has at least `wanted`.
    async fn have(&self, layer: &Layer, wanted: Have) -> Result<(), Error> {
        let mut changes = layer.supply.have.subscribe();
        loop {
            let have = *changes.borrow_and_update();
            match have {
                Have::Failed => return Err(Error::Cancelled),
                Have::Blob => return Ok(()),
                Have::Prefix if wanted == Have::Prefix => return Ok(()),
                Have::Prefix | Have::Nothing => {}
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Error::Cancelled),
                changed = changes.changed() => changed.map_err(|_| Error::Cancelled)?,
            }
        }
    }
}

/// Whether the blob's bytes stopped coming, rather than being wrong.
fn is_interrupted(error: &Error) -> bool {
    matches!(
        error,
        Error::Unpack {
            source: ApplyError::Blob(_),
            ..
        }
    )
}

/// Runs `work` to its end, setting `flag` when `stop` is cancelled.
pub(crate) async fn flagged<T>(
    stop: &CancellationToken,
    flag: &AtomicBool,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    tokio::select! {
        biased;
        result = &mut work => return result,
        () = stop.cancelled() => flag.store(true, Ordering::Relaxed),
    }
    work.await
}

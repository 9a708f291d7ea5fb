//! The blobs of a pull: each brought by the shortest way, a few at a time.

use std::sync::Arc;

use futures_util::future::join_all;
use orlop_base::telemetry::spans;
use orlop_base::traced;
use orlop_meta::View;
use orlop_types::{Descriptor, Labels};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::super::blocking;
use super::super::document::add_labels;
use super::super::error::{Error, first_cause};
use super::super::flight::{Order, Stage};
use super::super::layers::Supply;
use super::super::progress::{BlobState, Board, LineId, UnpackState};
use super::Pull;

/// How often a download is begun that somebody else broke off.
const DOWNLOADS_MAX: usize = 5;

/// A blob to be downloaded.
struct Wanted {
    descriptor: Descriptor,
    line: LineId,
    supply: Arc<Supply>,
}

/// Blobs to be downloaded, each once.
#[derive(Default)]
pub(super) struct Blobs {
    list: Vec<Wanted>,
}

impl Blobs {
    /// Adds a blob. A layer that an image has twice is downloaded once, but each of its places gets its own supply.
    pub(super) fn add(
        &mut self,
        board: &Board,
        descriptor: &Descriptor,
        unpack: UnpackState,
    ) -> (LineId, Arc<Supply>) {
        let line = board.add(descriptor, unpack);
        let supply = Supply::pending();
        self.list.push(Wanted {
            descriptor: descriptor.clone(),
            line,
            supply: Arc::clone(&supply),
        });
        (line, supply)
    }
}

impl Pull {
    /// Brings all blobs. The first failure stops the pull.
    pub(super) async fn download_all(
        &self,
        view: &View,
        blobs: &Blobs,
        source: &Labels,
    ) -> Result<(), Error> {
        let downloads = blobs.list.iter().map(|blob| async move {
            let digest = &blob.descriptor.digest;
            let size = blob.descriptor.size;
            let span = traced!("fetch", %digest, size, host = Empty, bytes = Empty);
            let download = self.download(view, blob, source);
            let downloaded = download.instrument(span.clone()).await;
            if let Err(error) = &downloaded {
                spans::failed(&span, error.code(), error);
            }
            blob.supply.end(downloaded.is_ok());
            downloaded.inspect_err(|_| self.stop.cancel())
        });
        first_cause(join_all(downloads).await).map(drop)
    }

    /// Brings one blob into the view's namespace, by whatever way is shortest.
    async fn download(&self, view: &View, blob: &Wanted, source: &Labels) -> Result<(), Error> {
        let _permit = self.until_stopped(self.permit()).await?;
        for _ in 0..DOWNLOADS_MAX {
            if self.is_present(view, blob, source).await? {
                return Ok(());
            }
            let seat = self.images.inner.flights.join(Order {
                view: view.clone(),
                client: self.client.clone(),
                reference: self.reference.clone(),
                descriptor: blob.descriptor.clone(),
                labels: source.clone(),
                recorder: Arc::clone(&self.images.inner.recorder),
            });
            self.board.follow(blob.line, seat.meter());
            let flown = seat.wait(|stage| self.heard(blob, stage));
            let flown = self.until_stopped(async { Ok(flown.await) }).await?;
            let meter = seat.meter();
            let span = Span::current();
            span.record("host", meter.host());
            span.record("bytes", meter.moved());
            match flown {
                Ok(()) if seat.leads => {
                    self.board.set_state(blob.line, BlobState::Stored);
                    return Ok(());
                }
                // In the store, and now to be seen in this namespace; or broken off by somebody else.
                Ok(()) => {}
                Err(_) if !seat.leads => {}
                Err(source) => {
                    let digest = Box::new(blob.descriptor.digest);
                    return Err(Error::Download { digest, source });
                }
            }
        }
        Err(Error::Cancelled)
    }

    /// Whether the namespace sees the blob; then it gets the labels it lacks.
    async fn is_present(&self, view: &View, blob: &Wanted, source: &Labels) -> Result<bool, Error> {
        let (view, digest, labels) = (view.clone(), blob.descriptor.digest, source.clone());
        let look = move || match view.content().info(&digest) {
            Ok(_) => add_labels(&view, &digest, &labels).map(|()| true),
            Err(error) if error.kind() == orlop_meta::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        };
        let present = blocking("blob-look", look).await?;
        if present {
            self.board.set_state(blob.line, BlobState::Present);
        }
        Ok(present)
    }

    fn heard(&self, blob: &Wanted, stage: &Stage) {
        let state = match stage {
            Stage::Waiting | Stage::Landed(_) => return,
            Stage::Open(ingest) => {
                blob.supply.open(|| {
                    let reader = ingest.writer()?.reader();
                    Some(Box::new(reader))
                });
                BlobState::Downloading
            }
            Stage::Verifying => BlobState::Verifying,
        };
        self.board.set_state(blob.line, state);
    }
}

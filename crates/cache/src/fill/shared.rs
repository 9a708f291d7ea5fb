//! Replicas that share a tier: elections by a fleet's leases, blobs by an object store.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use orlop_base::blocking;
use orlop_registry::BlobSink;
use orlop_types::{Digest, chain};

use super::election::{Brought, Election, Pending, Tier, Verdict};
use crate::depot::{Depot, DepotError, DepotErrorKind, Source};
use crate::fleet::{Candidate, Standing};
use crate::store::Store;
use crate::tier::ClassName;
use crate::tier::apply::{Mover, Wanted};

/// Elections by leases.
#[derive(Debug)]
pub struct FleetElection(pub Candidate);

impl Election for FleetElection {
    fn stand<'a>(&'a self, digest: &'a Digest) -> Pending<'a, Verdict> {
        Box::pin(async move {
            match self.0.stand(digest).await {
                Standing::Ours(guard) => Verdict::Ours(Box::new(guard)),
                Standing::Stored => Verdict::Elsewhere,
                Standing::Held { by, .. } => {
                    tracing::info!(%digest, by, "another replica takes long to fill: not waited for any more");
                    Verdict::Ours(Box::new(()))
                }
                Standing::Alone => Verdict::Ours(Box::new(())),
            }
        })
    }
}

/// The shared tier in front of upstream.
#[derive(Debug)]
pub struct DepotTier {
    /// Where blobs are shared.
    pub depot: Arc<dyn Depot>,
    /// Where blobs of this replica are.
    pub store: Store,
    /// Brings archived blobs back that a pull wants; without one they stay archived.
    pub mover: Option<Arc<Mover>>,
    /// The class of what is put there.
    pub class: ClassName,
}

impl DepotTier {
    async fn fetch(
        &self,
        digest: &Digest,
        size: u64,
        sink: &Arc<dyn BlobSink>,
    ) -> Result<bool, DepotError> {
        for range in sink.missing() {
            let range = range.start..range.end.min(size);
            if range.is_empty() {
                continue;
            }
            if !self.fetch_range(digest, range, sink).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether all of the range came, and could be kept.
    async fn fetch_range(
        &self,
        digest: &Digest,
        range: Range<u64>,
        sink: &Arc<dyn BlobSink>,
    ) -> Result<bool, DepotError> {
        let mut offset = range.start;
        let mut body = self.depot.get(digest, Some(range.clone())).await?;
        while let Some(chunk) = body.chunks.next().await {
            let chunk = chunk?;
            let (sink, at) = (Arc::clone(sink), offset);
            offset += chunk.len() as u64;
            let write = move || sink.write_at(at, &chunk);
            let written = blocking::run("write from the shared tier", write).await;
            if !written.is_ok_and(|written| written.is_ok()) {
                return Ok(false);
            }
        }
        Ok(offset >= range.end)
    }

    /// A pull wants what is archived: it is asked for, and comes with a later pull.
    /// Gives when to come again.
    async fn want(&self, digest: &Digest, size: u64) -> Option<Duration> {
        let mover = self.mover.as_ref()?;
        let wanted = match self.depot.head(digest).await {
            Ok(held) => mover.wanted(digest, size, &held.class).await,
            Err(error) => Err(error.into()),
        };
        match wanted {
            Ok(Wanted::Coming(again)) => {
                tracing::info!(%digest, "an archived blob is asked back");
                return Some(again);
            }
            Ok(Wanted::TooDear) => {
                tracing::info!(%digest, "a blob stays archived: the day's money is spent");
            }
            Err(error) => {
                tracing::warn!(%digest, error = chain(&error), "an archived blob cannot be asked back")
            }
        }
        None
    }

    async fn put(&self, digest: &Digest, size: u64) -> Result<(), DepotError> {
        let (store, wanted) = (self.store.clone(), *digest);
        let found = blocking::run("open for the shared tier", move || store.find(&wanted)).await;
        // What is gone again, or cannot be read, is not shared.
        let Ok(Ok(Some(found))) = found else {
            return Ok(());
        };
        let _reading = found.reading;
        let source = Source {
            file: found.blob.into_file(),
            bytes: size,
        };
        match self.depot.put(digest, source, &self.class).await {
            Err(error) if error.kind == DepotErrorKind::Exists => Ok(()),
            answer => answer,
        }
    }
}

impl Tier for DepotTier {
    fn bring<'a>(
        &'a self,
        digest: &'a Digest,
        size: u64,
        sink: Arc<dyn BlobSink>,
    ) -> Pending<'a, Brought> {
        Box::pin(async move {
            match self.fetch(digest, size, &sink).await {
                Ok(true) => Brought::Whole,
                Ok(false) => Brought::Nothing,
                Err(error) => {
                    match error.kind {
                        DepotErrorKind::Absent => {}
                        DepotErrorKind::Archived | DepotErrorKind::Restoring => {
                            return Brought::Archived(self.want(digest, size).await);
                        }
                        DepotErrorKind::Exists
                        | DepotErrorKind::Throttled(_)
                        | DepotErrorKind::Refused
                        | DepotErrorKind::Corrupt
                        | DepotErrorKind::Away
                        | DepotErrorKind::Local => {
                            tracing::warn!(%digest, error = chain(&error), code = error.code(), "going on without the shared tier");
                        }
                    }
                    Brought::Nothing
                }
            }
        })
    }

    fn offer<'a>(&'a self, digest: &'a Digest, size: u64) -> Pending<'a, ()> {
        Box::pin(async move {
            if let Err(error) = self.put(digest, size).await {
                tracing::warn!(%digest, error = chain(&error), code = error.code(), "a blob is not shared");
            }
        })
    }
}

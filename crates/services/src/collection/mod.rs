//! `orlop.v1.Collection`: collect now, tell how it stands, why something is kept, and whether the disk agrees.

mod fsck;
mod holdings;
mod passes;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::Stream;
use orlop_api::orlop::v1 as api;
use orlop_api::orlop::v1::collection_server::Collection as Service;
use orlop_meta::gc::{Failure, QueueItem, Report};
use orlop_meta::{Db, Error};
use orlop_types::Digest;
use tonic::{Request, Response, Status};

use crate::request;
use crate::store::Store;
use crate::translate::timestamp;

pub use passes::{Collection, Latest, PassError, PassOutcome, PassRequest, Passes};

/// So many entries of the queue are told when the caller names no number.
const ITEMS_DEFAULT: u32 = 100;

/// No more than so many, whatever the caller asks for.
const ITEMS_MAX: u32 = 10_000;

/// Asks the driver for passes, and the database for everything else.
#[derive(Debug)]
pub(crate) struct CollectionService {
    pub(crate) store: Store,
    pub(crate) collection: Collection,
}

#[tonic::async_trait]
impl Service for CollectionService {
    type FsckStream = Pin<Box<dyn Stream<Item = Result<api::FsckEvent, Status>> + Send>>;

    async fn run(
        &self,
        _: Request<api::GcRunRequest>,
    ) -> Result<Response<api::GcRunResponse>, Status> {
        let report = self.collection.run().await?;
        Ok(Response::new(pass(&report)))
    }

    async fn status(
        &self,
        request: Request<api::GcStatusRequest>,
    ) -> Result<Response<api::GcStatusResponse>, Status> {
        let limit = match request.into_inner().items_max {
            0 => ITEMS_DEFAULT,
            count => count.min(ITEMS_MAX),
        };
        let collector = self.collection.collector().clone();
        let (queue, bytes_held) = self
            .store
            .run_globally(move |db| Ok((collector.queue(limit as usize)?, bytes_held(db)?)))
            .await?;
        let latest = self.collection.latest();
        let mut answer = api::GcStatusResponse {
            next_at: latest.next_at.map(timestamp),
            queue_length: queue.items,
            queue: queue.first.iter().map(sweep_item).collect(),
            bytes_held,
            ..api::GcStatusResponse::default()
        };
        if let Some((started_at, report)) = latest.pass {
            answer.last_started_at = Some(timestamp(started_at));
            answer.last_duration = span(report.took);
            answer.last_pause = span(report.longest_pause);
            answer.last_collected = report.removed.total();
            answer.last_bytes_freed = report.bytes_freed;
        }
        Ok(Response::new(answer))
    }

    async fn why(
        &self,
        request: Request<api::GcWhyRequest>,
    ) -> Result<Response<api::GcWhyResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let kind = holdings::kind(wanted.kind())?;
        let holdings = self
            .store
            .run(caller, move |view| holdings::find(view, &wanted.key, kind));
        Ok(Response::new(api::GcWhyResponse {
            holdings: holdings.await?,
        }))
    }

    async fn fsck(
        &self,
        request: Request<api::FsckRequest>,
    ) -> Result<Response<Self::FsckStream>, Status> {
        let roots = self.collection.snapshot_roots().clone();
        let events = fsck::stream(self.store.db().clone(), roots, request.get_ref());
        Ok(Response::new(Box::pin(events)))
    }
}

fn pass(report: &Report) -> api::GcRunResponse {
    api::GcRunResponse {
        duration: span(report.took),
        pause: span(report.longest_pause),
        content_collected: report.removed.content,
        snapshots_collected: report.removed.snapshots,
        leases_expired: report.removed.leases,
        bytes_freed: report.bytes_freed,
        failed: report.failures.iter().map(failure).collect(),
    }
}

fn failure(failure: &Failure) -> api::SweepItem {
    api::SweepItem {
        resource: Some(swept(failure.kind, failure.key.clone(), String::new())),
        attempts: failure.attempts,
        next_try_at: None,
        last_error: failure.error.clone(),
    }
}

fn sweep_item(item: &QueueItem) -> api::SweepItem {
    api::SweepItem {
        resource: Some(swept(item.kind(), item.key.clone(), item.scope.clone())),
        attempts: item.attempts,
        next_try_at: Some(timestamp(item.next_try_at)),
        last_error: item.last_error.clone().unwrap_or_default(),
    }
}

/// What waits for its removal belongs to no namespace any more.
fn swept(kind: &str, key: String, snapshotter: String) -> api::Resource {
    let kind = match kind {
        // What a snapshotter put aside was a snapshot.
        "leftovers" => api::ResourceKind::Snapshot,
        other => other
            .parse()
            .map_or(api::ResourceKind::Unspecified, holdings::kind_message),
    };
    api::Resource {
        kind: kind.into(),
        namespace: String::new(),
        key,
        snapshotter,
    }
}

/// Blobs, which namespaces share, and committed snapshots. What is being written is not counted.
fn bytes_held(db: &Db) -> Result<u64, Error> {
    let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut snapshots = BTreeMap::new();
    for namespace in db.namespaces().list()? {
        let view = db.namespace(&namespace.name);
        let content = view.content().list(&[])?;
        blobs.extend(content.into_iter().map(|blob| (blob.digest, blob.size)));
        for snapshotter in db.backends().snapshotters.keys() {
            let listed = view.snapshots(snapshotter).list(&[])?;
            let sizes = listed.into_iter().filter_map(|snapshot| {
                let usage = snapshot.usage?;
                Some((snapshot.number, usage.bytes))
            });
            snapshots.extend(sizes);
        }
    }
    Ok(blobs.values().sum::<u64>() + snapshots.values().sum::<u64>())
}

/// A duration of an answer; one too long for the wire does not occur.
fn span(duration: Duration) -> Option<orlop_api::Duration> {
    duration.try_into().ok()
}

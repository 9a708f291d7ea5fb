//! `containerd.services.snapshots.v1`.

use std::pin::Pin;

use futures_util::stream::{self, Stream};
use orlop_api::containerd::services::snapshots::v1 as api;
use orlop_api::containerd::services::snapshots::v1::snapshots_server::Snapshots;
use orlop_meta::{CommitOptions, Snapshot, SnapshotKind, SnapshotOptions};
use orlop_types::{Mount, SnapshotKey, SnapshotterName};
use tonic::{Request, Response, Status};

use crate::content::in_pieces;
use crate::request::{self, Caller};
use crate::status;
use crate::store::Store;
use crate::translate::{
    labels, mount_message, parse, parse_optional, paths, required, signed, timestamp,
};

/// How many leftover folders one step of a clean-up deletes, so that no step holds a place in the pool for long.
const CLEANUP_STEP: usize = 16;

/// Keeps snapshots of the caller's namespace.
#[derive(Debug)]
pub(crate) struct SnapshotsService {
    pub(crate) store: Store,
}

/// What a snapshot is made with.
struct Wanted {
    snapshotter: SnapshotterName,
    key: SnapshotKey,
    options: SnapshotOptions,
}

impl SnapshotsService {
    async fn make(
        &self,
        caller: Caller,
        wanted: Wanted,
        is_writable: bool,
    ) -> Result<Vec<orlop_api::containerd::types::Mount>, Status> {
        let made = self.store.run(caller, move |view| {
            let snapshots = view.snapshots(&wanted.snapshotter);
            if is_writable {
                snapshots.prepare(&wanted.key, &wanted.options)
            } else {
                snapshots.view(&wanted.key, &wanted.options)
            }
        });
        Ok(mount_messages(made.await?))
    }
}

#[tonic::async_trait]
impl Snapshots for SnapshotsService {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let (caller, message) = request::open(request)?;
        let wanted = Wanted {
            snapshotter: snapshotter(&message.snapshotter)?,
            key: parse(&message.key)?,
            options: SnapshotOptions {
                parent: parse_optional(&message.parent)?,
                labels: labels(message.labels)?,
            },
        };
        Ok(Response::new(api::PrepareSnapshotResponse {
            mounts: self.make(caller, wanted, true).await?,
        }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let (caller, message) = request::open(request)?;
        let wanted = Wanted {
            snapshotter: snapshotter(&message.snapshotter)?,
            key: parse(&message.key)?,
            options: SnapshotOptions {
                parent: parse_optional(&message.parent)?,
                labels: labels(message.labels)?,
            },
        };
        Ok(Response::new(api::ViewSnapshotResponse {
            mounts: self.make(caller, wanted, false).await?,
        }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let snapshotter = snapshotter(&wanted.snapshotter)?;
        let key = parse(&wanted.key)?;
        let found = self.store.run(caller, move |view| {
            view.snapshots(&snapshotter).mounts(&key)
        });
        Ok(Response::new(api::MountsResponse {
            mounts: mount_messages(found.await?),
        }))
    }

    async fn commit(
        &self,
        request: Request<api::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let snapshotter = snapshotter(&wanted.snapshotter)?;
        let (name, key) = (parse(&wanted.name)?, parse(&wanted.key)?);
        let options = CommitOptions {
            parent: parse_optional(&wanted.parent)?,
            labels: labels(wanted.labels)?,
        };
        let committed = self.store.run(caller, move |view| {
            view.snapshots(&snapshotter).commit(&name, &key, &options)
        });
        committed.await.map(Response::new)
    }

    async fn remove(
        &self,
        request: Request<api::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let snapshotter = snapshotter(&wanted.snapshotter)?;
        let key = parse(&wanted.key)?;
        self.store
            .run(caller, move |view| {
                view.snapshots(&snapshotter).remove(&key)
            })
            .await
            .map(Response::new)
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let snapshotter = snapshotter(&wanted.snapshotter)?;
        let key = parse(&wanted.key)?;
        let found = self
            .store
            .run(caller, move |view| view.snapshots(&snapshotter).stat(&key));
        Ok(Response::new(api::StatSnapshotResponse {
            info: Some(info(found.await?)),
        }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let snapshotter = snapshotter(&wanted.snapshotter)?;
        let fields = paths(wanted.update_mask);
        let wanted = required(wanted.info, "info")?;
        let key = parse(&wanted.name)?;
        let labels = labels(wanted.labels)?;
        let updated = self.store.run(caller, move |view| {
            view.snapshots(&snapshotter).update(&key, &labels, &fields)
        });
        Ok(Response::new(api::UpdateSnapshotResponse {
            info: Some(info(updated.await?)),
        }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<api::ListSnapshotsResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        let snapshotter = snapshotter(&wanted.snapshotter)?;
        let found = self.store.run(caller, move |view| {
            view.snapshots(&snapshotter).list(&wanted.filters)
        });
        let snapshots = stream::iter(found.await?.into_iter().map(info));
        Ok(Response::new(in_pieces(snapshots, |info| {
            api::ListSnapshotsResponse { info }
        })))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let snapshotter = snapshotter(&wanted.snapshotter)?;
        let key = parse(&wanted.key)?;
        let usage = self
            .store
            .run(caller, move |view| view.snapshots(&snapshotter).usage(&key))
            .await?;
        Ok(Response::new(api::UsageResponse {
            size: signed(usage.bytes),
            inodes: signed(usage.inodes),
        }))
    }

    async fn cleanup(&self, request: Request<api::CleanupRequest>) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let snapshotter = snapshotter(&wanted.snapshotter)?;
        loop {
            let name = snapshotter.clone();
            let step = self.store.run(caller.clone(), move |view| {
                view.snapshots(&name).cleanup(CLEANUP_STEP)
            });
            let cleaned = step.await?;
            if let Some(failure) = cleaned.failures.first() {
                return Err(status::not_cleaned(failure, cleaned.failures.len()));
            }
            if !cleaned.more {
                return Ok(Response::new(()));
            }
        }
    }
}

fn snapshotter(name: &str) -> Result<SnapshotterName, Status> {
    if name.is_empty() {
        return Err(status::missing("snapshotter"));
    }
    parse(name)
}

fn mount_messages(mounts: Vec<Mount>) -> Vec<orlop_api::containerd::types::Mount> {
    mounts.into_iter().map(mount_message).collect()
}

fn info(snapshot: Snapshot) -> api::Info {
    let kind = match snapshot.kind {
        SnapshotKind::View => api::Kind::View,
        SnapshotKind::Active => api::Kind::Active,
        SnapshotKind::Committed => api::Kind::Committed,
    };
    api::Info {
        name: snapshot.key.into(),
        parent: snapshot.parent.map(String::from).unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(timestamp(snapshot.created_at)),
        updated_at: Some(timestamp(snapshot.updated_at)),
        labels: snapshot.labels.into(),
    }
}

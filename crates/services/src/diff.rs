//! `containerd.services.diff.v1`: layers onto mounts, and mounts into layers.

use orlop_api::containerd::services::diff::v1 as api;
use orlop_api::containerd::services::diff::v1::diff_server::Diff;
use orlop_image::images::{ApplyDiffRequest, CreateDiffRequest, Images};
use tonic::{Request, Response, Status};

use crate::request;
use crate::status;
use crate::transfers::scope;
use crate::translate::{descriptor, descriptor_message, labels, mount, required};

/// Unpacks and makes layers of the caller's namespace.
pub(crate) struct DiffService {
    pub(crate) images: Images,
}

#[tonic::async_trait]
impl Diff for DiffService {
    async fn apply(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        // Whatever `sync_fs` says: a snapshot's files are synced when it is committed.
        let apply = ApplyDiffRequest {
            layer: descriptor(required(wanted.diff, "diff")?)?,
            mounts: wanted.mounts.into_iter().map(mount).collect(),
        };
        let applied = self.images.apply_diff(&scope(caller), apply).await;
        let applied = applied.map_err(|error| status::of_image(&error))?;
        Ok(Response::new(api::ApplyResponse {
            applied: Some(descriptor_message(applied.applied)),
        }))
    }

    async fn diff(
        &self,
        request: Request<api::DiffRequest>,
    ) -> Result<Response<api::DiffResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        // `ref` names the ingest in containerd; here the bytes never stand under a name that a client chose.
        let create = CreateDiffRequest {
            lower: wanted.left.into_iter().map(mount).collect(),
            upper: wanted.right.into_iter().map(mount).collect(),
            media_type: Some(wanted.media_type).filter(|media_type| !media_type.is_empty()),
            labels: labels(wanted.labels)?,
            source_date_seconds: wanted.source_date_epoch.map(|epoch| epoch.seconds),
        };
        let created = self.images.create_diff(&scope(caller), create).await;
        let created = created.map_err(|error| status::of_image(&error))?;
        Ok(Response::new(api::DiffResponse {
            diff: Some(descriptor_message(created)),
        }))
    }
}

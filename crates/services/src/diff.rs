//! `containerd.services.diff.v1`. Making layers from two lists of mounts is not there yet.

use orlop_api::containerd::services::diff::v1 as api;
use orlop_api::containerd::services::diff::v1::diff_server::Diff;
use orlop_api::containerd::types;
use orlop_base::blocking;
use orlop_image::apply::{Applied, ApplyOptions};
use orlop_image::mounts::apply_to_mounts;
use orlop_types::Mount;
use tonic::{Request, Response, Status};

use crate::request;
use crate::status;
use crate::store::Store;
use crate::translate::{descriptor, mount, required, signed};

/// The type of what a layer is once it is unpacked.
const UNCOMPRESSED_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Unpacks layers of the caller's namespace.
#[derive(Debug)]
pub(crate) struct DiffService {
    pub(crate) store: Store,
}

#[tonic::async_trait]
impl Diff for DiffService {
    async fn apply(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let layer = descriptor(required(wanted.diff, "diff")?)?;
        let mounts: Vec<Mount> = wanted.mounts.into_iter().map(mount).collect();
        let blob = self
            .store
            .run(caller, move |view| view.content().open(&layer.digest))
            .await?;
        // Whatever `sync_fs` says: a snapshot's files are synced when it is committed.
        let unpack = move || apply_to_mounts(blob, &mounts, &ApplyOptions::default());
        let applied = blocking::run_long("unpack a layer", unpack)
            .await
            .map_err(|error| status::of_blocking(&error))?
            .map_err(|error| status::of_apply(&error))?;
        Ok(Response::new(api::ApplyResponse {
            applied: Some(applied_message(&applied)),
        }))
    }

    async fn diff(
        &self,
        _: Request<api::DiffRequest>,
    ) -> Result<Response<api::DiffResponse>, Status> {
        Err(Status::unimplemented("making a layer from mounts"))
    }
}

fn applied_message(applied: &Applied) -> types::Descriptor {
    types::Descriptor {
        media_type: UNCOMPRESSED_LAYER.to_owned(),
        digest: applied.diff_id.to_string(),
        size: signed(applied.uncompressed_size),
        ..types::Descriptor::default()
    }
}

//! `containerd.services.leases.v1`.

use std::hash::{BuildHasher, Hasher, RandomState};

use orlop_api::containerd::services::leases::v1 as api;
use orlop_api::containerd::services::leases::v1::leases_server::Leases;
use orlop_meta::{Lease, LeaseResource};
use orlop_types::LeaseId;
use tonic::{Request, Response, Status};

use crate::collection::Collection;
use crate::request;
use crate::status;
use crate::store::Store;
use crate::translate::{labels, parse, parse_optional, required, timestamp};

/// Keeps leases of the caller's namespace.
#[derive(Debug)]
pub(crate) struct LeasesService {
    pub(crate) store: Store,
    pub(crate) collection: Collection,
}

#[tonic::async_trait]
impl Leases for LeasesService {
    async fn create(
        &self,
        request: Request<api::CreateRequest>,
    ) -> Result<Response<api::CreateResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = match parse_optional(&wanted.id)? {
            Some(id) => id,
            None => random_id()?,
        };
        let labels = labels(wanted.labels)?;
        let created = self
            .store
            .run(caller, move |view| view.leases().create(&id, &labels));
        Ok(Response::new(api::CreateResponse {
            lease: Some(message(created.await?)),
        }))
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = parse(&wanted.id)?;
        self.store
            .run(caller, move |view| view.leases().delete(&id))
            .await?;
        self.collection.run_if(wanted.sync).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<api::ListResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let found = self
            .store
            .run(caller, move |view| view.leases().list(&wanted.filters));
        Ok(Response::new(api::ListResponse {
            leases: found.await?.into_iter().map(message).collect(),
        }))
    }

    async fn add_resource(
        &self,
        request: Request<api::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = parse(&wanted.id)?;
        let resource = resource(wanted.resource)?;
        self.store
            .run(caller, move |view| {
                view.leases().add_resource(&id, &resource)
            })
            .await
            .map(Response::new)
    }

    async fn delete_resource(
        &self,
        request: Request<api::DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = parse(&wanted.id)?;
        let resource = resource(wanted.resource)?;
        self.store
            .run(caller, move |view| {
                view.leases().remove_resource(&id, &resource)
            })
            .await
            .map(Response::new)
    }

    async fn list_resources(
        &self,
        request: Request<api::ListResourcesRequest>,
    ) -> Result<Response<api::ListResourcesResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = parse(&wanted.id)?;
        let found = self
            .store
            .run(caller, move |view| view.leases().resources(&id));
        let resources = found.await?.into_iter().map(|resource| api::Resource {
            id: resource.id(),
            r#type: resource.type_name().into_owned(),
        });
        Ok(Response::new(api::ListResourcesResponse {
            resources: resources.collect(),
        }))
    }
}

/// An id for a caller that leaves the choice to us.
fn random_id() -> Result<LeaseId, Status> {
    // The keys of a hash map are the standard library's only randomness; a clash would be refused as existing.
    let random = RandomState::new().build_hasher().finish();
    parse(&format!("lease-{random:016x}"))
}

fn resource(message: Option<api::Resource>) -> Result<LeaseResource, Status> {
    let message = required(message, "resource")?;
    LeaseResource::parse(&message.r#type, &message.id).map_err(|error| status::of_meta(&error))
}

fn message(lease: Lease) -> api::Lease {
    api::Lease {
        id: lease.id.into(),
        created_at: Some(timestamp(lease.created_at)),
        labels: lease.labels.into(),
    }
}

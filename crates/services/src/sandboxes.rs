//! `containerd.services.sandbox.v1.Store`: records of sandboxes. Running them is the controller's.

use orlop_api::containerd::services::sandbox::v1 as api;
use orlop_api::containerd::services::sandbox::v1::store_server::Store as SandboxStore;
use orlop_api::containerd::types;
use orlop_meta::Sandbox;
use tonic::{Request, Response, Status};

use crate::request;
use crate::store::Store;
use crate::translate::{
    any, extension_messages, extensions, labels, parse, required, runtime, timestamp, typed_bytes,
};

/// Keeps sandbox records of the caller's namespace.
#[derive(Debug)]
pub(crate) struct SandboxesService {
    pub(crate) store: Store,
}

#[tonic::async_trait]
impl SandboxStore for SandboxesService {
    async fn create(
        &self,
        request: Request<api::StoreCreateRequest>,
    ) -> Result<Response<api::StoreCreateResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let sandbox = record(required(wanted.sandbox, "sandbox")?)?;
        let created = self
            .store
            .run(caller, move |view| view.sandboxes().create(&sandbox));
        Ok(Response::new(api::StoreCreateResponse {
            sandbox: Some(message(created.await?)),
        }))
    }

    async fn update(
        &self,
        request: Request<api::StoreUpdateRequest>,
    ) -> Result<Response<api::StoreUpdateResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let sandbox = record(required(wanted.sandbox, "sandbox")?)?;
        let updated = self.store.run(caller, move |view| {
            view.sandboxes().update(&sandbox, &wanted.fields)
        });
        Ok(Response::new(api::StoreUpdateResponse {
            sandbox: Some(message(updated.await?)),
        }))
    }

    async fn delete(
        &self,
        request: Request<api::StoreDeleteRequest>,
    ) -> Result<Response<api::StoreDeleteResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = parse(&wanted.sandbox_id)?;
        self.store
            .run(caller, move |view| view.sandboxes().delete(&id))
            .await?;
        Ok(Response::new(api::StoreDeleteResponse {}))
    }

    async fn list(
        &self,
        request: Request<api::StoreListRequest>,
    ) -> Result<Response<api::StoreListResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let found = self
            .store
            .run(caller, move |view| view.sandboxes().list(&wanted.filters));
        Ok(Response::new(api::StoreListResponse {
            list: found.await?.into_iter().map(message).collect(),
        }))
    }

    async fn get(
        &self,
        request: Request<api::StoreGetRequest>,
    ) -> Result<Response<api::StoreGetResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = parse(&wanted.sandbox_id)?;
        let found = self
            .store
            .run(caller, move |view| view.sandboxes().find(&id));
        Ok(Response::new(api::StoreGetResponse {
            sandbox: Some(message(found.await?)),
        }))
    }
}

fn record(message: types::Sandbox) -> Result<Sandbox, Status> {
    let wanted = message.runtime.unwrap_or_default();
    let runtime = runtime(wanted.name, wanted.options);
    let mut sandbox = Sandbox::new(parse(&message.sandbox_id)?, runtime);
    sandbox.labels = labels(message.labels)?;
    sandbox.spec = message.spec.map(typed_bytes);
    sandbox.sandboxer = message.sandboxer;
    sandbox.extensions = extensions(message.extensions);
    Ok(sandbox)
}

fn message(sandbox: Sandbox) -> types::Sandbox {
    types::Sandbox {
        sandbox_id: sandbox.id.into(),
        runtime: Some(types::sandbox::Runtime {
            name: sandbox.runtime.name,
            options: sandbox.runtime.options.map(any),
        }),
        spec: sandbox.spec.map(any),
        labels: sandbox.labels.into(),
        created_at: Some(timestamp(sandbox.created_at)),
        updated_at: Some(timestamp(sandbox.updated_at)),
        extensions: extension_messages(sandbox.extensions),
        sandboxer: sandbox.sandboxer,
    }
}

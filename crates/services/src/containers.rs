//! `containerd.services.containers.v1`.

use std::pin::Pin;

use futures_util::stream::{self, Stream};
use orlop_api::containerd::services::containers::v1 as api;
use orlop_api::containerd::services::containers::v1::containers_server::Containers;
use orlop_meta::{Container, Runtime};
use tonic::{Request, Response, Status};

use crate::request;
use crate::status;
use crate::store::Store;
use crate::translate::{
    any, extension_messages, extensions, labels, parse, paths, required, runtime, timestamp,
    typed_bytes,
};

/// Keeps container records of the caller's namespace.
pub(crate) struct ContainersService {
    pub(crate) store: Store,
    pub(crate) tasks: orlop_runtime::Runtime,
}

impl ContainersService {
    async fn listed(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Vec<api::Container>, Status> {
        let (caller, wanted) = request::open(request)?;
        let found = self
            .store
            .run(caller, move |view| view.containers().list(&wanted.filters));
        Ok(found.await?.into_iter().map(message).collect())
    }
}

#[tonic::async_trait]
impl Containers for ContainersService {
    async fn get(
        &self,
        request: Request<api::GetContainerRequest>,
    ) -> Result<Response<api::GetContainerResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = parse(&wanted.id)?;
        let found = self
            .store
            .run(caller, move |view| view.containers().find(&id));
        Ok(Response::new(api::GetContainerResponse {
            container: Some(message(found.await?)),
        }))
    }

    async fn list(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<api::ListContainersResponse>, Status> {
        Ok(Response::new(api::ListContainersResponse {
            containers: self.listed(request).await?,
        }))
    }

    type ListStreamStream =
        Pin<Box<dyn Stream<Item = Result<api::ListContainerMessage, Status>> + Send>>;

    async fn list_stream(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let messages = self.listed(request).await?.into_iter().map(|container| {
            Ok(api::ListContainerMessage {
                container: Some(container),
            })
        });
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn create(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Result<Response<api::CreateContainerResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = record(required(wanted.container, "container")?)?;
        let created = self
            .store
            .run(caller, move |view| view.containers().create(&container));
        Ok(Response::new(api::CreateContainerResponse {
            container: Some(message(created.await?)),
        }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateContainerRequest>,
    ) -> Result<Response<api::UpdateContainerResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = record(required(wanted.container, "container")?)?;
        let fields = paths(wanted.update_mask);
        let updated = self.store.run(caller, move |view| {
            view.containers().update(&container, &fields)
        });
        Ok(Response::new(api::UpdateContainerResponse {
            container: Some(message(updated.await?)),
        }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let id = parse(&wanted.id)?;
        let removed = self.tasks.remove_container(&caller.namespace, &id).await;
        removed
            .map(Response::new)
            .map_err(|error| status::of_runtime(&error))
    }
}

fn record(message: api::Container) -> Result<Container, Status> {
    let runtime = message.runtime.map_or_else(
        || Runtime {
            name: String::new(),
            options: None,
        },
        |wanted| runtime(wanted.name, wanted.options),
    );
    let spec = message.spec.map(typed_bytes).unwrap_or_default();
    let mut container = Container::new(parse(&message.id)?, runtime, spec);
    container.labels = labels(message.labels)?;
    container.image = message.image;
    container.snapshotter = message.snapshotter;
    container.snapshot_key = message.snapshot_key;
    container.sandbox = message.sandbox;
    container.extensions = extensions(message.extensions);
    Ok(container)
}

/// A record as containerd's clients see it.
pub(crate) fn message(container: Container) -> api::Container {
    api::Container {
        id: container.id.into(),
        labels: container.labels.into(),
        image: container.image,
        runtime: Some(api::container::Runtime {
            name: container.runtime.name,
            options: container.runtime.options.map(any),
        }),
        spec: Some(any(container.spec)),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: Some(timestamp(container.created_at)),
        updated_at: Some(timestamp(container.updated_at)),
        extensions: extension_messages(container.extensions),
        sandbox: container.sandbox,
    }
}

//! `containerd.services.namespaces.v1`.

use orlop_api::containerd::services::namespaces::v1::namespaces_server::Namespaces;
use orlop_api::containerd::services::namespaces::v1::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, GetNamespaceRequest,
    GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse, Namespace,
    UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use orlop_meta::NamespaceRecord;
use tonic::{Request, Response, Status};

use crate::store::Store;
use crate::translate::{labels, parse, paths, required};

/// Keeps namespaces. Its calls need no namespace header.
#[derive(Debug)]
pub(crate) struct NamespacesService {
    pub(crate) store: Store,
}

#[tonic::async_trait]
impl Namespaces for NamespacesService {
    async fn get(
        &self,
        request: Request<GetNamespaceRequest>,
    ) -> Result<Response<GetNamespaceResponse>, Status> {
        let name = parse(&request.get_ref().name)?;
        let found = self
            .store
            .run_globally(move |db| db.namespaces().find(&name));
        Ok(Response::new(GetNamespaceResponse {
            namespace: Some(message(found.await?)),
        }))
    }

    async fn list(
        &self,
        _: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        // The filter of this request is ignored by containerd too: clients filter for themselves.
        let found = self.store.run_globally(|db| db.namespaces().list()).await?;
        Ok(Response::new(ListNamespacesResponse {
            namespaces: found.into_iter().map(message).collect(),
        }))
    }

    async fn create(
        &self,
        request: Request<CreateNamespaceRequest>,
    ) -> Result<Response<CreateNamespaceResponse>, Status> {
        let wanted = record(required(request.into_inner().namespace, "namespace")?)?;
        let created = self
            .store
            .run_globally(move |db| db.namespaces().create(&wanted).map(|()| wanted));
        Ok(Response::new(CreateNamespaceResponse {
            namespace: Some(message(created.await?)),
        }))
    }

    async fn update(
        &self,
        request: Request<UpdateNamespaceRequest>,
    ) -> Result<Response<UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let wanted = record(required(request.namespace, "namespace")?)?;
        let fields = paths(request.update_mask);
        let updated = self.store.run_globally(move |db| {
            db.namespaces()
                .update(&wanted.name, &wanted.labels, &fields)
        });
        Ok(Response::new(UpdateNamespaceResponse {
            namespace: Some(message(updated.await?)),
        }))
    }

    async fn delete(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = parse(&request.get_ref().name)?;
        self.store
            .run_globally(move |db| db.namespaces().delete(&name))
            .await
            .map(Response::new)
    }
}

fn record(message: Namespace) -> Result<NamespaceRecord, Status> {
    Ok(NamespaceRecord {
        name: parse(&message.name)?,
        labels: labels(message.labels)?,
    })
}

fn message(record: NamespaceRecord) -> Namespace {
    Namespace {
        name: record.name.into(),
        labels: record.labels.into(),
    }
}

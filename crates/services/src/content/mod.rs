//! `containerd.services.content.v1`.

mod read;
mod write;

use std::pin::Pin;

use futures_util::stream::{self, Stream};
use orlop_api::containerd::services::content::v1 as api;
use orlop_api::containerd::services::content::v1::content_server::Content;
use orlop_base::task::TaskTree;
use orlop_meta::{Blob, IngestStatus};
use orlop_types::{Digest, IngestRef};
use tonic::{Request, Response, Status, Streaming};

use crate::request;
use crate::store::Store;
use crate::translate::{labels, parse, paths, required, signed, timestamp};

/// How many entries one message of a list holds, as in containerd.
const LIST_ENTRIES: usize = 100;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Reads and writes blobs of the caller's namespace.
#[derive(Debug)]
pub(crate) struct ContentService {
    pub(crate) store: Store,
    /// Owns the writers: each outlives its call until its bytes are safe.
    pub(crate) tasks: TaskTree,
}

#[tonic::async_trait]
impl Content for ContentService {
    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let digest = parse(&wanted.digest)?;
        let found = self
            .store
            .run(caller, move |view| view.content().info(&digest));
        Ok(Response::new(api::InfoResponse {
            info: Some(info(found.await?)),
        }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let fields = paths(wanted.update_mask);
        let wanted = required(wanted.info, "info")?;
        let digest = parse(&wanted.digest)?;
        let labels = labels(wanted.labels)?;
        let updated = self.store.run(caller, move |view| {
            view.content().update(&digest, &labels, &fields)
        });
        Ok(Response::new(api::UpdateResponse {
            info: Some(info(updated.await?)),
        }))
    }

    type ListStream = Answers<api::ListContentResponse>;

    async fn list(
        &self,
        request: Request<api::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        let found = self
            .store
            .run(caller, move |view| view.content().list(&wanted.filters));
        let blobs = stream::iter(found.await?.into_iter().map(info));
        Ok(Response::new(in_pieces(blobs, |info| {
            api::ListContentResponse { info }
        })))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let digest: Digest = parse(&wanted.digest)?;
        self.store
            .run(caller, move |view| view.content().delete(&digest))
            .await
            .map(Response::new)
    }

    type ReadStream = Answers<api::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<api::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        read::read(&self.store, caller, wanted)
            .await
            .map(Response::new)
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let reference: IngestRef = parse(&wanted.r#ref)?;
        let found = self
            .store
            .run(caller, move |view| view.content().ingest_status(&reference));
        Ok(Response::new(api::StatusResponse {
            status: Some(ingest_status(found.await?)),
        }))
    }

    async fn list_statuses(
        &self,
        request: Request<api::ListStatusesRequest>,
    ) -> Result<Response<api::ListStatusesResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let found = self
            .store
            .run(caller, move |view| view.content().ingests(&wanted.filters));
        Ok(Response::new(api::ListStatusesResponse {
            statuses: found.await?.into_iter().map(ingest_status).collect(),
        }))
    }

    type WriteStream = Answers<api::WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<api::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (caller, requests) = request::open(request)?;
        let view = self.store.view(caller);
        Ok(Response::new(write::start(&self.tasks, view, requests)))
    }

    async fn abort(&self, request: Request<api::AbortRequest>) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let reference: IngestRef = parse(&wanted.r#ref)?;
        self.store
            .run(caller, move |view| view.content().abort(&reference))
            .await
            .map(Response::new)
    }
}

/// A list as a stream of messages, each with a piece of it.
pub(crate) fn in_pieces<T, M>(
    entries: impl Stream<Item = T> + Send + 'static,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Answers<M>
where
    T: Send + 'static,
    M: Send + 'static,
{
    use futures_util::StreamExt;
    Box::pin(
        entries
            .chunks(LIST_ENTRIES)
            .map(move |piece| Ok(message(piece))),
    )
}

fn info(blob: Blob) -> api::Info {
    api::Info {
        digest: blob.digest.to_string(),
        size: signed(blob.size),
        created_at: Some(timestamp(blob.created_at)),
        updated_at: Some(timestamp(blob.updated_at)),
        labels: blob.labels.into(),
    }
}

fn ingest_status(status: IngestStatus) -> api::Status {
    api::Status {
        started_at: Some(timestamp(status.started_at)),
        updated_at: Some(timestamp(status.updated_at)),
        r#ref: status.reference.into(),
        offset: signed(status.offset),
        total: signed(status.total),
        expected: status
            .expected
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
    }
}

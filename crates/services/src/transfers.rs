//! `orlop.v1.Images`: images between registries, archives and the store, with progress.

mod bridge;
mod messages;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use orlop_api::orlop::v1 as api;
use orlop_api::orlop::v1::images_server::Images as ImagesRpc;
use orlop_image::images::{
    Beside, Event, ExportRequest, Images, ImportRequest, NoProgress, Progress, PullRequest,
    PushRequest, Scope,
};
use orlop_types::ImageName;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::bridge::{ChunkReader, ChunkWriter};
use self::messages::access;
pub(crate) use self::messages::platform;
use crate::request::{self, Caller};
use crate::status;
use crate::translate::{descriptor_message, labels, parse, parse_optional};

/// Progress a slow client may be behind. What comes beyond is dropped: later progress replaces it anyway.
const EVENTS_WAITING_MAX: usize = 256;

/// Pieces of an archive between the network and the disk.
pub(crate) const CHUNKS_WAITING_MAX: usize = 4;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Work<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// Moves images.
pub(crate) struct TransfersService {
    pub(crate) images: Images,
}

#[tonic::async_trait]
impl ImagesRpc for TransfersService {
    type PullStream = Answers<api::PullEvent>;

    async fn pull(
        &self,
        request: Request<api::PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        let pull = PullRequest {
            reference: wanted.reference,
            name: None,
            platform: platform(wanted.platform),
            beside: beside(wanted.all_platforms),
            snapshotter: parse_optional(&wanted.snapshotter)?,
            skip_unpack: wanted.skip_unpack,
            registry: access(wanted.registry),
            labels: labels(wanted.labels)?,
        };
        let (progress, events) = listen(messages::pull_event);
        let images = self.images.clone();
        let work = Box::pin(async move {
            let pulled = images.pull(&scope(caller), pull, progress).await;
            pulled
                .map(messages::pulled)
                .map_err(|error| status::of_image(&error))
        });
        Ok(Response::new(told(work, events)))
    }

    type PushStream = Answers<api::PushEvent>;

    async fn push(
        &self,
        request: Request<api::PushRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        let push = PushRequest {
            image: parse(&wanted.image)?,
            reference: Some(wanted.reference).filter(|reference| !reference.is_empty()),
            platform: platform(wanted.platform),
            registry: access(wanted.registry),
        };
        let (progress, events) = listen(messages::push_event);
        let images = self.images.clone();
        let work = Box::pin(async move {
            let pushed = images.push(&scope(caller), push, progress).await;
            pushed
                .map(messages::pushed)
                .map_err(|error| status::of_image(&error))
        });
        Ok(Response::new(told(work, events)))
    }

    async fn import(
        &self,
        request: Request<Streaming<api::ImportRequest>>,
    ) -> Result<Response<api::ImportResponse>, Status> {
        let caller = request::caller(request.metadata())?;
        let mut messages = request.into_inner();
        let options = match messages.message().await?.and_then(|first| first.message) {
            Some(api::import_request::Message::Options(options)) => options,
            Some(api::import_request::Message::Data(_)) | None => {
                return Err(status::missing("options in the first message"));
            }
        };
        let import = ImportRequest {
            base_name: Some(options.base_name).filter(|name| !name.is_empty()),
            snapshotter: parse_optional(&options.snapshotter)?,
            skip_unpack: options.skip_unpack,
            platform: platform(options.platform),
        };
        let (chunks, reader) = ChunkReader::new(CHUNKS_WAITING_MAX);
        let (scope, progress) = (scope(caller), Arc::new(NoProgress));
        let importing = self.images.import(&scope, import, reader, progress);
        let ((), imported) = tokio::join!(bridge::feed(messages, chunks), importing);
        let imported = imported.map_err(|error| status::of_image(&error))?;
        let images = imported.into_iter().map(|image| api::ImportedImage {
            name: image.name.to_string(),
            target: Some(descriptor_message(image.target)),
        });
        Ok(Response::new(api::ImportResponse {
            images: images.collect(),
        }))
    }

    type ExportStream = Answers<api::ExportResponse>;

    async fn export(
        &self,
        request: Request<api::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        if wanted.images.is_empty() {
            return Err(status::missing("images"));
        }
        let names: Result<Vec<ImageName>, Status> =
            wanted.images.iter().map(|name| parse(name)).collect();
        let all = wanted.all_platforms;
        let export = ExportRequest {
            images: names?,
            platform: platform(wanted.platform)
                .or_else(|| (!all).then(orlop_types::Platform::host)),
        };
        let (writer, chunks) = ChunkWriter::new(CHUNKS_WAITING_MAX);
        let images = self.images.clone();
        let work: Work<()> = Box::pin(async move {
            let written = images.export(&scope(caller), export, writer).await;
            let writer = written.map_err(|error| status::of_image(&error))?;
            writer.finish().await;
            Ok(())
        });
        Ok(Response::new(bridge::exported(work, chunks)))
    }
}

fn beside(all_platforms: bool) -> Beside {
    if all_platforms {
        Beside::Images
    } else {
        Beside::Nothing
    }
}

/// On whose behalf an operation on images is done.
pub(crate) fn scope(caller: Caller) -> Scope {
    Scope {
        namespace: caller.namespace,
        lease: caller.lease,
    }
}

/// A listener that never blocks, and what it heard.
fn listen<M: Send + 'static>(translate: fn(Event) -> M) -> (Arc<dyn Progress>, mpsc::Receiver<M>) {
    let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let listener = move |event| {
        // Full: the client is slow, and the next event of the same blob says more. Closed: it has left.
        drop(sender.try_send(translate(event)));
    };
    (Arc::new(listener), events)
}

/// What is told while `work` goes on, and its outcome last. Dropping the stream drops the work, which ends in order.
fn told<M: Send + 'static>(work: Work<M>, events: mpsc::Receiver<M>) -> Answers<M> {
    enum State<M> {
        Working(Work<M>),
        Ending(Result<M, Status>),
        Ended,
    }
    let start = (State::Working(work), events);
    Box::pin(stream::unfold(
        start,
        |(mut state, mut events)| async move {
            loop {
                state = match state {
                    State::Working(mut work) => tokio::select! {
                        biased;
                        Some(event) = events.recv() => return Some((Ok(event), (State::Working(work), events))),
                        outcome = &mut work => State::Ending(outcome),
                    },
                    // The work is over, so nothing more is heard; what was heard comes before the outcome.
                    State::Ending(outcome) => match events.try_recv() {
                        Ok(event) => return Some((Ok(event), (State::Ending(outcome), events))),
                        Err(_empty) => return Some((outcome, (State::Ended, events))),
                    },
                    State::Ended => return None,
                };
            }
        },
    ))
}

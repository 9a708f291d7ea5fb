//! `containerd.services.streaming.v1`: streams beside a call, which the call finds by their ids.
//!
//! A client opens a stream under an id that it chooses, waits for the answer, and names the id in a request of another
//! service, which then [takes](Streams::take) the stream.
//!
//! Crash: nothing is kept. Cancellation: a stream whose client leaves before it is taken is forgotten; one that was
//! taken ends when its taker lets go of it. Ordering: an id is known before its client hears that it is.

mod bytes;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::Stream;
use orlop_api::containerd::services::streaming::v1::StreamInit;
use orlop_api::containerd::services::streaming::v1::streaming_server::Streaming as StreamingRpc;
use orlop_api::{Any, any};
use orlop_types::Namespace;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::request;
use crate::status;

pub(crate) use bytes::{receive, send};

/// Streams that nobody has taken yet. Each costs little, but a client could open them for ever.
const WAITING_MAX: usize = 1024;

/// Objects between a taker and a slow client.
const OBJECTS_WAITING_MAX: usize = 256;

/// How long a client may take to say which stream it opens.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// Longer ids are no ids.
const ID_BYTES_MAX: usize = 256;

/// What the first answer of a stream carries.
const EMPTY: &str = "google.protobuf.Empty";

type Key = (Namespace, String);

/// The streams that wait to be taken. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    waiting: Arc<Mutex<HashMap<Key, (u64, Pipe)>>>,
    serials: Arc<AtomicU64>,
}

/// A stream in the hands of whoever took it. Dropping it ends the stream for the client.
pub(crate) struct Pipe {
    incoming: Pin<Box<dyn Stream<Item = Result<Any, Status>> + Send + Sync>>,
    outgoing: mpsc::Sender<Result<Any, Status>>,
}

impl Pipe {
    /// A pipe, and what its client gets.
    pub(crate) fn new(
        incoming: impl Stream<Item = Result<Any, Status>> + Send + Sync + 'static,
    ) -> (Self, mpsc::Receiver<Result<Any, Status>>) {
        let (outgoing, answers) = mpsc::channel(OBJECTS_WAITING_MAX);
        let incoming = Box::pin(incoming);
        (Self { incoming, outgoing }, answers)
    }

    /// The client's next object; nothing once it has sent all.
    pub(crate) async fn next(&mut self) -> Result<Option<Any>, Status> {
        self.incoming.next().await.transpose()
    }

    /// Sends an object; whether the client is still there.
    pub(crate) async fn send(&self, object: Any) -> bool {
        self.outgoing.send(Ok(object)).await.is_ok()
    }

    /// A way to send from code that must not wait.
    pub(crate) fn sender(&self) -> mpsc::Sender<Result<Any, Status>> {
        self.outgoing.clone()
    }
}

impl Streams {
    /// Takes the stream that the namespace's clients call `id`. Nobody can take it again.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub(crate) fn take(&self, namespace: &Namespace, id: &str) -> Result<Pipe, Status> {
        let key = (namespace.clone(), id.to_owned());
        let taken = self.lock().remove(&key);
        let (_, pipe) = taken.ok_or_else(|| status::not_found(format!("stream {id:?}")))?;
        Ok(pipe)
    }

    /// Keeps a stream until it is taken or `Held` is dropped.
    fn offer(&self, key: Key, pipe: Pipe) -> Result<Held, Status> {
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.lock();
        if waiting.len() >= WAITING_MAX {
            return Err(status::exhausted(format!(
                "{WAITING_MAX} streams already wait to be used"
            )));
        }
        match waiting.entry(key.clone()) {
            Entry::Occupied(_) => Err(status::already_exists(format!("stream {:?}", key.1))),
            Entry::Vacant(place) => {
                place.insert((serial, pipe));
                Ok(Held {
                    streams: self.clone(),
                    key,
                    serial,
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (u64, Pipe)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a stream that was not taken.
struct Held {
    streams: Streams,
    key: Key,
    serial: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut waiting = self.streams.lock();
        let is_own = waiting
            .get(&self.key)
            .is_some_and(|(serial, _)| *serial == self.serial);
        if is_own {
            waiting.remove(&self.key);
        }
    }
}

/// Answers of a stream. They end with its taker, or with the client.
pub(crate) struct Answers {
    objects: mpsc::Receiver<Result<Any, Status>>,
    _held: Held,
}

impl Stream for Answers {
    type Item = Result<Any, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Any, Status>>> {
        self.objects.poll_recv(context)
    }
}

/// Takes in clients' streams.
pub(crate) struct StreamingService {
    pub(crate) streams: Streams,
}

#[tonic::async_trait]
impl StreamingRpc for StreamingService {
    type StreamStream = Answers;

    async fn stream(&self, request: Request<Streaming<Any>>) -> Result<Response<Answers>, Status> {
        let (caller, mut objects) = request::open(request)?;
        let first = tokio::time::timeout(INIT_LIMIT, objects.message()).await;
        let first = first.map_err(|_elapsed| status::missing("the stream's id"))??;
        let first = first.ok_or_else(|| status::missing("the stream's id"))?;
        let id = any::unpack::<StreamInit>(&first)
            .map_err(|error| status::invalid(&error))?
            .id;
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(status::invalid_text(format!(
                "a stream's id has 1 to {ID_BYTES_MAX} bytes, not {}",
                id.len()
            )));
        }
        let (pipe, answers) = Pipe::new(objects);
        let sender = pipe.sender();
        let held = self.streams.offer((caller.namespace, id), pipe)?;
        let ready = Any {
            type_url: EMPTY.to_owned(),
            value: Vec::new(),
        };
        // There is room: nobody has sent anything yet.
        drop(sender.try_send(Ok(ready)));
        Ok(Response::new(Answers {
            objects: answers,
            _held: held,
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tonic::Code;

    use super::*;

    fn key(id: &str) -> Key {
        (Namespace::new("a").unwrap(), id.to_owned())
    }

    fn offered(streams: &Streams, id: &str) -> Result<Held, Status> {
        streams.offer(key(id), Pipe::new(stream::empty()).0)
    }

    #[test]
    fn a_stream_is_taken_once_and_only_in_its_namespace() {
        let streams = Streams::default();
        let _held = offered(&streams, "one").unwrap();
        let other = Namespace::new("b").unwrap();
        let refused = streams.take(&other, "one").map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        streams.take(&key("").0, "one").unwrap();
        assert!(streams.take(&key("").0, "one").is_err());
    }

    #[test]
    fn a_stream_is_forgotten_with_its_client_and_a_later_one_of_its_name_is_not() {
        let streams = Streams::default();
        let first = offered(&streams, "one").unwrap();
        let refused = offered(&streams, "one").map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
        drop(streams.take(&key("").0, "one").unwrap());
        let second = offered(&streams, "one").unwrap();
        drop(first);
        assert_eq!(streams.lock().len(), 1);
        drop(second);
        assert!(streams.lock().is_empty());
    }

    #[test]
    fn streams_that_wait_are_bounded() {
        let streams = Streams::default();
        let held: Vec<Held> = (0..WAITING_MAX)
            .map(|number| offered(&streams, &number.to_string()).unwrap())
            .collect();
        let refused = offered(&streams, "more").map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        drop(held);
        assert!(offered(&streams, "more").is_ok());
    }

    #[tokio::test]
    async fn letting_go_of_a_pipe_ends_the_clients_stream() {
        let (pipe, mut answers) = Pipe::new(stream::empty());
        assert!(pipe.send(Any::default()).await);
        drop(pipe);
        assert!(answers.recv().await.is_some());
        assert!(answers.recv().await.is_none());
    }
}

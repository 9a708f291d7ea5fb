//! `containerd.services.events.v1`: the outbox, as a stream of new events.

pub(crate) mod fields;
pub(crate) mod payload;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;

use futures_util::stream::{self, Stream};
use orlop_api::Any;
use orlop_api::containerd::services::events::v1 as api;
use orlop_api::containerd::services::events::v1::events_server::Events;
use orlop_api::containerd::types;
use orlop_meta::{Envelope, Event, EventPage};
use orlop_runtime::Follower;
use orlop_types::Namespace;
use orlop_types::filter::Filters;
use tonic::{Request, Response, Status};

use crate::request;
use crate::status;
use crate::store::Store;
use crate::translate::{parse, required, timestamp};

/// The longest payload that is taken from a client, in bytes: events are small, and the outbox keeps thousands.
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Takes and hands out events.
#[derive(Debug)]
pub(crate) struct EventsService {
    pub(crate) store: Store,
}

impl EventsService {
    async fn append(
        &self,
        namespace: Namespace,
        topic: String,
        event: Option<Any>,
    ) -> Result<Response<()>, Status> {
        check_topic(&topic)?;
        let payload = required(event, "event")?;
        if payload.value.len() > PAYLOAD_BYTES_MAX {
            return Err(status::invalid_text(format!(
                "an event of {} bytes is longer than {PAYLOAD_BYTES_MAX}",
                payload.value.len()
            )));
        }
        let event = Event::Forwarded {
            topic,
            type_url: payload.type_url,
            value: payload::to_base16(&payload.value),
            attributes: BTreeMap::new(),
        };
        self.store
            .run_globally(move |db| db.publish(&namespace, &event))
            .await
            .map(|_| Response::new(()))
    }
}

#[tonic::async_trait]
impl Events for EventsService {
    async fn publish(&self, request: Request<api::PublishRequest>) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        self.append(caller.namespace, wanted.topic, wanted.event)
            .await
    }

    async fn forward(&self, request: Request<api::ForwardRequest>) -> Result<Response<()>, Status> {
        let envelope = required(request.into_inner().envelope, "envelope")?;
        let namespace = parse(&envelope.namespace)?;
        self.append(namespace, envelope.topic, envelope.event).await
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<types::Envelope, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<api::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let filters =
            Filters::parse(&request.get_ref().filters).map_err(|e| status::invalid(&e))?;
        let reader = Reader::from_now(&self.store, filters).await?;
        let events = stream::try_unfold(reader, |mut reader| async move {
            let event = reader.next().await?;
            Ok(Some((event, reader)))
        });
        Ok(Response::new(Box::pin(events)))
    }
}

/// Follows the outbox for one subscriber.
struct Reader {
    follower: Follower,
    filters: Filters,
    page: VecDeque<types::Envelope>,
}

impl Reader {
    /// A reader of what is appended from now on.
    async fn from_now(store: &Store, filters: Filters) -> Result<Self, Status> {
        let follower = Follower::from_now(store.db().clone()).await;
        Ok(Self {
            follower: follower.map_err(|error| status::of_runtime(&error))?,
            filters,
            page: VecDeque::new(),
        })
    }

    async fn next(&mut self) -> Result<types::Envelope, Status> {
        loop {
            if let Some(event) = self.page.pop_front() {
                return Ok(event);
            }
            let page = self.follower.next().await;
            self.take(page.map_err(|error| status::of_runtime(&error))?)?;
        }
    }

    fn take(&mut self, page: EventPage) -> Result<(), Status> {
        if page.missed > 0 {
            return Err(status::events_lost(page.missed));
        }
        let filters = &self.filters;
        self.page = page
            .events
            .into_iter()
            .filter(|envelope| filters.matches(&fields::Filtered(envelope)))
            .filter_map(message)
            .collect();
        Ok(())
    }
}

fn message(envelope: Envelope) -> Option<types::Envelope> {
    Some(types::Envelope {
        timestamp: Some(timestamp(envelope.at)),
        namespace: envelope.namespace.into(),
        topic: envelope.event.topic().to_owned(),
        event: Some(payload::containerd(&envelope.event)?),
    })
}

/// A topic is a path of identifiers, such as `/tasks/exit`.
fn check_topic(topic: &str) -> Result<(), Status> {
    let components = topic
        .strip_prefix('/')
        .ok_or_else(|| status::invalid_text(format!("topic {topic:?} must start with '/'")))?;
    for component in components.split('/') {
        // Components have the form of a namespace.
        let _: Namespace = parse(component)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_a_path_of_identifiers() {
        assert!(check_topic("/tasks/exec-added").is_ok());
        for bad in ["", "/", "tasks/exit", "/tasks/", "/tasks//exit", "/a b"] {
            assert!(check_topic(bad).is_err(), "{bad:?} was accepted");
        }
    }
}

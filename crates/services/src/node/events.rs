//! The outbox from any point on: with sequences, gaps, and the events that containerd does not have.

use std::collections::VecDeque;
use std::time::SystemTime;

use futures_util::stream::{self, Stream};
use orlop_api::Any;
use orlop_api::containerd::types;
use orlop_api::orlop::v1 as api;
use orlop_meta::{Envelope, EventPage};
use orlop_runtime::Follower;
use orlop_types::Namespace;
use orlop_types::filter::Filters;
use tonic::{Request, Status};

use crate::ending;
use crate::events::{fields, payload};
use crate::request;
use crate::status;
use crate::store::Store;
use crate::translate::timestamp;

/// The type of an event that has no message: the outbox's own JSON, as OCI documents travel.
const JSON_EVENT: &str = "types.orlop.dev/event/v1";

/// What a reader asked for.
struct Wanted {
    filters: Filters,
    /// Absent: every namespace.
    namespace: Option<Namespace>,
    since: Option<SystemTime>,
    follow: bool,
}

/// Starts reading where the request says.
pub(super) async fn stream(
    store: Store,
    request: Request<api::EventsRequest>,
) -> Result<impl Stream<Item = Result<api::EventsResponse, Status>> + Send, Status> {
    let namespace = if request.get_ref().all_namespaces {
        None
    } else {
        Some(request::caller(request.metadata())?.namespace)
    };
    let message = request.into_inner();
    let since = message.since_time.map(SystemTime::try_from).transpose();
    let wanted = Wanted {
        filters: Filters::parse(&message.filters).map_err(|error| status::invalid(&error))?,
        namespace,
        since: since.map_err(|error| status::invalid(&error))?,
        follow: message.follow,
    };
    let reader = Reader::start(store, wanted, message.since_sequence).await?;
    Ok(stream::try_unfold(reader, |mut reader| async move {
        let next = reader.next().await?;
        Ok(next.map(|message| (message, reader)))
    }))
}

struct Reader {
    follower: Follower,
    wanted: Wanted,
    page: VecDeque<api::EventsResponse>,
}

impl Reader {
    async fn start(store: Store, wanted: Wanted, sequence: Option<u64>) -> Result<Self, Status> {
        let db = store.db().clone();
        let follower = match sequence {
            Some(sequence) => {
                let sequence = i64::try_from(sequence);
                Follower::after(db, sequence.map_err(|error| status::invalid(&error))?)
            }
            None if wanted.follow && wanted.since.is_none() => Follower::from_now(db)
                .await
                .map_err(|error| status::of_runtime(&error))?,
            None => Follower::after(db, 0),
        };
        Ok(Self {
            follower,
            wanted,
            page: VecDeque::new(),
        })
    }

    async fn next(&mut self) -> Result<Option<api::EventsResponse>, Status> {
        loop {
            if let Some(message) = self.page.pop_front() {
                return Ok(Some(message));
            }
            let before = self.follower.position();
            let page = if self.wanted.follow {
                self.follower.next().await
            } else {
                self.follower.page().await
            };
            let page = page.map_err(|error| status::of_runtime(&error))?;
            if page.events.is_empty() {
                return Ok(None);
            }
            self.take(before, &page);
        }
    }

    /// Takes the page that followed event number `before`.
    fn take(&mut self, before: i64, page: &EventPage) {
        if page.missed > 0 && before > 0 {
            // A reader that begins with the oldest event misses none it asked for.
            let after = unsigned(before);
            self.page.push_back(gap(after, after + page.missed + 1));
        }
        let wanted = &self.wanted;
        let kept = page.events.iter().filter(|event| wanted.keeps(event));
        self.page.extend(kept.map(message));
    }
}

impl Wanted {
    fn keeps(&self, envelope: &Envelope) -> bool {
        let in_namespace = self.namespace.as_ref();
        in_namespace.is_none_or(|namespace| *namespace == envelope.namespace)
            && self.since.is_none_or(|since| envelope.at >= since)
            && self.filters.matches(&fields::Filtered(envelope))
    }
}

fn message(envelope: &Envelope) -> api::EventsResponse {
    let event = api::Event {
        sequence: unsigned(envelope.sequence),
        envelope: Some(types::Envelope {
            timestamp: Some(timestamp(envelope.at)),
            namespace: envelope.namespace.to_string(),
            topic: envelope.event.topic().to_owned(),
            event: Some(payload::containerd(&envelope.event).unwrap_or_else(|| json(envelope))),
        }),
        cause: ending::told_cause(&envelope.event).into(),
    };
    api::EventsResponse {
        message: Some(api::events_response::Message::Event(event)),
    }
}

fn gap(after_sequence: u64, next_sequence: u64) -> api::EventsResponse {
    api::EventsResponse {
        message: Some(api::events_response::Message::Gap(api::EventGap {
            after_sequence,
            next_sequence,
        })),
    }
}

fn json(envelope: &Envelope) -> Any {
    Any {
        type_url: JSON_EVENT.to_owned(),
        // It was read from JSON, so it is written as such.
        value: serde_json::to_vec(&envelope.event).unwrap_or_default(),
    }
}

/// Sequences begin at 1.
fn unsigned(sequence: i64) -> u64 {
    u64::try_from(sequence).unwrap_or(0)
}

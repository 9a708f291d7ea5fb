//! The outbox from any point on: with sequences, gaps, and the events that containerd does not have.
//!
//! Cancellation: a reader keeps nothing but its place. Ordering: as the changes were committed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::{self, Stream};
use orlop_api::Any;
use orlop_api::containerd::types;
use orlop_api::orlop::v1 as api;
use orlop_meta::{Envelope, EventPage, WatchGuard};
use orlop_types::Namespace;
use orlop_types::filter::Filters;
use tokio::sync::Notify;
use tonic::{Request, Status};

use crate::events::{fields, payload};
use crate::request;
use crate::status;
use crate::store::Store;
use crate::translate::timestamp;

/// How many events are read from the outbox at once.
const PAGE_EVENTS: usize = 256;

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
    store: Store,
    wanted: Wanted,
    after: i64,
    page: VecDeque<api::EventsResponse>,
    changed: Arc<Notify>,
    _watch: WatchGuard,
}

impl Reader {
    async fn start(store: Store, wanted: Wanted, sequence: Option<u64>) -> Result<Self, Status> {
        let changed = Arc::new(Notify::new());
        let waker = Arc::clone(&changed);
        let watch = store.db().watch(move |committed| {
            if committed.event.is_some() {
                waker.notify_one();
            }
        });
        let after = match sequence {
            Some(sequence) => i64::try_from(sequence)
                .map_err(|_| status::invalid_text(format!("no event has number {sequence}")))?,
            None if wanted.follow && wanted.since.is_none() => {
                store.run_globally(|db| db.last_event()).await?
            }
            None => 0,
        };
        Ok(Self {
            store,
            wanted,
            after,
            page: VecDeque::new(),
            changed,
            _watch: watch,
        })
    }

    async fn next(&mut self) -> Result<Option<api::EventsResponse>, Status> {
        loop {
            if let Some(message) = self.page.pop_front() {
                return Ok(Some(message));
            }
            let after = self.after;
            let page = self
                .store
                .run_globally(move |db| db.events_since(after, PAGE_EVENTS))
                .await?;
            let is_at_end = page.events.is_empty();
            self.take(page);
            if is_at_end && self.page.is_empty() {
                if !self.wanted.follow {
                    return Ok(None);
                }
                self.changed.notified().await;
            }
        }
    }

    fn take(&mut self, page: EventPage) {
        if page.missed > 0 && self.after > 0 {
            // A reader that begins with the oldest event misses none it asked for.
            let after = unsigned(self.after);
            self.page.push_back(gap(after, after + page.missed + 1));
        }
        self.after = page.resume_after;
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

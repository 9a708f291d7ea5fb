//! The outbox: events in the order of their commits, kept for a while so that a reader can resume.
//!
//! **Ordering.** An event is appended in the transaction of the change it tells of, so there is neither one without
//! the other, and sequences grow by one in the order of commits. **Bounds.** The newest [`EVENTS_MAX`] are kept. A
//! reader that asks for older ones is told how many it missed.

use std::time::SystemTime;

use orlop_types::Namespace;
use rusqlite::params;

use crate::db::Tx;
use crate::event::Event;
use crate::time::from_nanos;
use crate::{Db, Error};

/// How many events are kept, give or take `TRIM_EVERY`.
pub const EVENTS_MAX: i64 = 20_000;

/// Trimming happens once per so many events, not with each.
const TRIM_EVERY: i64 = 256;

/// An event with its place in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its number, from 1, without holes. A reader resumes after the last it has seen.
    pub sequence: i64,
    /// When the change was made.
    pub at: SystemTime,
    /// The namespace of the change.
    pub namespace: Namespace,
    /// What changed.
    pub event: Event,
}

/// A stretch of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// How many events after the asked sequence are gone for good: read the records anew.
    pub missed: u64,
    /// The events, oldest first.
    pub events: Vec<Envelope>,
    /// Where to go on: the last event's sequence, or of the last one missed.
    pub resume_after: i64,
}

impl Db {
    /// At most `limit` events after sequence `after`; 0 begins with the oldest kept.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub fn events_since(&self, after: i64, limit: usize) -> Result<EventPage, Error> {
        let failed = Error::database("read events");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read("read events", |connection| {
            let mut statement = connection
                .prepare_cached(
                    "SELECT sequence, at, namespace, payload FROM outbox WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
                )
                .map_err(failed)?;
            let mut rows = statement.query(params![after, limit]).map_err(failed)?;
            let mut events = Vec::new();
            while let Some(row) = rows.next().map_err(failed)? {
                events.push(envelope(row)?);
            }
            let expected = after.saturating_add(1).max(1);
            let first = events.first().map_or(expected, |event: &Envelope| event.sequence);
            Ok(EventPage {
                missed: u64::try_from(first - expected).unwrap_or(0),
                resume_after: events.last().map_or(after, |event| event.sequence),
                events,
            })
        })
    }

    /// The sequence of the newest event; 0 if there never was one. A reader of what is to come starts here.
    ///
    /// # Errors
    /// `Database`.
    pub fn last_event(&self) -> Result<i64, Error> {
        let failed = Error::database("read the newest event");
        self.read("read the newest event", |connection| {
            connection
                .prepare_cached("SELECT coalesce(max(sequence), 0) FROM outbox")
                .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
                .map_err(failed)
        })
    }
}

/// Appends one event in the caller's transaction.
pub(crate) fn append(tx: &Tx<'_>, namespace: &Namespace, event: &Event) -> Result<i64, Error> {
    let failed = Error::database("append an event");
    let payload = serde_json::to_string(event)
        .map_err(|error| Error::invalid("append an event", event.topic(), error.to_string()))?;
    tx.prepare_cached("INSERT INTO outbox (at, namespace, topic, payload) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut insert| {
            insert.execute(params![tx.now, namespace.as_str(), event.topic(), payload])
        })
        .map_err(failed)?;
    let sequence = tx.last_insert_rowid();
    if sequence % TRIM_EVERY == 0 {
        tx.prepare_cached("DELETE FROM outbox WHERE sequence <= ?1")
            .and_then(|mut trim| trim.execute([sequence - EVENTS_MAX]))
            .map_err(failed)?;
    }
    Ok(sequence)
}

fn envelope(row: &rusqlite::Row<'_>) -> Result<Envelope, Error> {
    let failed = Error::database("read events");
    let sequence: i64 = row.get(0).map_err(failed)?;
    let damaged = |reason: String| Error::Corrupt {
        table: "outbox",
        subject: sequence.to_string(),
        reason,
    };
    let namespace: String = row.get(2).map_err(failed)?;
    let payload: String = row.get(3).map_err(failed)?;
    Ok(Envelope {
        sequence,
        at: from_nanos(row.get(1).map_err(failed)?),
        namespace: Namespace::new(namespace).map_err(|error| damaged(error.to_string()))?,
        event: serde_json::from_str(&payload).map_err(|error| damaged(error.to_string()))?,
    })
}

//! Following the outbox: events as they are committed, for façades that stream them.

use std::sync::Arc;

use orlop_base::blocking;
use orlop_meta::{Db, Envelope, WatchGuard};
use tokio::sync::Notify;

use crate::Error;

/// Events read at once.
const PAGE_EVENTS: usize = 256;

/// One reader of the outbox. It holds a page at most: the outbox itself is the queue of a slow reader.
#[derive(Debug)]
pub struct Follower {
    db: Db,
    after: i64,
    changed: Arc<Notify>,
    _watch: WatchGuard,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// At least one event, oldest first.
    Events(Vec<Envelope>),
    /// So many events are gone for good because the reader was slow: read the records anew, then go on.
    Missed(u64),
}

impl Follower {
    /// A reader of what is committed from now on.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn from_now(db: Db) -> Result<Self, Error> {
        let changed = Arc::new(Notify::new());
        let waker = Arc::clone(&changed);
        let watch = db.watch(move |committed| {
            if committed.event.is_some() {
                // One permit is kept when nobody waits, so no change is missed between reading and waiting.
                waker.notify_one();
            }
        });
        let reader = db.clone();
        let after = blocking::run("read the newest event", move || reader.last_event()).await;
        let after = after.map_err(Error::Daemon)?.map_err(unreadable)?;
        Ok(Self {
            db,
            after,
            changed,
            _watch: watch,
        })
    }

    /// What comes next; waits until there is something.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn next(&mut self) -> Result<Followed, Error> {
        loop {
            let (db, after) = (self.db.clone(), self.after);
            let page = blocking::run("read events", move || db.events_since(after, PAGE_EVENTS));
            let page = page.await.map_err(Error::Daemon)?.map_err(unreadable)?;
            if page.missed > 0 {
                self.after = self
                    .after
                    .saturating_add(i64::try_from(page.missed).unwrap_or(i64::MAX));
                return Ok(Followed::Missed(page.missed));
            }
            self.after = page.resume_after;
            if !page.events.is_empty() {
                return Ok(Followed::Events(page.events));
            }
            self.changed.notified().await;
        }
    }
}

fn unreadable(source: orlop_meta::Error) -> Error {
    Error::Record {
        container: "*".to_owned(),
        attempt: "read",
        source,
    }
}

//! Following the outbox: events as they are committed, for façades that stream them.
//!
//! Cancellation: a reader keeps nothing but its place. Ordering: as the changes were committed.

use std::sync::Arc;

use orlop_base::blocking;
use orlop_meta::{Db, EventPage, WatchGuard};
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

impl Follower {
    /// A reader of what comes after `sequence`; 0 begins with the oldest event kept.
    #[must_use]
    pub fn after(db: Db, sequence: i64) -> Self {
        let changed = Arc::new(Notify::new());
        let waker = Arc::clone(&changed);
        let watch = db.watch(move |committed| {
            if committed.event.is_some() {
                // One permit is kept when nobody waits, so no change is missed between reading and waiting.
                waker.notify_one();
            }
        });
        Self {
            db,
            after: sequence,
            changed,
            _watch: watch,
        }
    }

    /// A reader of what is committed from now on.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn from_now(db: Db) -> Result<Self, Error> {
        let mut follower = Self::after(db, 0);
        let db = follower.db.clone();
        let newest = blocking::run("read the newest event", move || db.last_event()).await;
        follower.after = newest.map_err(Error::Daemon)?.map_err(unreadable)?;
        Ok(follower)
    }

    /// The number of the last event read, or missed.
    #[must_use]
    pub const fn position(&self) -> i64 {
        self.after
    }

    /// The next events without waiting for any: an empty page is the end, for now.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn page(&mut self) -> Result<EventPage, Error> {
        let (db, after) = (self.db.clone(), self.after);
        let page = blocking::run("read events", move || db.events_since(after, PAGE_EVENTS));
        let page = page.await.map_err(Error::Daemon)?.map_err(unreadable)?;
        self.after = page.resume_after;
        Ok(page)
    }

    /// The next events; waits until there is at least one.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn next(&mut self) -> Result<EventPage, Error> {
        loop {
            let page = self.page().await?;
            if !page.events.is_empty() {
                return Ok(page);
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

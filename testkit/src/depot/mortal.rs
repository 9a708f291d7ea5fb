//! Any object store, for a process that dies at a step: before or after what it asked was done.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use orlop_cache::depot::{Answer, Body, Depot, Held, Page, Restore, Source, Tally};
use orlop_cache::tier::ClassName;
use orlop_types::Digest;

use super::Switch;

/// An object store behind a switch.
#[derive(Debug, Clone)]
pub struct Mortal {
    depot: Arc<dyn Depot>,
    switch: Switch,
}

impl Mortal {
    /// `depot`, asked by a process that dies by `switch`.
    #[must_use]
    pub fn new(depot: Arc<dyn Depot>, switch: Switch) -> Self {
        Self { depot, switch }
    }

    fn between<'a, T: Send + 'a>(&'a self, call: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(async move {
            self.switch.reach().await;
            let answer = call.await;
            self.switch.reach().await;
            answer
        })
    }
}

impl Depot for Mortal {
    fn head<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Held> {
        self.between(self.depot.head(digest))
    }

    fn get<'a>(&'a self, digest: &'a Digest, range: Option<Range<u64>>) -> Answer<'a, Body> {
        self.between(self.depot.get(digest, range))
    }

    fn put<'a>(&'a self, digest: &'a Digest, from: Source, class: &'a ClassName) -> Answer<'a, ()> {
        self.between(self.depot.put(digest, from, class))
    }

    fn copy<'a>(&'a self, digest: &'a Digest, class: &'a ClassName) -> Answer<'a, ()> {
        self.between(self.depot.copy(digest, class))
    }

    fn restore<'a>(&'a self, digest: &'a Digest, how: &'a Restore) -> Answer<'a, ()> {
        self.between(self.depot.restore(digest, how))
    }

    fn delete<'a>(&'a self, digest: &'a Digest) -> Answer<'a, ()> {
        self.between(self.depot.delete(digest))
    }

    fn list<'a>(&'a self, after: Option<&'a Digest>) -> Answer<'a, Page> {
        self.between(self.depot.list(after))
    }

    fn abandon<'a>(&'a self, digest: &'a Digest, before: SystemTime) -> Answer<'a, u32> {
        self.between(self.depot.abandon(digest, before))
    }

    fn tally(&self) -> &Tally {
        self.depot.tally()
    }
}

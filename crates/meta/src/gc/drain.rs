//! Working the sweep queue off: bytes go in small batches, and what fails is put off without stopping the rest.
//!
//! **Crash.** Every step may be repeated: bytes that are gone already are as good as removed now. An entry goes after
//! its bytes, so a crash between the two costs a look. **Ordering.** The transaction that queued an entry is on disk
//! before its bytes are touched: entries that come later wait for the next run. A blob is looked at and removed under
//! the claim that its commit takes, so it is either removed before it is written again, or found to be named again and
//! kept. Numbers of snapshots and ingests are never used twice. **Cancellation.** Between batches, by the process's end.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use orlop_base::retry::Jitter;
use orlop_content::ContentError;
use orlop_snapshot::{SnapshotNumber, Snapshotter};
use orlop_types::{Digest, Namespace, SnapshotterName};

use super::queue::{self, QueueItem};
use super::{Failure, Removed};
use crate::content::ingest::backend_reference;
use crate::db::Tx;
use crate::node::{NodeKey, NodeKind, live_elsewhere};
use crate::sweep::{self, SweepKind};
use crate::{Db, Error, Event};
use orlop_types::chain;

/// How many entries are worked off between two looks into the queue.
const PAGE_ITEMS: usize = 512;

/// How many entries one transaction takes off the queue.
const SETTLE_ITEMS: usize = 16;

/// How many folders a snapshotter deletes in one call.
const CLEANUP_FOLDERS: usize = 512;

/// The most it is asked for at a time, when the first ones cannot be deleted.
const CLEANUP_FOLDERS_MAX: usize = 1 << 16;

/// Longer error texts are cut: they are stored, and sent to whoever listens. In characters.
const ERROR_CHARS_MAX: usize = 400;

/// The namespace of events that tell of bytes, which belong to none.
const NAMESPACE: &str = "orlop";

/// What became of the queue.
#[derive(Debug, Default)]
pub(super) struct Drained {
    pub(super) swept: Removed,
    pub(super) cancelled: u64,
    pub(super) bytes_freed: u64,
    pub(super) failures: Vec<Failure>,
    pub(super) longest_pause: Duration,
}

enum Outcome {
    /// Gone, and the bytes that came back.
    Swept(u64),
    /// A record names it again.
    Named,
    Failed(String),
}

pub(super) struct Drain<'a> {
    db: &'a Db,
    /// Entries are due until this time, in nanoseconds since 1970.
    now: i64,
    jitter: &'a mut Jitter,
    namespace: Namespace,
    /// Snapshotters that put something aside in this run.
    aside: BTreeSet<String>,
    drained: Drained,
}

impl<'a> Drain<'a> {
    pub(super) fn new(db: &'a Db, now: i64, jitter: &'a mut Jitter) -> Self {
        Self {
            db,
            now,
            jitter,
            namespace: Namespace::new(NAMESPACE).expect("the word is a valid name"),
            aside: BTreeSet::new(),
            drained: Drained::default(),
        }
    }

    /// Works off what is due.
    pub(super) fn run(mut self) -> Result<Drained, Error> {
        let newest = self.db.read("read the sweep queue", queue::newest)?;
        if newest.is_some() {
            // Records may have gone without an fsync: a power cut must not bring them back without their bytes.
            self.db.make_durable()?;
        }
        let (mut after, newest) = (0, newest.unwrap_or(0));
        while after < newest {
            let page = self.db.read("read the sweep queue", |connection| {
                queue::due(connection, self.now, (after, newest), PAGE_ITEMS)
            })?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let outcomes = self.work(page);
            self.settle(&outcomes)?;
        }
        self.clean_up()?;
        Ok(self.drained)
    }

    fn work(&self, page: Vec<QueueItem>) -> Vec<(QueueItem, Outcome)> {
        let mut outcomes = Vec::with_capacity(page.len());
        let mut folders: BTreeMap<String, Vec<QueueItem>> = BTreeMap::new();
        for item in page {
            let outcome = match item.sweep {
                SweepKind::Blob => self.remove_blob(&item),
                SweepKind::Ingest => self.remove_ingest(&item),
                SweepKind::Mount => self.remove_mounts(&item),
                SweepKind::Snapshot => {
                    folders.entry(item.scope.clone()).or_default().push(item);
                    continue;
                }
                SweepKind::Leftovers => continue,
            };
            outcomes.push((item, outcome));
        }
        for (snapshotter, items) in folders {
            outcomes.extend(self.remove_snapshots(&snapshotter, items));
        }
        outcomes
    }

    fn remove_blob(&self, item: &QueueItem) -> Outcome {
        let Some(store) = self.db.backends().content.as_deref() else {
            return Outcome::Failed("no content store is configured".to_owned());
        };
        let Ok(digest) = item.key.parse::<Digest>() else {
            return Outcome::Failed("the key is no digest".to_owned());
        };
        // Held until the bytes are gone: nobody commits this blob meanwhile.
        let Some(_claim) = self.db.claims().try_claim(digest) else {
            return Outcome::Failed("it is just being written again".to_owned());
        };
        match blob_is_named(self.db, &item.key) {
            Ok(true) => return Outcome::Named,
            Ok(false) => {}
            Err(error) => return Outcome::Failed(chain(&error)),
        }
        match store.remove(&digest) {
            Ok(bytes) => Outcome::Swept(bytes),
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    fn remove_ingest(&self, item: &QueueItem) -> Outcome {
        let Some(store) = self.db.backends().content.as_deref() else {
            return Outcome::Failed("no content store is configured".to_owned());
        };
        let Ok(number) = item.key.parse::<i64>() else {
            return Outcome::Failed("the key is no number".to_owned());
        };
        let reference = backend_reference(number);
        let bytes = store
            .status(&reference)
            .map_or(0, |status| status.present_bytes);
        match store.abort(&reference) {
            Ok(()) => Outcome::Swept(bytes),
            Err(ContentError::IngestNotFound { .. }) => Outcome::Swept(0),
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    fn remove_mounts(&self, item: &QueueItem) -> Outcome {
        let Some(store) = self.db.backends().mounts.as_deref() else {
            return Outcome::Failed("no store of mounts is configured".to_owned());
        };
        let Ok(number) = item.key.parse() else {
            return Outcome::Failed("the key is no number".to_owned());
        };
        match store.remove(number) {
            Ok(()) => Outcome::Swept(0),
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    fn remove_snapshots(
        &self,
        snapshotter: &str,
        items: Vec<QueueItem>,
    ) -> Vec<(QueueItem, Outcome)> {
        let Some(backend) = self.backend(snapshotter) else {
            let reason = format!("snapshotter {snapshotter:?} is not configured");
            let failed = |item| (item, Outcome::Failed(reason.clone()));
            return items.into_iter().map(failed).collect();
        };
        let mut numbers = Vec::with_capacity(items.len());
        let mut numbered = Vec::with_capacity(items.len());
        let mut outcomes = Vec::with_capacity(items.len());
        for mut item in items {
            let Ok(number) = item.key.parse::<SnapshotNumber>() else {
                let reason = "the key is no number".to_owned();
                outcomes.push((item, Outcome::Failed(reason)));
                continue;
            };
            if item.bytes == 0 {
                // What was never committed was never measured.
                item.bytes = backend.usage(number).map_or(0, |usage| usage.bytes);
            }
            numbers.push(number);
            numbered.push((number, item));
        }
        let failures = backend.remove_many(&numbers);
        for (number, item) in numbered {
            let failure = failures.iter().find(|failure| failure.number == number);
            let outcome = match failure {
                Some(failure) => Outcome::Failed(chain(&failure.error)),
                None => Outcome::Swept(item.bytes),
            };
            outcomes.push((item, outcome));
        }
        outcomes
    }

    fn backend(&self, snapshotter: &str) -> Option<&'a dyn Snapshotter> {
        let name = SnapshotterName::new(snapshotter).ok()?;
        let backend = self.db.backends().snapshotters.get(&name)?;
        Some(backend.as_ref())
    }

    fn settle(&mut self, outcomes: &[(QueueItem, Outcome)]) -> Result<(), Error> {
        for batch in outcomes.chunks(SETTLE_ITEMS) {
            let mut began = None;
            let (db, now, namespace, jitter) =
                (self.db, self.now, &self.namespace, &mut *self.jitter);
            db.write_relaxed("finish a sweep", |tx| {
                began = Some(Instant::now());
                batch.iter().try_for_each(|(item, outcome)| {
                    record(tx, namespace, (item, outcome), (now, jitter))
                })
            })?;
            let pause = began.map_or(Duration::ZERO, |began: Instant| began.elapsed());
            self.drained.longest_pause = self.drained.longest_pause.max(pause);
            for (item, outcome) in batch {
                self.count(item, outcome);
            }
            thread::yield_now();
        }
        Ok(())
    }

    fn count(&mut self, item: &QueueItem, outcome: &Outcome) {
        let (kind, key) = (item.kind(), item.name());
        match outcome {
            Outcome::Swept(bytes) => {
                match item.sweep {
                    SweepKind::Blob => self.drained.swept.content += 1,
                    SweepKind::Ingest => self.drained.swept.ingests += 1,
                    SweepKind::Mount => self.drained.swept.mounts += 1,
                    SweepKind::Snapshot => {
                        self.drained.swept.snapshots += 1;
                        self.aside.insert(item.scope.clone());
                    }
                    SweepKind::Leftovers => return,
                }
                self.drained.bytes_freed += bytes;
                tracing::info!(kind, key, bytes, "collected");
            }
            Outcome::Named => {
                self.drained.cancelled += 1;
                tracing::info!(kind, key, "kept: a record names it again");
            }
            Outcome::Failed(error) => {
                let attempts = item.attempts.saturating_add(1);
                tracing::warn!(kind, key, attempts, error, "could not be collected");
                self.drained.failures.push(Failure {
                    kind,
                    key,
                    attempts,
                    error: error.clone(),
                });
            }
        }
    }

    /// Lets snapshotters delete what was put aside: now, or before a crash, or what could not be deleted then.
    fn clean_up(&mut self) -> Result<(), Error> {
        let leftovers = self
            .db
            .read("read the sweep queue", queue::leftovers)?
            .into_iter()
            .filter(|item| {
                let is_due = crate::time::to_nanos(item.next_try_at) <= self.now;
                is_due || item.attempts == 0 || self.aside.contains(&item.scope)
            });
        let outcomes: Vec<_> = leftovers
            .map(|item| {
                let outcome = match self.backend(&item.scope) {
                    Some(backend) => clean_up(backend),
                    None => Outcome::Failed("the snapshotter is not configured".to_owned()),
                };
                (item, outcome)
            })
            .collect();
        self.settle(&outcomes)
    }
}

/// Whether a record in any namespace names a blob, or is about to.
pub(crate) fn blob_is_named(db: &Db, digest: &str) -> Result<bool, Error> {
    let failed = Error::database("look who names a blob");
    db.read("look who names a blob", |connection| {
        let node = NodeKey {
            // No namespace has this id, so all are looked at.
            namespace: -1,
            kind: NodeKind::Content,
            scope: "",
            key: digest,
        };
        if live_elsewhere(connection, node)?.is_some() {
            return Ok(true);
        }
        connection
            .prepare_cached("SELECT 1 FROM ingests WHERE shared = 1 AND expected_digest = ?1")
            .and_then(|mut select| select.exists([digest]))
            .map_err(failed)
    })
}

fn clean_up(backend: &dyn Snapshotter) -> Outcome {
    let mut limit = CLEANUP_FOLDERS;
    loop {
        let cleaned = match backend.cleanup(limit) {
            Ok(cleaned) => cleaned,
            Err(error) => return Outcome::Failed(chain(&error)),
        };
        if cleaned.more && cleaned.folders > 0 {
            continue;
        }
        if cleaned.more && limit < CLEANUP_FOLDERS_MAX {
            // Those that cannot be deleted fill the limit: look behind them.
            limit *= 4;
            continue;
        }
        return match cleaned.failures.first() {
            None => Outcome::Swept(0),
            Some(first) => Outcome::Failed(format!(
                "{} folders could not be deleted, the first: {}",
                cleaned.failures.len(),
                chain(first)
            )),
        };
    }
}

/// Writes one outcome and its event.
fn record(
    tx: &Tx<'_>,
    namespace: &Namespace,
    (item, outcome): (&QueueItem, &Outcome),
    (now, jitter): (i64, &mut Jitter),
) -> Result<(), Error> {
    let (kind, key) = (item.kind().to_owned(), item.name());
    match outcome {
        Outcome::Swept(bytes) => {
            queue::finish(tx, item)?;
            match item.sweep {
                SweepKind::Blob | SweepKind::Ingest | SweepKind::Mount => {}
                SweepKind::Snapshot => {
                    sweep::enqueue(tx, SweepKind::Leftovers, (&item.scope, ""), 0)?;
                }
                SweepKind::Leftovers => return Ok(()),
            }
            let bytes = *bytes;
            tx.append(namespace, &Event::Collected { kind, key, bytes })?;
        }
        Outcome::Named => queue::finish(tx, item)?,
        Outcome::Failed(error) => {
            let error: String = error.chars().take(ERROR_CHARS_MAX).collect();
            queue::postpone(tx, item, (now.max(tx.now), &error), jitter)?;
            let attempts = item.attempts.saturating_add(1);
            let event = Event::CollectFailed {
                kind,
                key,
                attempts,
                error,
            };
            tx.append(namespace, &event)?;
        }
    }
    Ok(())
}

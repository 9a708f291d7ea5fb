//! Removing the rows that marking found unheld, in small transactions between those of others.
//!
//! **Ordering.** Holders go before what they hold, so whatever is named again meanwhile is still whole: see
//! [`super::barrier`] for how that is noticed, and [`Marks::doomed`] for the order. **Crash.** Each transaction moves
//! its records to the sweep queue; what is left is garbage still, and found by the next pass.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use orlop_types::{Digest, Namespace};
use rusqlite::{Connection, OptionalExtension, params};

use super::barrier::{Barrier, Checkpointer};
use super::graph::{Graph, Index};
use super::mark::{Level, Marks};
use super::order::Order;
use super::{Failure, Removed};
use crate::db::Tx;
use crate::node::{self, NodeKind};
use crate::{Db, Error, Event, activations, content, records, sweep};

/// How long one transaction may go on removing. What follows is its commit, without waiting for the disk.
const BATCH_TIME: Duration = Duration::from_micros(400);

/// How many records one transaction removes at most.
const BATCH_RECORDS: usize = 64;

/// How long the writer's place is free between two transactions, so that those who wait get it.
const BREATHER: Duration = Duration::from_micros(50);

/// So many records in a row that cannot be removed mean that the database is at fault.
const FAILURES_MAX: usize = 16;

/// What became of the doomed.
#[derive(Debug, Default)]
pub(super) struct Reaped {
    pub(super) removed: Removed,
    /// Held by now, or in use at this moment.
    pub(super) spared: u64,
    pub(super) failures: Vec<Failure>,
    /// The longest time one transaction kept other writers waiting.
    pub(super) longest_pause: Duration,
}

/// The row of a record that may go.
#[derive(Debug)]
struct Record {
    id: i64,
    namespace: i64,
    kind: NodeKind,
    scope: String,
    key: String,
}

impl Record {
    fn log(&self, names: &HashMap<i64, Namespace>) {
        let namespace = names.get(&self.namespace).map(Namespace::as_str);
        let (kind, key) = (self.kind.as_str(), &self.key);
        tracing::info!(kind, key, namespace, "nothing holds this any more");
    }
}

/// The names of all namespaces, by id.
pub(super) fn namespaces(connection: &Connection) -> Result<HashMap<i64, Namespace>, Error> {
    let failed = Error::database("list namespaces");
    let mut select = connection
        .prepare_cached("SELECT id, name FROM namespaces")
        .map_err(failed)?;
    let mut rows = select.query([]).map_err(failed)?;
    let mut names = HashMap::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let (id, name): (i64, String) = (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
        let parsed = Namespace::new(name.as_str()).map_err(|error| Error::Corrupt {
            table: "namespaces",
            subject: name,
            reason: error.to_string(),
        })?;
        names.insert(id, parsed);
    }
    Ok(names)
}

/// Removes what is doomed and stays so.
pub(super) fn reap(
    db: &Db,
    graph: &Graph,
    marks: &mut Marks,
    names: &HashMap<i64, Namespace>,
) -> Reaped {
    let doomed = marks.doomed(graph);
    let mut checkpointer = Checkpointer::new(db);
    let (mut reaped, mut next, mut size, mut failed) = (Reaped::default(), 0, BATCH_RECORDS, 0);
    while next < doomed.records.len() && failed < FAILURES_MAX {
        let end = end_of(&doomed, next + size);
        let mut began = None;
        let ran = db.write_relaxed("remove what nothing holds", |tx| {
            let start = *began.insert(Instant::now());
            batch(tx, graph, marks, names, (&doomed, next..end, start))
        });
        let pause = began.map_or(Duration::ZERO, |began: Instant| began.elapsed());
        reaped.longest_pause = reaped.longest_pause.max(pause);
        match ran {
            Ok(batch) => {
                next += batch.taken;
                for record in &batch.went {
                    reaped.removed.count(record.kind);
                    // Not in the transaction: a log that is slow to write must not keep other writers waiting.
                    record.log(names);
                }
                reaped.spared += batch.spared;
                (size, failed) = (BATCH_RECORDS, 0);
            }
            // One of them is at fault: take them one by one until that is passed.
            Err(_) if size > 1 => size = 1,
            Err(error) => {
                let node = graph.node(doomed.records[next]);
                tracing::warn!(kind = node.kind.as_str(), id = node.id, %error, "a record that nothing holds stays");
                reaped.failures.push(Failure::of_record(node, &error));
                (next, failed) = (next + 1, failed + 1);
            }
        }
        checkpointer.wrote();
        thread::sleep(BREATHER);
    }
    checkpointer.finish();
    reaped
}

/// `end`, or where the circle ends that it is in the middle of.
fn end_of(doomed: &Order, end: usize) -> usize {
    let joined = doomed.joined.iter().skip(end).take_while(|joined| **joined);
    doomed.records.len().min(end + joined.count())
}

#[derive(Debug, Default)]
struct Batch {
    taken: usize,
    went: Vec<Record>,
    spared: u64,
}

fn batch(
    tx: &Tx<'_>,
    graph: &Graph,
    marks: &mut Marks,
    names: &HashMap<i64, Namespace>,
    (doomed, range, start): (&Order, Range<usize>, Instant),
) -> Result<Batch, Error> {
    for id in Barrier::take(tx)? {
        // What is newer than the marks is not doomed; what it names has been noted, too.
        if let Some(index) = graph.find(id) {
            marks.hold(graph, index);
        }
    }
    let mut batch = Batch::default();
    for place in range {
        let late = batch.taken > 0 && start.elapsed() >= BATCH_TIME;
        if late && !doomed.joined[place] {
            break;
        }
        batch.taken += 1;
        let index = doomed.records[place];
        let went = match marks.level(index) {
            Level::None => remove(tx, graph, index, names)?,
            Level::Flat | Level::Full => None,
        };
        batch.spared += u64::from(went.is_none());
        batch.went.extend(went);
    }
    Ok(batch)
}

/// Removes one record with its event and its place in the sweep queue. None if it is gone or in use.
fn remove(
    tx: &Tx<'_>,
    graph: &Graph,
    index: Index,
    names: &HashMap<i64, Namespace>,
) -> Result<Option<Record>, Error> {
    let Some(record) = load(tx, graph, index)? else {
        return Ok(None);
    };
    let event = match record.kind {
        NodeKind::Content => remove_blob(tx, &record)?,
        NodeKind::Snapshot => match remove_snapshot(tx, &record)? {
            Some(event) => Some(event),
            None => return Ok(None),
        },
        NodeKind::Image => {
            records::remove_image(tx, record.id)?;
            let name = parse(&record)?;
            Some(Event::ImageDelete { name })
        }
        NodeKind::Lease => {
            records::remove_lease(tx, record.id)?;
            let id = parse(&record)?;
            Some(Event::LeaseDelete { id, expired: true })
        }
        NodeKind::Ingest => {
            content::ingest::collect_by_id(tx, record.namespace, record.id)?;
            None
        }
        NodeKind::Mount => {
            if !activations::collect(tx, record.id)? {
                return Ok(None);
            }
            None
        }
        NodeKind::Container | NodeKind::Sandbox => return Ok(None),
    };
    if let (Some(event), Some(namespace)) = (event, names.get(&record.namespace)) {
        tx.append(namespace, &event)?;
    }
    Ok(Some(record))
}

fn load(tx: &Tx<'_>, graph: &Graph, index: Index) -> Result<Option<Record>, Error> {
    let node = graph.node(index);
    tx.prepare_cached("SELECT namespace, scope, key FROM nodes WHERE id = ?1 AND live = 1")
        .and_then(|mut select| {
            let found = select.query_row([node.id], |row| {
                Ok(Record {
                    id: node.id,
                    namespace: row.get(0)?,
                    kind: node.kind,
                    scope: row.get(1)?,
                    key: row.get(2)?,
                })
            });
            found.optional()
        })
        .map_err(Error::database("read a record"))
}

fn remove_blob(tx: &Tx<'_>, record: &Record) -> Result<Option<Event>, Error> {
    let digest: Digest = parse(record)?;
    let size: i64 = tx
        .prepare_cached("SELECT size FROM content WHERE id = ?1")
        .and_then(|mut select| select.query_row([record.id], |row| row.get(0)).optional())
        .map_err(Error::database("read a blob's row"))?
        .unwrap_or(0);
    let size = u64::try_from(size).unwrap_or(0);
    content::remove_row(tx, (record.id, record.namespace), (&digest, size))?;
    Ok(Some(Event::ContentDelete { digest }))
}

/// Removes a snapshot's row, unless others are on top of it or its folder is just being made: then nothing.
fn remove_snapshot(tx: &Tx<'_>, record: &Record) -> Result<Option<Event>, Error> {
    let failed = Error::database("remove a snapshot");
    let row: Option<(i64, i64, i64)> = tx
        .prepare_cached(
            "SELECT number, state, coalesce(usage_bytes, 0) FROM snapshots WHERE id = ?1
                AND NOT EXISTS (SELECT 1 FROM snapshots WHERE parent = ?1)",
        )
        .and_then(|mut select| {
            let found = select.query_row(params![record.id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            });
            found.optional()
        })
        .map_err(failed)?;
    let Some((number, 1, bytes)) = row else {
        return Ok(None);
    };
    tx.prepare_cached("DELETE FROM snapshots WHERE id = ?1")
        .and_then(|mut delete| delete.execute([record.id]))
        .map_err(failed)?;
    node::retire(tx, record.id)?;
    let bytes = u64::try_from(bytes).unwrap_or(0);
    sweep::enqueue_snapshot(tx, &record.scope, number, bytes)?;
    Ok(Some(Event::SnapshotRemove {
        snapshotter: parse_text(&record.scope, record)?,
        key: parse(record)?,
    }))
}

fn parse<T: FromStr<Err: Display>>(record: &Record) -> Result<T, Error> {
    parse_text(&record.key, record)
}

fn parse_text<T: FromStr<Err: Display>>(text: &str, record: &Record) -> Result<T, Error> {
    text.parse().map_err(|error: T::Err| Error::Corrupt {
        table: "nodes",
        subject: record.key.clone(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use orlop_base::clock::{ManualClock, SharedClock};
    use orlop_types::{Descriptor, ImageName, Labels, LeaseId};

    use super::super::mark;
    use super::*;
    use crate::{Backends, Image, LeaseResource, View};

    struct World {
        db: Db,
        view: View,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let clock: SharedClock = Arc::new(ManualClock::new());
            let db = Db::open(&folder.path().join("meta.db"), clock, Backends::default()).unwrap();
            Self {
                view: db.namespace(&Namespace::new("n").unwrap()),
                db,
                _folder: folder,
            }
        }

        /// An image that expired long ago.
        fn expired(&self, name: &str) -> Image {
            let mut labels = Labels::new();
            labels
                .insert("containerd.io/gc.expire", "2020-01-01T00:00:00Z")
                .unwrap();
            let target = Descriptor::new("text/plain", Digest::sha256([7; 32]), 7);
            let image = Image::new(ImageName::new(name).unwrap(), target, labels);
            self.view.images().create(&image).unwrap()
        }

        /// Marks, lets `meanwhile` write, and removes.
        fn collect(&self, meanwhile: impl FnOnce(&View)) -> Reaped {
            let _barrier = Barrier::raise(&self.db).unwrap();
            let (graph, names) = self
                .db
                .read("mark", |connection| {
                    Ok((Graph::load(connection)?, namespaces(connection)?))
                })
                .unwrap();
            let mut marks = mark::mark(&graph, self.db.now());
            meanwhile(&self.view);
            reap(&self.db, &graph, &mut marks, &names)
        }

        fn images(&self) -> Vec<String> {
            let images = self.view.images().list(&[]).unwrap();
            images.iter().map(|image| image.name.to_string()).collect()
        }
    }

    fn lease(view: &View, image: &str) -> Result<(), Error> {
        let id = LeaseId::new("l").unwrap();
        view.leases().create(&id, &Labels::new())?;
        let resource = LeaseResource::Image(ImageName::new(image).unwrap());
        view.leases().add_resource(&id, &resource)
    }

    #[test]
    fn what_is_leased_after_it_was_marked_stays() {
        let world = World::new();
        world.expired("a");
        world.expired("b");
        let reaped = world.collect(|view| lease(view, "a").unwrap());
        assert_eq!((reaped.removed.images, reaped.spared), (1, 1));
        assert_eq!(world.images(), ["a"]);
    }

    #[test]
    fn what_got_a_new_expiry_after_it_was_marked_stays() {
        let world = World::new();
        let mut image = world.expired("a");
        image.labels = Labels::new();
        let reaped = world.collect(|view| drop(view.images().update(&image, &[]).unwrap()));
        assert_eq!((reaped.removed.images, reaped.spared), (0, 1));
    }

    #[test]
    fn what_was_removed_and_made_anew_after_it_was_marked_stays() {
        let world = World::new();
        let image = world.expired("a");
        let reaped = world.collect(|view| {
            view.images().delete(&image.name, None).unwrap();
            view.images().create(&image).unwrap();
        });
        assert_eq!(reaped.removed.images, 0);
        assert_eq!(world.images(), ["a"]);
    }

    #[test]
    fn a_transaction_that_failed_holds_nothing() {
        let world = World::new();
        world.expired("a");
        let reaped = world.collect(|view| {
            let failed = view.db().write("fail after a note", |tx| {
                tx.execute("UPDATE nodes SET expires_at = NULL", [])
                    .unwrap();
                Err::<(), _>(Error::ReadOnly { operation: "fail" })
            });
            assert!(failed.is_err());
        });
        assert_eq!((reaped.removed.images, reaped.spared), (1, 0));
    }

    #[test]
    fn a_damaged_record_stays_and_the_others_go() {
        let world = World::new();
        world.expired("a");
        world.expired("b");
        world.expired("c");
        let connection = Connection::open(world.db.path()).unwrap();
        connection
            .execute("UPDATE nodes SET key = '' WHERE key = 'b'", [])
            .unwrap();
        let reaped = world.collect(|_| {});
        assert_eq!((reaped.removed.images, reaped.failures.len()), (2, 1));
    }
}

//! The sweep queue against records and disk.

use orlop_content::ContentError;
use orlop_snapshot::{Error as SnapshotError, SnapshotNumber};
use orlop_types::{Digest, SnapshotterName};

use super::blobs::exists;
use super::{Check, Outcome, Run};
use crate::content::ingest::backend_reference;
use crate::gc::blob_is_named;
use crate::sweep::{self, SweepKind};
use crate::{Db, Error};

const FAILED: &str = "compare the sweep queue";

struct Entry {
    id: i64,
    kind: i64,
    scope: String,
    key: String,
}

impl Run<'_> {
    /// Every entry has bytes to sweep, and no record.
    pub(super) fn sweep_queue(&mut self) -> Result<(), Error> {
        for entry in entries(self.db)? {
            self.summary.checked += 1;
            let subject = format!("{} {}", entry.scope, entry.key).trim().to_owned();
            let id = entry.id;
            if is_named(self.db, &entry)? {
                let detail = "it is to be swept and a record names it".to_owned();
                self.found(Check::SweepNamed, (subject, detail), |db| take_off(db, id));
            } else if is_gone(self.db, &entry) && still_queued(self.db, id)? {
                let detail = "it is to be swept and is gone already".to_owned();
                self.found(Check::SweepGone, (subject, detail), |db| {
                    // Put aside, perhaps, and not deleted before a crash.
                    expect_leftovers(db, &entry)?;
                    take_off(db, id)
                });
            }
        }
        Ok(())
    }
}

fn entries(db: &Db) -> Result<Vec<Entry>, Error> {
    db.read(FAILED, |connection| {
        connection
            .prepare("SELECT id, kind, scope, key FROM sweeps ORDER BY id")
            .and_then(|mut select| {
                let entries = select.query_map([], |row| {
                    Ok(Entry {
                        id: row.get(0)?,
                        kind: row.get(1)?,
                        scope: row.get(2)?,
                        key: row.get(3)?,
                    })
                })?;
                entries.collect()
            })
            .map_err(Error::database(FAILED))
    })
}

fn is_named(db: &Db, entry: &Entry) -> Result<bool, Error> {
    match (entry.kind, entry.key.parse::<i64>()) {
        (1, _) => blob_is_named(db, &entry.key),
        (2, Ok(number)) => exists(
            db,
            "SELECT 1 FROM ingests WHERE number = ?1 AND shared = 0",
            [number],
        ),
        (3, Ok(number)) => exists(db, "SELECT 1 FROM snapshots WHERE number = ?1", [number]),
        (5, Ok(number)) => exists(db, "SELECT 1 FROM mounts WHERE number = ?1", [number]),
        (_, _) => Ok(false),
    }
}

/// Whether there is certainly nothing left to remove. What a snapshotter put aside cannot be asked for.
fn is_gone(db: &Db, entry: &Entry) -> bool {
    let store = db.backends().content.as_deref();
    match (entry.kind, store) {
        (1, Some(store)) => entry.key.parse().is_ok_and(|digest: Digest| {
            matches!(store.stat(&digest), Err(ContentError::BlobNotFound { .. }))
        }),
        (2, Some(store)) => entry.key.parse().is_ok_and(|number: i64| {
            let status = store.status(&backend_reference(number));
            matches!(status, Err(ContentError::IngestNotFound { .. }))
        }),
        (3, _) => {
            let backend = SnapshotterName::new(entry.scope.as_str())
                .ok()
                .and_then(|name| db.backends().snapshotters.get(&name));
            let number = entry.key.parse::<SnapshotNumber>();
            backend.zip(number.ok()).is_some_and(|(backend, number)| {
                matches!(backend.usage(number), Err(SnapshotError::Missing { .. }))
            })
        }
        (_, _) => false,
    }
}

fn still_queued(db: &Db, id: i64) -> Result<bool, Error> {
    exists(db, "SELECT 1 FROM sweeps WHERE id = ?1", [id])
}

/// Has the snapshotter look for what it put aside.
fn expect_leftovers(db: &Db, entry: &Entry) -> Result<(), Error> {
    if entry.kind != i64::from(SweepKind::Snapshot as u8) {
        return Ok(());
    }
    db.write("queue leftovers", |tx| {
        sweep::enqueue(tx, SweepKind::Leftovers, (&entry.scope, ""), 0)
    })
}

fn take_off(db: &Db, id: i64) -> Result<Outcome, Error> {
    db.write("take off the sweep queue", |tx| {
        tx.execute("DELETE FROM sweeps WHERE id = ?1", [id])
            .map_err(Error::database("take off the sweep queue"))
    })?;
    Ok(Outcome::Repaired("it was taken off the queue"))
}

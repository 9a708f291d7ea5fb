//! Snapshots: records against folders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orlop_snapshot::{Error as SnapshotError, Kind, SnapshotNumber, Snapshotter};
use orlop_types::{Namespace, SnapshotKey, SnapshotterName};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Check, Outcome, Run, perhaps_under_way};
use crate::db::Tx;
use crate::sweep::{self, SweepKind};
use crate::{Db, Error, Event, node};

const FAILED: &str = "compare snapshots";

struct Row {
    id: i64,
    namespace: String,
    snapshotter: String,
    key: String,
    number: SnapshotNumber,
    kind: Kind,
    is_ready: bool,
}

impl Run<'_> {
    /// What a killed daemon was about to make; opening the database takes it back, so there should be none.
    pub(super) fn preparing(&mut self) -> Result<(), Error> {
        if !self.options.at_start {
            return Ok(());
        }
        for row in self
            .db
            .read(FAILED, rows)?
            .into_iter()
            .filter(|row| !row.is_ready)
        {
            let detail = "its folder was being made when the daemon ended".to_owned();
            self.found(Check::SnapshotPreparing, (subject(&row), detail), |db| {
                db.write("take a preparation back", crate::snapshots::recover)?;
                Ok(Outcome::Repaired(
                    "its record was removed, its folder queued for the sweep",
                ))
            });
        }
        Ok(())
    }

    /// Every folder has a record and every record its folder, of its kind.
    pub(super) fn snapshots(&mut self) -> Result<(), Error> {
        let db = self.db;
        let backends = &db.backends().snapshotters;
        let mut disks = BTreeMap::new();
        for (name, backend) in backends {
            disks.insert(name.as_str(), walk(name, backend.as_ref())?);
        }
        let mut rows = db.read(FAILED, rows)?;
        for (name, folders) in &disks {
            let numbers: BTreeSet<_> = of(&rows, name).map(|row| row.number).collect();
            let count = u64::try_from(folders.len()).unwrap_or(u64::MAX);
            self.summary.checked += count;
            self.summary.snapshots += count;
            for number in folders.keys().filter(|number| !numbers.contains(number)) {
                self.folder_without_record(name, *number)?;
            }
        }
        // Children before parents, so that what is missing as a whole can go as a whole.
        rows.reverse();
        let order = children_first(&rows, db)?;
        for row in order
            .into_iter()
            .map(|place| &rows[place])
            .filter(|row| row.is_ready)
        {
            let Some(folders) = disks.get(row.snapshotter.as_str()) else {
                if db.backends().content.is_some() || !backends.is_empty() {
                    self.without_backend(row);
                }
                continue;
            };
            self.record(row, folders.get(&row.number).copied());
        }
        Ok(())
    }

    fn without_backend(&mut self, row: &Row) {
        let detail = format!("snapshotter {:?} is not configured", row.snapshotter);
        let left = Outcome::Left("configure it, or remove what was made with it".to_owned());
        self.found(Check::SnapshotterMissing, (subject(row), detail), |_| {
            Ok(left)
        });
    }

    fn record(&mut self, row: &Row, folder: Option<Kind>) {
        let at_start = self.options.at_start;
        let subject = (subject(row), String::new());
        match (folder, row.kind) {
            (None, _) => {
                let Some(backend) = backend(self.db, &row.snapshotter) else {
                    return;
                };
                // Made since the folders were listed, or removed since the rows were read.
                if is_there(backend, row.number) || !has_row(self.db, row) {
                    return;
                }
                let detail = format!("folder {} of {} is missing", row.number, row.kind);
                self.found(Check::SnapshotMissing, (subject.0, detail), |db| {
                    forget(db, row)
                });
            }
            (Some(found), kind) if found == kind => {}
            (Some(Kind::Committed), Kind::Active) => {
                let detail = format!("folder {} is committed, its record is active", row.number);
                self.found(Check::SnapshotHalfCommitted, (subject.0, detail), |db| {
                    if at_start {
                        forget(db, row)
                    } else {
                        Ok(perhaps_under_way())
                    }
                });
            }
            (Some(found), kind) => {
                // A commit that ended between the two looks.
                if has_changed(self.db, row) {
                    return;
                }
                let detail = format!("folder {} is {found}, its record is {kind}", row.number);
                let left = "remove the image and what runs on it, and pull it again";
                let left = Outcome::Left(left.to_owned());
                self.found(Check::SnapshotKind, (subject.0, detail), |_| Ok(left));
            }
        }
    }

    fn folder_without_record(
        &mut self,
        snapshotter: &str,
        number: SnapshotNumber,
    ) -> Result<(), Error> {
        let named = |tx: &Connection| is_named(tx, snapshotter, number);
        // On the writer's connection where there is one: a row that is about to be committed counts, too.
        let known = match self.db.write_relaxed(FAILED, |tx| named(tx)) {
            Err(Error::ReadOnly { .. }) => self.db.read(FAILED, named)?,
            other => other?,
        };
        let gone = backend(self.db, snapshotter).is_none_or(|backend| !is_there(backend, number));
        if known || gone {
            return Ok(());
        }
        let detail = "a folder that no record names".to_owned();
        let subject = format!("{snapshotter}/{number}");
        self.found(Check::SnapshotUnknown, (subject, detail), |db| {
            let queued = db.write("queue a folder", |tx| {
                if is_named(tx, snapshotter, number)? {
                    return Ok(false);
                }
                let key = number.to_string();
                sweep::enqueue(tx, SweepKind::Snapshot, (snapshotter, &key), 0)?;
                Ok(true)
            })?;
            Ok(Outcome::Repaired(if queued {
                "queued for the sweep, which leaves it alone while it is mounted"
            } else {
                "a record names it by now"
            }))
        });
        Ok(())
    }
}

fn walk(
    name: &SnapshotterName,
    backend: &dyn Snapshotter,
) -> Result<BTreeMap<SnapshotNumber, Kind>, Error> {
    let failed = |source| Error::Snapshot {
        operation: "list",
        key: name.to_string(),
        source: Arc::new(source),
    };
    let mut folders = BTreeMap::new();
    for found in backend.walk().map_err(failed)? {
        let found = found.map_err(failed)?;
        folders.insert(found.number, found.kind);
    }
    Ok(folders)
}

fn rows(connection: &Connection) -> Result<Vec<Row>, Error> {
    let failed = Error::database(FAILED);
    let mut select = connection
        .prepare(
            "SELECT node.id, namespaces.name, node.scope, node.key, number, snapshot.kind, state FROM snapshots AS snapshot
                CROSS JOIN nodes AS node ON node.id = snapshot.id
                CROSS JOIN namespaces ON namespaces.id = node.namespace ORDER BY node.id",
        )
        .map_err(failed)?;
    let rows = select
        .query_map([], |row| {
            Ok(Row {
                id: row.get(0)?,
                namespace: row.get(1)?,
                snapshotter: row.get(2)?,
                key: row.get(3)?,
                number: SnapshotNumber::new(row.get::<_, i64>(4)?.unsigned_abs()),
                kind: match row.get::<_, i64>(5)? {
                    1 => Kind::View,
                    2 => Kind::Active,
                    _ => Kind::Committed,
                },
                is_ready: row.get::<_, i64>(6)? == 1,
            })
        })
        .and_then(Iterator::collect)
        .map_err(failed)?;
    Ok(rows)
}

/// The rows' places in an order in which every child is before its parent.
fn children_first(rows: &[Row], db: &Db) -> Result<Vec<usize>, Error> {
    let parents: BTreeMap<i64, i64> = db.read(FAILED, |connection| {
        connection
            .prepare("SELECT id, parent FROM snapshots WHERE parent IS NOT NULL")
            .and_then(|mut select| {
                let pairs = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                pairs.collect()
            })
            .map_err(Error::database(FAILED))
    })?;
    let depth = |row: &Row| {
        let mut depth = 0_usize;
        let mut current = row.id;
        while let Some(parent) = parents.get(&current) {
            depth += 1;
            current = *parent;
            if depth > parents.len() {
                break;
            }
        }
        depth
    };
    let mut order: Vec<(usize, usize)> = rows.iter().map(depth).zip(0..).collect();
    order.sort_by_key(|(depth, place)| (std::cmp::Reverse(*depth), *place));
    Ok(order.into_iter().map(|(_, place)| place).collect())
}

fn of<'r>(rows: &'r [Row], snapshotter: &'r str) -> impl Iterator<Item = &'r Row> {
    rows.iter()
        .filter(move |row| row.snapshotter == snapshotter)
}

fn subject(row: &Row) -> String {
    format!(
        "{}/{} in namespace {}",
        row.snapshotter, row.key, row.namespace
    )
}

fn backend<'d>(db: &'d Db, snapshotter: &str) -> Option<&'d dyn Snapshotter> {
    let name = SnapshotterName::new(snapshotter).ok()?;
    Some(db.backends().snapshotters.get(&name)?.as_ref())
}

fn is_there(backend: &dyn Snapshotter, number: SnapshotNumber) -> bool {
    !matches!(backend.usage(number), Err(SnapshotError::Missing { .. }))
}

fn is_named(
    connection: &Connection,
    snapshotter: &str,
    number: SnapshotNumber,
) -> Result<bool, Error> {
    let failed = Error::database(FAILED);
    let stored = i64::try_from(number.value()).unwrap_or(i64::MAX);
    let has_record = connection
        .prepare_cached("SELECT 1 FROM snapshots WHERE number = ?1")
        .and_then(|mut select| select.exists([stored]))
        .map_err(failed)?;
    let is_queued = connection
        .prepare_cached("SELECT 1 FROM sweeps WHERE kind = ?1 AND scope = ?2 AND key = ?3")
        .and_then(|mut select| {
            select.exists(params![
                SweepKind::Snapshot as u8,
                snapshotter,
                number.to_string()
            ])
        })
        .map_err(failed)?;
    Ok(has_record || is_queued)
}

fn kind_of(connection: &Connection, id: i64) -> Result<Option<i64>, Error> {
    connection
        .prepare_cached("SELECT kind FROM snapshots WHERE id = ?1")
        .and_then(|mut select| select.query_row([id], |row| row.get(0)).optional())
        .map_err(Error::database(FAILED))
}

fn has_row(db: &Db, row: &Row) -> bool {
    db.read(FAILED, |connection| kind_of(connection, row.id))
        .is_ok_and(|kind| kind.is_some())
}

fn has_changed(db: &Db, row: &Row) -> bool {
    let stored = match row.kind {
        Kind::View => 1,
        Kind::Active => 2,
        Kind::Committed => 3,
    };
    db.read(FAILED, |connection| kind_of(connection, row.id))
        .is_ok_and(|kind| kind != Some(stored))
}

/// Removes a record whose files are lost or were never acknowledged, unless something relies on it.
fn forget(db: &Db, row: &Row) -> Result<Outcome, Error> {
    db.write("remove a snapshot", |tx| {
        if let Some(user) = user_of(tx, row.id)? {
            return Ok(Outcome::Left(format!("{user} is on it: remove that first")));
        }
        tx.prepare_cached("DELETE FROM snapshots WHERE id = ?1")
            .and_then(|mut delete| delete.execute([row.id]))
            .map_err(Error::database("remove a snapshot"))?;
        node::retire(tx, row.id)?;
        let number = i64::try_from(row.number.value()).unwrap_or(i64::MAX);
        sweep::enqueue_snapshot(tx, &row.snapshotter, number, 0)?;
        if let (Ok(namespace), Ok(snapshotter), Ok(key)) = (
            Namespace::new(row.namespace.as_str()),
            SnapshotterName::new(row.snapshotter.as_str()),
            SnapshotKey::new(row.key.as_str()),
        ) {
            tx.append(&namespace, &Event::SnapshotRemove { snapshotter, key })?;
        }
        Ok(Outcome::Repaired(
            "its record was removed, so it is unpacked again",
        ))
    })
}

/// A child of a snapshot, or a container that runs on it.
fn user_of(tx: &Tx<'_>, id: i64) -> Result<Option<String>, Error> {
    tx.prepare_cached(
        "SELECT CASE kind WHEN 2 THEN 'snapshot ' ELSE 'container ' END || key FROM nodes WHERE live = 1 AND id IN
            (SELECT id FROM snapshots WHERE parent = ?1
             UNION SELECT refs.source FROM refs CROSS JOIN containers ON containers.id = refs.source
                WHERE refs.target = ?1 AND refs.kind = 1)",
    )
    .and_then(|mut select| select.query_row([id], |row| row.get(0)).optional())
    .map_err(Error::database("look who is on a snapshot"))
}

//! Rows of snapshots.

use orlop_snapshot::{Kind, SnapshotNumber, Usage};
use orlop_types::{SnapshotKey, SnapshotterName};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Snapshot, Snapshots};
use crate::Error;
use crate::db::Tx;
use crate::node::{self, Kept, NodeKey, NodeKind, not_found};
use crate::records::Columns;
use crate::sweep;

/// A chain longer than this is damaged: the kernel's overlay takes 500 layers.
const CHAIN_MAX: usize = 4096;

pub(super) const SELECT: &str =
    "SELECT node.key, snapshot.id, node.scope, parent_node.key, snapshot.kind, snapshot.state,
    snapshot.number, labels, usage_bytes, usage_inodes, created_at, updated_at
    FROM snapshots AS snapshot CROSS JOIN nodes AS node ON node.id = snapshot.id
    LEFT JOIN nodes AS parent_node ON parent_node.id = snapshot.parent";

/// A snapshot with what only this crate needs of it.
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) snapshotter: SnapshotterName,
    /// Whether its folder has been made.
    pub(super) is_ready: bool,
    pub(super) snapshot: Snapshot,
}

/// The numbers under which kinds are stored.
pub(super) const fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::View => 1,
        Kind::Active => 2,
        Kind::Committed => 3,
    }
}

impl Snapshots<'_> {
    pub(super) fn look(&self, key: &SnapshotKey) -> Result<Row, Error> {
        self.view
            .db()
            .read("read a snapshot", |connection| self.load(connection, key))
    }

    /// A snapshot and the numbers of its parents, nearest first, of one moment.
    pub(super) fn look_with_parents(
        &self,
        key: &SnapshotKey,
    ) -> Result<(Row, Vec<SnapshotNumber>), Error> {
        self.view.db().read("read a snapshot", |connection| {
            let row = self.load(connection, key)?;
            let mut numbers = chain(connection, row.id)?;
            numbers.remove(0);
            Ok((row, numbers))
        })
    }

    /// A snapshot whose folder has been made.
    pub(super) fn load(&self, connection: &Connection, key: &SnapshotKey) -> Result<Row, Error> {
        let missing = || not_found(NodeKind::Snapshot, key, self.view.namespace());
        let namespace =
            node::namespace_id(connection, self.view.namespace())?.ok_or_else(missing)?;
        let id = node::find_live(connection, self.node_key(namespace, key))?.ok_or_else(missing)?;
        let row = load_by_id(connection, id)?.ok_or_else(missing)?;
        if row.is_ready {
            Ok(row)
        } else {
            Err(missing())
        }
    }

    pub(super) fn node_key<'k>(&'k self, namespace: i64, key: &'k SnapshotKey) -> NodeKey<'k> {
        NodeKey {
            namespace,
            kind: NodeKind::Snapshot,
            scope: self.snapshotter.as_str(),
            key: key.as_str(),
        }
    }
}

pub(super) fn load_by_id(connection: &Connection, id: i64) -> Result<Option<Row>, Error> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE snapshot.id = ?1"))
        .and_then(|mut select| {
            let found = select.query_row([id], |found| {
                Ok(Columns::new("snapshots", found).and_then(|columns| row(&columns)))
            });
            found.optional()
        })
        .map_err(Error::database("read a snapshot"))?
        .transpose()
}

pub(super) fn row(columns: &Columns<'_, '_>) -> Result<Row, Error> {
    let kind = match columns.value::<u8>(4)? {
        1 => Kind::View,
        2 => Kind::Active,
        3 => Kind::Committed,
        other => return Err(columns.damaged(format!("kind {other} is not known"))),
    };
    let parent: Option<String> = columns.value(3)?;
    let bytes: Option<i64> = columns.value(8)?;
    let usage = match bytes {
        Some(_) => Some(Usage {
            bytes: columns.size(8)?,
            inodes: columns.size(9)?,
        }),
        None => None,
    };
    Ok(Row {
        id: columns.value(1)?,
        snapshotter: columns.parsed(2)?,
        is_ready: columns.value::<u8>(5)? == 1,
        snapshot: Snapshot {
            key: columns.parsed(0)?,
            parent: parent.map(|_| columns.parsed(3)).transpose()?,
            kind,
            labels: columns.json(7)?,
            number: SnapshotNumber::new(columns.size(6)?),
            usage,
            created_at: columns.time(10)?,
            updated_at: columns.time(11)?,
        },
    })
}

/// The numbers of a snapshot and its parents, nearest first.
pub(super) fn chain(connection: &Connection, id: i64) -> Result<Vec<SnapshotNumber>, Error> {
    let failed = Error::database("read a snapshot's parents");
    let mut select = connection
        .prepare_cached("SELECT number, parent FROM snapshots WHERE id = ?1")
        .map_err(failed)?;
    let damaged = |reason: &str| Error::Corrupt {
        table: "snapshots",
        subject: id.to_string(),
        reason: reason.to_owned(),
    };
    let mut numbers = Vec::new();
    let mut next = Some(id);
    while let Some(current) = next {
        let (number, parent): (i64, Option<i64>) = select
            .query_row([current], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(failed)?
            .ok_or_else(|| damaged("a parent has no row"))?;
        let number = u64::try_from(number).map_err(|_| damaged("a number is negative"))?;
        numbers.push(SnapshotNumber::new(number));
        if numbers.len() > CHAIN_MAX {
            return Err(damaged("its parents form a circle"));
        }
        next = parent;
    }
    Ok(numbers)
}

pub(super) fn has_children(tx: &Tx<'_>, id: i64) -> Result<bool, Error> {
    tx.prepare_cached("SELECT 1 FROM snapshots WHERE parent = ?1")
        .and_then(|mut select| select.exists([id]))
        .map_err(Error::database("look for children of a snapshot"))
}

/// Removes a snapshot's row and node, and queues its folder if no other row shares it. Children must be gone before.
pub(crate) fn remove_row(
    tx: &Tx<'_>,
    id: i64,
    snapshotter: &SnapshotterName,
    snapshot: &Snapshot,
) -> Result<(), Error> {
    delete(tx, id)?;
    let number = i64::try_from(snapshot.number.value()).unwrap_or(i64::MAX);
    let bytes = snapshot.usage.map_or(0, |usage| usage.bytes);
    sweep::enqueue_snapshot(tx, snapshotter.as_str(), number, bytes)
}

/// Removes a snapshot's row and node, and leaves its folder.
pub(super) fn delete(tx: &Tx<'_>, id: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM snapshots WHERE id = ?1")
        .and_then(|mut delete| delete.execute([id]))
        .map_err(Error::database("remove a snapshot"))?;
    node::retire(tx, id)
}

/// How a snapshot is kept by itself after its labels changed: what it was given for want of a lease stays.
pub(super) fn kept_after_update(tx: &Tx<'_>, id: i64, labelled: Kept) -> Result<Kept, Error> {
    if labelled.root {
        return Ok(labelled);
    }
    let expires_at: Option<i64> = tx
        .prepare_cached("SELECT expires_at FROM nodes WHERE id = ?1")
        .and_then(|mut select| select.query_row([id], |row| row.get(0)))
        .map_err(Error::database("read a snapshot"))?;
    Ok(Kept {
        root: expires_at.is_some(),
        flat: false,
        expires_at,
    })
}

/// The next number of a counter; never given twice.
pub(crate) fn next_number(tx: &Tx<'_>, counter: &str) -> Result<i64, Error> {
    tx.prepare_cached("UPDATE counters SET value = value + 1 WHERE name = ?1 RETURNING value")
        .and_then(|mut update| update.query_row([counter], |row| row.get(0)))
        .map_err(Error::database("assign a number"))
}

/// Turns the rows of interrupted preparations into entries of the sweep queue. Nobody else may be writing.
pub(crate) fn recover(tx: &Tx<'_>) -> Result<usize, Error> {
    let failed = Error::database("look for interrupted preparations");
    let mut select = tx
        .prepare(&format!("{SELECT} WHERE snapshot.state = 0"))
        .map_err(failed)?;
    let mut found = Vec::new();
    let mut rows = select.query(params![]).map_err(failed)?;
    while let Some(next) = rows.next().map_err(failed)? {
        found.push(row(&Columns::new("snapshots", next)?)?);
    }
    for row in &found {
        remove_row(tx, row.id, &row.snapshotter, &row.snapshot)?;
    }
    Ok(found.len())
}

//! References against the labels and fields they were made from.

use std::collections::BTreeSet;

use orlop_types::Labels;
use rusqlite::{Connection, params};

use super::{Check, Outcome, Run};
use crate::node::{self, EdgeKind, NodeKey, NodeKind};
use crate::{Db, Error};

const FAILED: &str = "compare references";

/// How many records are read in one transaction.
const PAGE_ROWS: i64 = 1000;

/// Tables of records with labels that name others.
const LABELLED: [&str; 5] = ["content", "snapshots", "images", "containers", "sandboxes"];

/// Records whose field names something without a reference to it: the record's id, its namespace, and the scope and
/// key of what is named.
const FIELDS: [(NodeKind, &str); 3] = [
    (
        NodeKind::Content,
        "SELECT record.id, node.namespace, '', record.digest FROM images AS record
            CROSS JOIN nodes AS node ON node.id = record.id
         WHERE NOT EXISTS (SELECT 1 FROM refs CROSS JOIN nodes AS target ON target.id = refs.target
            WHERE refs.owner = record.id AND refs.kind = 1 AND target.kind = 1 AND target.key = record.digest)",
    ),
    (
        NodeKind::Snapshot,
        "SELECT record.id, node.namespace, parent.scope, parent.key FROM snapshots AS record
            CROSS JOIN nodes AS node ON node.id = record.id
            CROSS JOIN nodes AS parent ON parent.id = record.parent
         WHERE NOT EXISTS (SELECT 1 FROM refs
            WHERE refs.owner = record.id AND refs.kind = 1 AND refs.target = record.parent)",
    ),
    (
        NodeKind::Snapshot,
        "SELECT record.id, node.namespace, record.snapshotter, record.snapshot_key FROM containers AS record
            CROSS JOIN nodes AS node ON node.id = record.id
         WHERE record.snapshot_key <> '' AND NOT EXISTS (
            SELECT 1 FROM refs CROSS JOIN nodes AS target ON target.id = refs.target
            WHERE refs.owner = record.id AND refs.kind = 1 AND target.kind = 2
                AND target.scope = record.snapshotter AND target.key = record.snapshot_key)",
    ),
];

/// Direction, kind, scope and key of the other end, and the label.
type Edge = (bool, u8, String, String, String);

struct Record {
    id: i64,
    namespace: i64,
    key: String,
    labels: Labels,
}

impl Run<'_> {
    /// What labels name is referred to, and nothing else.
    pub(super) fn label_references(&mut self) -> Result<(), Error> {
        for table in LABELLED {
            let mut after = 0;
            loop {
                let (odd, last) = page(self.db, table, after)?;
                for (id, key) in odd {
                    let detail =
                        format!("the references of {table} {key:?} are not what its labels say");
                    self.found(Check::References, (key, detail), |db| {
                        relabel(db, table, id)
                    });
                }
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// What fields name is referred to.
    pub(super) fn field_references(&mut self) -> Result<(), Error> {
        for (kind, sql) in FIELDS {
            for (id, namespace, scope, key) in
                self.db.read(FAILED, |connection| fields(connection, sql))?
            {
                let detail = format!("record {id} names it without a reference");
                self.found(Check::References, (key.clone(), detail), |db| {
                    let target = NodeKey {
                        namespace,
                        kind,
                        scope: &scope,
                        key: &key,
                    };
                    db.write("mend a reference", |tx| {
                        let target = node::intern(tx, target)?;
                        node::link(tx, (id, target, id), EdgeKind::Field, None)
                    })?;
                    Ok(Outcome::Repaired("the reference was made"))
                });
            }
        }
        Ok(())
    }
}

fn fields(connection: &Connection, sql: &str) -> Result<Vec<(i64, i64, String, String)>, Error> {
    connection
        .prepare(sql)
        .and_then(|mut select| {
            let rows = select.query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
            rows.collect()
        })
        .map_err(Error::database(FAILED))
}

/// The records of one page that are not in order, by id and key, and where the next page begins.
type Page = (Vec<(i64, String)>, Option<i64>);

fn page(db: &Db, table: &'static str, after: i64) -> Result<Page, Error> {
    db.read(FAILED, |connection| {
        let records = records(connection, table, (after, PAGE_ROWS))?;
        let mut odd = Vec::new();
        for record in &records {
            if expected(&record.labels) != actual(connection, record.id)? {
                odd.push((record.id, record.key.clone()));
            }
        }
        Ok((odd, records.last().map(|record| record.id)))
    })
}

fn records(
    connection: &Connection,
    table: &'static str,
    (after, limit): (i64, i64),
) -> Result<Vec<Record>, Error> {
    let failed = Error::database(FAILED);
    let sql = format!(
        "SELECT record.id, node.namespace, node.key, record.labels FROM {table} AS record
            CROSS JOIN nodes AS node ON node.id = record.id
         WHERE record.id > ?1 ORDER BY record.id LIMIT ?2"
    );
    let mut select = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = select.query(params![after, limit]).map_err(failed)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let key: String = row.get(2).map_err(failed)?;
        let text: String = row.get(3).map_err(failed)?;
        records.push(Record {
            id: row.get(0).map_err(failed)?,
            namespace: row.get(1).map_err(failed)?,
            labels: serde_json::from_str(&text).map_err(|error| Error::Corrupt {
                table,
                subject: key.clone(),
                reason: error.to_string(),
            })?,
            key,
        });
    }
    Ok(records)
}

fn expected(labels: &Labels) -> BTreeSet<Edge> {
    node::named(labels)
        .map(|named| {
            let (scope, key) = (named.scope.to_owned(), named.value.to_owned());
            (
                named.back,
                named.kind as u8,
                scope,
                key,
                named.label.to_owned(),
            )
        })
        .collect()
}

fn actual(connection: &Connection, owner: i64) -> Result<BTreeSet<Edge>, Error> {
    connection
        .prepare_cached(
            "SELECT refs.kind = 3, other.kind, other.scope, other.key, coalesce(refs.via, '') FROM refs
                CROSS JOIN nodes AS other ON other.id = iif(refs.kind = 3, refs.source, refs.target)
             WHERE refs.owner = ?1 AND refs.kind IN (2, 3)",
        )
        .and_then(|mut select| {
            let edges = select.query_map([owner], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })?;
            edges.collect()
        })
        .map_err(Error::database(FAILED))
}

/// Rewrites a record's references from the labels it has now.
fn relabel(db: &Db, table: &'static str, id: i64) -> Result<Outcome, Error> {
    db.write("mend references", |tx| {
        let record = records(tx, table, (id - 1, 1))?;
        let Some(record) = record.first().filter(|record| record.id == id) else {
            return Ok(Outcome::Repaired("its record is gone by now"));
        };
        node::relabel(tx, (id, record.namespace), &record.labels, None)?;
        Ok(Outcome::Repaired("they were made anew from its labels"))
    })
}

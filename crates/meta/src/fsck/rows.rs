//! The database with itself: SQLite's own check, half records, broken references.

use rusqlite::Connection;

use super::{Check, Outcome, Run};
use crate::{Db, Error, node};

const FAILED: &str = "check the database";

/// Tables of records, by the kind of their nodes.
const TABLES: [(u8, &str); 8] = [
    (1, "content"),
    (2, "snapshots"),
    (3, "containers"),
    (4, "images"),
    (5, "leases"),
    (6, "ingests"),
    (7, "sandboxes"),
    (8, "mounts"),
];

impl Run<'_> {
    /// SQLite finds the file whole.
    pub(super) fn database(&mut self) -> Result<(), Error> {
        let faults = texts(self.db, "PRAGMA quick_check(20)")?;
        for fault in faults.into_iter().filter(|fault| fault != "ok") {
            let subject = self.db.path().display().to_string();
            let left =
                Outcome::Left("stop the daemon and restore a backup of the database".to_owned());
            self.found(Check::DatabaseDamaged, (subject, fault), |_| Ok(left));
        }
        Ok(())
    }

    /// Every live node has its record and every record its live node; references are between nodes.
    pub(super) fn records(&mut self) -> Result<(), Error> {
        for (kind, table) in TABLES {
            let sql = format!(
                "SELECT id FROM nodes WHERE kind = {kind} AND live = 1 AND id NOT IN (SELECT id FROM {table})"
            );
            for id in ids(self.db, &sql)? {
                let detail = format!("a node without its row in {table}");
                self.found(Check::HalfRecord, (format!("node {id}"), detail), |db| {
                    db.write("mend a node", |tx| node::retire(tx, id))?;
                    Ok(Outcome::Repaired("the node was removed"))
                });
            }
            let sql = format!(
                "SELECT id FROM {table} WHERE id NOT IN (SELECT id FROM nodes WHERE kind = {kind} AND live = 1)"
            );
            for id in ids(self.db, &sql)? {
                let detail = format!("a row in {table} whose node is not there or not live");
                let left = Outcome::Left("restore a backup of the database".to_owned());
                self.found(Check::HalfRecord, (format!("{table} {id}"), detail), |_| {
                    Ok(left)
                });
            }
        }
        self.references()
    }

    fn references(&mut self) -> Result<(), Error> {
        let missing = "NOT IN (SELECT id FROM nodes)";
        let sql = format!(
            "SELECT id FROM refs WHERE source {missing} OR target {missing} OR owner {missing}"
        );
        for id in ids(self.db, &sql)? {
            let detail = "its source, target or owner does not exist".to_owned();
            self.found(
                Check::BrokenReference,
                (format!("reference {id}"), detail),
                |db| {
                    delete(db, "DELETE FROM refs WHERE id = ?1", id)?;
                    Ok(Outcome::Repaired("it was removed"))
                },
            );
        }
        let sql = "SELECT id FROM nodes WHERE live = 0 AND id NOT IN (SELECT source FROM refs)
            AND id NOT IN (SELECT target FROM refs) AND id NOT IN (SELECT parent FROM snapshots WHERE parent IS NOT NULL)";
        for id in ids(self.db, sql)? {
            let detail = "it has no record and nothing names it".to_owned();
            self.found(Check::UnnamedNode, (format!("node {id}"), detail), |db| {
                let sql = "DELETE FROM nodes WHERE id = ?1 AND live = 0 AND id NOT IN (SELECT source FROM refs)
                    AND id NOT IN (SELECT target FROM refs)";
                delete(db, sql, id)?;
                Ok(Outcome::Repaired("it was removed"))
            });
        }
        Ok(())
    }
}

fn delete(db: &Db, sql: &str, id: i64) -> Result<usize, Error> {
    db.write("mend a reference", |tx| {
        tx.execute(sql, [id])
            .map_err(Error::database("mend a reference"))
    })
}

fn ids(db: &Db, sql: &str) -> Result<Vec<i64>, Error> {
    db.read(FAILED, |connection| column(connection, sql))
}

fn texts(db: &Db, sql: &str) -> Result<Vec<String>, Error> {
    db.read(FAILED, |connection| column(connection, sql))
}

fn column<T: rusqlite::types::FromSql>(
    connection: &Connection,
    sql: &str,
) -> Result<Vec<T>, Error> {
    connection
        .prepare(sql)
        .and_then(|mut select| select.query_map([], |row| row.get(0))?.collect())
        .map_err(Error::database(FAILED))
}

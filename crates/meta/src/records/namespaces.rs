//! Namespaces: the tenants every record belongs to.

use orlop_types::{Labels, Namespace};
use rusqlite::{OptionalExtension, params};

use super::{Columns, to_json};
use crate::db::Tx;
use crate::{Db, Error, Event, mask, node};

const KIND: &str = "namespace";

/// A namespace and its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRecord {
    /// Its name.
    pub name: Namespace,
    /// Its labels, such as containerd's defaults for the namespace.
    pub labels: Labels,
}

/// The namespaces of a database.
#[derive(Debug)]
pub struct Namespaces<'a> {
    db: &'a Db,
}

impl<'a> Namespaces<'a> {
    pub(crate) const fn new(db: &'a Db) -> Self {
        Self { db }
    }

    /// Creates a namespace. Not needed before the first record: that creates it too.
    ///
    /// # Errors
    /// `AlreadyExists`, `Database`.
    pub fn create(&self, record: &NamespaceRecord) -> Result<(), Error> {
        let NamespaceRecord { name, labels } = record;
        self.db.write("create a namespace", |tx| {
            if node::namespace_id(tx, name)?.is_some() {
                return Err(exists(name));
            }
            tx.execute(
                "INSERT INTO namespaces (name, labels) VALUES (?1, ?2)",
                params![name.as_str(), to_json(labels)],
            )
            .map_err(Error::database("create a namespace"))?;
            let (name, labels) = (name.clone(), labels.clone());
            let event = Event::NamespaceCreate {
                name: name.clone(),
                labels,
            };
            tx.append(&name, &event).map(drop)
        })
    }

    /// One namespace.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn find(&self, name: &Namespace) -> Result<NamespaceRecord, Error> {
        self.db
            .read("read a namespace", |connection| load(connection, name))
    }

    /// All namespaces, by name.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub fn list(&self) -> Result<Vec<NamespaceRecord>, Error> {
        let failed = Error::database("list namespaces");
        self.db.read("list namespaces", |connection| {
            let mut statement = connection
                .prepare_cached("SELECT name, labels FROM namespaces ORDER BY name")
                .map_err(failed)?;
            let mut rows = statement.query([]).map_err(failed)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next().map_err(failed)? {
                found.push(record(row)?);
            }
            Ok(found)
        })
    }

    /// Changes labels: those that `fields` names (`labels`, `labels.KEY`), or without any all of them. As with other
    /// records, a namespace that does not exist is made by being used.
    ///
    /// # Errors
    /// `InvalidArgument` for another field, `Database`.
    pub fn update(
        &self,
        name: &Namespace,
        labels: &Labels,
        fields: &[String],
    ) -> Result<NamespaceRecord, Error> {
        self.db.write("update a namespace", |tx| {
            node::ensure_namespace(tx, name)?;
            let mut record = load(tx, name)?;
            if fields.is_empty() {
                record.labels.clone_from(labels);
            }
            for path in fields {
                if !mask::labels(path, &mut record.labels, labels)? {
                    return Err(mask::refused("update namespace", name, path));
                }
            }
            tx.execute(
                "UPDATE namespaces SET labels = ?2 WHERE name = ?1",
                params![name.as_str(), to_json(&record.labels)],
            )
            .map_err(Error::database("update a namespace"))?;
            let event = Event::NamespaceUpdate {
                name: name.clone(),
                labels: record.labels.clone(),
            };
            tx.append(name, &event)?;
            Ok(record)
        })
    }

    /// Removes an empty namespace. Its leases and ingests do not count, and go with it.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` naming what is still in it, `Database`.
    pub fn delete(&self, name: &Namespace) -> Result<(), Error> {
        self.db.write("remove a namespace", |tx| {
            let id = node::namespace_id(tx, name)?.ok_or_else(|| missing(name))?;
            let remaining = remaining(tx, id)?;
            if !remaining.is_empty() {
                return Err(Error::FailedPrecondition {
                    operation: "remove namespace",
                    subject: name.to_string(),
                    reason: format!("it still has {}", remaining.join(", ")),
                });
            }
            empty(tx, id)?;
            tx.execute("DELETE FROM namespaces WHERE id = ?1", [id])
                .map_err(Error::database("remove a namespace"))?;
            tx.note_deletion();
            let event = Event::NamespaceDelete { name: name.clone() };
            tx.append(name, &event).map(drop)
        })
    }
}

/// Removes what goes with a namespace: ingests and leases, and names that only they mentioned.
fn empty(tx: &Tx<'_>, id: i64) -> Result<(), Error> {
    let failed = Error::database("empty a namespace");
    for kind in [node::NodeKind::Ingest, node::NodeKind::Lease] {
        let mut select = tx
            .prepare_cached("SELECT id FROM nodes WHERE namespace = ?1 AND kind = ?2 AND live = 1")
            .map_err(failed)?;
        let nodes = select
            .query_map(params![id, kind as u8], |row| row.get(0))
            .and_then(Iterator::collect::<Result<Vec<i64>, _>>)
            .map_err(failed)?;
        for node in nodes {
            if kind == node::NodeKind::Lease {
                super::leases::remove(tx, node)?;
            } else {
                crate::content::ingest::collect_by_id(tx, id, node)?;
            }
        }
    }
    tx.execute("DELETE FROM nodes WHERE namespace = ?1", [id])
        .map_err(failed)?;
    Ok(())
}

/// The kinds of records that keep a namespace from being removed, with their counts.
fn remaining(tx: &Tx<'_>, id: i64) -> Result<Vec<String>, Error> {
    use node::NodeKind::{Container, Content, Image, Mount, Sandbox, Snapshot};
    let failed = Error::database("look into a namespace");
    let mut found = Vec::new();
    for kind in [Image, Content, Container, Snapshot, Sandbox, Mount] {
        let count: i64 = tx
            .prepare_cached(
                "SELECT count(*) FROM nodes WHERE namespace = ?1 AND kind = ?2 AND live = 1",
            )
            .and_then(|mut select| select.query_row(params![id, kind as u8], |row| row.get(0)))
            .map_err(failed)?;
        if count > 0 {
            found.push(format!("{count} {}", kind.as_str()));
        }
    }
    let tasks: i64 = tx
        .query_row(
            "SELECT count(*) FROM tasks WHERE namespace = ?1",
            [id],
            |row| row.get(0),
        )
        .map_err(failed)?;
    if tasks > 0 {
        found.push(format!("{tasks} task"));
    }
    Ok(found)
}

fn load(connection: &rusqlite::Connection, name: &Namespace) -> Result<NamespaceRecord, Error> {
    connection
        .prepare_cached("SELECT name, labels FROM namespaces WHERE name = ?1")
        .and_then(|mut select| {
            let found = select.query_row([name.as_str()], |row| Ok(record(row)));
            found.optional()
        })
        .map_err(Error::database("read a namespace"))?
        .unwrap_or_else(|| Err(missing(name)))
}

fn record(row: &rusqlite::Row<'_>) -> Result<NamespaceRecord, Error> {
    let columns = Columns::new("namespaces", row)?;
    Ok(NamespaceRecord {
        name: columns.parsed(0)?,
        labels: columns.json(1)?,
    })
}

fn missing(name: &Namespace) -> Error {
    Error::NotFound {
        kind: KIND,
        key: name.to_string(),
        namespace: name.to_string(),
    }
}

fn exists(name: &Namespace) -> Error {
    Error::AlreadyExists {
        kind: KIND,
        key: name.to_string(),
        namespace: name.to_string(),
    }
}

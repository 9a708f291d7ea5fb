//! Committing snapshots: first the files, then the row.

use orlop_snapshot::{Kind, Usage};
use orlop_types::{Labels, SnapshotKey};
use rusqlite::params;

use super::Snapshots;
use super::rows::{self, Row};
use crate::db::Tx;
use crate::node::{self, EdgeKind, NodeKind, already_exists};
use crate::records::{to_json, without_empty};
use crate::{Error, Event};

/// How a snapshot is to be committed.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Puts a snapshot that has no parent on top of this one, for layers that were unpacked side by side.
    pub parent: Option<SnapshotKey>,
    /// The labels of the committed snapshot; those of the active one do not stay.
    pub labels: Labels,
}

impl Snapshots<'_> {
    /// Makes the active snapshot `key` immutable, under `name`. Its mounts are the same for ever.
    ///
    /// # Errors
    /// `AlreadyExists` for the name, which then is bound to the lease, while `key` stays; `NotFound` for key, parent or
    /// lease; `FailedPrecondition` unless the snapshot is active and the parent fits; `NoBackend`, `Snapshot`, `Database`.
    pub fn commit(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        options: &CommitOptions,
    ) -> Result<(), Error> {
        let backend = self.backend()?;
        let row = self
            .view
            .db()
            .read("read a snapshot", |connection| self.load(connection, key))?;
        check(key, &row, options)?;
        if self.is_taken(name)? {
            return Err(already_exists(
                NodeKind::Snapshot,
                name,
                self.view.namespace(),
            ));
        }
        let usage = backend
            .commit(row.snapshot.number)
            .map_err(self.failed("commit", key))?;
        let is_new = self.view.db().write("commit a snapshot", |tx| {
            self.rename(tx, (name, key), options, usage)
        })?;
        if is_new {
            return Ok(());
        }
        Err(already_exists(
            NodeKind::Snapshot,
            name,
            self.view.namespace(),
        ))
    }

    /// Whether a snapshot of this name exists; then it is bound to the lease.
    fn is_taken(&self, name: &SnapshotKey) -> Result<bool, Error> {
        match self.look(name) {
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(other) => return Err(other),
            Ok(_) => {}
        }
        if self.view.lease().is_none() {
            return Ok(true);
        }
        self.view.db().write("lease a snapshot", |tx| {
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            let existing = node::find_live(tx, self.node_key(namespace, name))?;
            if let Some(existing) = existing {
                self.view.bind(tx, namespace, existing)?;
            }
            Ok(existing.is_some())
        })
    }

    /// Moves the row from `key` to `name`. False if the name was taken meanwhile.
    fn rename(
        &self,
        tx: &Tx<'_>,
        (name, key): (&SnapshotKey, &SnapshotKey),
        options: &CommitOptions,
        usage: Usage,
    ) -> Result<bool, Error> {
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        let active = self.load(tx, key)?;
        check(key, &active, options)?;
        let parent = match active.snapshot.parent.as_ref().or(options.parent.as_ref()) {
            Some(parent) => Some(self.committed(tx, parent)?),
            None => None,
        };
        let labels = without_empty(&options.labels);
        let kept = self.kept(tx, name, &labels);
        let Some(id) = node::enliven(tx, self.node_key(namespace, name), kept)? else {
            let existing = node::intern(tx, self.node_key(namespace, name))?;
            self.view.bind(tx, namespace, existing)?;
            return Ok(false);
        };
        tx.renaming(|| {
            self.view.unbind(tx, namespace, active.id)?;
            rows::delete(tx, active.id)
        })?;
        tx.prepare_cached("INSERT INTO snapshots VALUES (?1, ?2, ?3, 3, 1, ?4, ?5, ?6, ?7, ?7)")
            .and_then(|mut insert| {
                insert.execute(params![
                    id,
                    i64::try_from(active.snapshot.number.value()).unwrap_or(i64::MAX),
                    parent,
                    to_json(&labels),
                    i64::try_from(usage.bytes).unwrap_or(i64::MAX),
                    i64::try_from(usage.inodes).unwrap_or(i64::MAX),
                    tx.now
                ])
            })
            .map_err(Error::database("commit a snapshot"))?;
        if let Some(parent) = parent {
            node::link(tx, (id, parent, id), EdgeKind::Field, None)?;
        }
        node::relabel(tx, (id, namespace), &labels, None)?;
        self.view.bind(tx, namespace, id)?;
        let event = Event::SnapshotCommit {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            name: name.clone(),
        };
        tx.append(self.view.namespace(), &event)?;
        Ok(true)
    }
}

fn check(key: &SnapshotKey, row: &Row, options: &CommitOptions) -> Result<(), Error> {
    let refuse = |reason: String| {
        Err(Error::FailedPrecondition {
            operation: "commit snapshot",
            subject: key.to_string(),
            reason,
        })
    };
    if row.snapshot.kind != Kind::Active {
        return refuse(format!("it is {}", row.snapshot.kind));
    }
    match (&row.snapshot.parent, &options.parent) {
        (Some(present), Some(asked)) if present != asked => {
            refuse(format!("it is on top of {present:?} already"))
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

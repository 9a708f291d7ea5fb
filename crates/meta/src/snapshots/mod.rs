//! A namespace's view of snapshots: keys, parents, labels; the files belong to a backend, under numbers.
//!
//! **Crash.** A row in state *preparing* names the folder before the backend makes it; opening the database turns what
//! is left of such rows into entries of the sweep queue. A commit syncs the files before the row says *committed*;
//! repeated after a crash, it does no harm. A row is gone before its folder. **Ordering.** Calls for one key are
//! serialised by the database; numbers are never used twice. **Cancellation.** None.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use orlop_snapshot::{ApplyTarget, Cleaned, Kind, SnapshotNumber, Snapshotter, Usage};
use orlop_types::filter::{Fields, label_field};
use orlop_types::{Labels, Mount, SnapshotKey, SnapshotterName};
use rusqlite::params;

use crate::db::Tx;
use crate::node::NodeKind;
use crate::records::{filters, to_json, without_empty};
use crate::time::from_nanos;
use crate::{Error, Event, View, mask, node};

mod commit;
mod prepare;
mod rows;

pub use commit::CommitOptions;
pub use prepare::SnapshotOptions;
use rows::{Row, SELECT};
pub(crate) use rows::{next_number, recover, remove_row};

/// The label by which a client says what a snapshot it prepares will be committed as.
const TARGET_LABEL: &str = "containerd.io/snapshot.ref";

/// A snapshot as a namespace sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its key, or name once it is committed.
    pub key: SnapshotKey,
    /// What it is on top of.
    pub parent: Option<SnapshotKey>,
    /// What it is for.
    pub kind: Kind,
    /// Its labels.
    pub labels: Labels,
    /// Its folder; several namespaces may share that of a committed one.
    pub number: SnapshotNumber,
    /// What it takes on disk, where that is recorded: a committed one does not change.
    pub usage: Option<Usage>,
    /// Set by the database.
    pub created_at: SystemTime,
    /// Set by the database.
    pub updated_at: SystemTime,
}

impl Fields for Snapshot {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path[0].as_str() {
            "kind" => Some(Cow::Borrowed(match self.kind {
                Kind::View => "view",
                Kind::Active => "active",
                Kind::Committed => "committed",
            })),
            "name" => Some(Cow::Borrowed(self.key.as_str())),
            // As in containerd, no parent is an empty one and still present.
            "parent" => Some(Cow::Borrowed(
                self.parent.as_ref().map_or("", SnapshotKey::as_str),
            )),
            "labels" => label_field(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// The snapshots of a namespace on one snapshotter.
#[derive(Debug)]
pub struct Snapshots<'a> {
    view: &'a View,
    snapshotter: SnapshotterName,
}

impl<'a> Snapshots<'a> {
    pub(crate) const fn new(view: &'a View, snapshotter: SnapshotterName) -> Self {
        Self { view, snapshotter }
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn stat(&self, key: &SnapshotKey) -> Result<Snapshot, Error> {
        Ok(self.look(key)?.snapshot)
    }

    /// The mounts that show a snapshot.
    ///
    /// # Errors
    /// `NotFound`, `NoBackend`, `Snapshot`, `Database`.
    pub fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>, Error> {
        let (row, parents) = self.look_with_parents(key)?;
        let Snapshot { number, kind, .. } = row.snapshot;
        self.backend()?
            .mounts(number, kind, &parents)
            .map_err(self.failed("mount", key))
    }

    /// Where to write a layer into an active snapshot without mounting it.
    ///
    /// # Errors
    /// `NotFound`, `NoBackend`, `Snapshot`, `Database`.
    pub fn apply_target(&self, key: &SnapshotKey) -> Result<ApplyTarget, Error> {
        let (row, parents) = self.look_with_parents(key)?;
        self.backend()?
            .apply_target(row.snapshot.number, &parents)
            .map_err(self.failed("write into", key))
    }

    /// What a snapshot takes on disk, without its parents. Counted now unless it is committed.
    ///
    /// # Errors
    /// `NotFound`, `NoBackend`, `Snapshot`, `Database`.
    pub fn usage(&self, key: &SnapshotKey) -> Result<Usage, Error> {
        let snapshot = self.stat(key)?;
        match snapshot.usage {
            Some(usage) if snapshot.kind == Kind::Committed => Ok(usage),
            Some(_) | None => self
                .backend()?
                .usage(snapshot.number)
                .map_err(self.failed("measure", key)),
        }
    }

    /// The snapshots that any of `filters` keeps, by key.
    ///
    /// # Errors
    /// `Filter`, `Database`, `Corrupt`.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Snapshot>, Error> {
        let filters = self::filters("snapshot", filters)?;
        let mut snapshots = Vec::new();
        let sql = format!("{SELECT} WHERE node.namespace = ?1 ORDER BY snapshot.id");
        self.view.each_row("snapshots", &sql, |columns| {
            let row = rows::row(columns)?;
            let is_ours = row.is_ready && row.snapshotter == self.snapshotter;
            if is_ours && filters.matches(&row.snapshot) {
                snapshots.push(row.snapshot);
            }
            Ok(())
        })?;
        snapshots.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(snapshots)
    }

    /// Changes labels: those that `fields` names (`labels`, `labels.KEY`), or without any all of them.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for another field, `Database`.
    pub fn update(
        &self,
        key: &SnapshotKey,
        labels: &Labels,
        fields: &[String],
    ) -> Result<Snapshot, Error> {
        self.view.db().write("update a snapshot", |tx| {
            let Row {
                id, mut snapshot, ..
            } = self.load(tx, key)?;
            if fields.is_empty() {
                snapshot.labels.clone_from(labels);
            }
            for path in fields {
                if !mask::labels(path, &mut snapshot.labels, labels)? {
                    return Err(mask::refused("update snapshot", key, path));
                }
            }
            snapshot.labels = without_empty(&snapshot.labels);
            snapshot.updated_at = from_nanos(tx.now);
            tx.prepare_cached("UPDATE snapshots SET labels = ?2, updated_at = ?3 WHERE id = ?1")
                .and_then(|mut update| {
                    update.execute(params![id, to_json(&snapshot.labels), tx.now])
                })
                .map_err(Error::database("update a snapshot"))?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            let labelled = node::expiry(NodeKind::Snapshot, key.as_str(), &snapshot.labels);
            let kept = rows::kept_after_update(tx, id, labelled)?;
            node::relabel(tx, (id, namespace), &snapshot.labels, Some(kept))?;
            Ok(snapshot)
        })
    }

    /// Removes a snapshot's row. Its files go by the sweep.
    ///
    /// That a committed one is removed is on disk then. One that was never committed may be back after a power cut, whole
    /// and held by nothing: the sweep waits for the disk before it touches the files.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` while it has children, `Database`.
    pub fn remove(&self, key: &SnapshotKey) -> Result<(), Error> {
        const OPERATION: &str = "remove a snapshot";
        let remove = |tx: &Tx<'_>| self.remove_in(tx, key);
        match self.stat(key)?.kind {
            Kind::Committed => self.view.db().write(OPERATION, remove),
            Kind::Active | Kind::View => self.view.db().write_relaxed(OPERATION, remove),
        }
    }

    fn remove_in(&self, tx: &Tx<'_>, key: &SnapshotKey) -> Result<(), Error> {
        let row = self.load(tx, key)?;
        if rows::has_children(tx, row.id)? {
            return Err(Error::FailedPrecondition {
                operation: "remove snapshot",
                subject: key.to_string(),
                reason: "others are on top of it".to_owned(),
            });
        }
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        self.view.unbind(tx, namespace, row.id)?;
        remove_row(tx, row.id, &self.snapshotter, &row.snapshot)?;
        let event = Event::SnapshotRemove {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
        };
        tx.append(self.view.namespace(), &event).map(drop)
    }

    /// Deletes at most `folders_max` folders that removed snapshots left aside.
    ///
    /// # Errors
    /// `NoBackend`, `Snapshot`.
    pub fn cleanup(&self, folders_max: usize) -> Result<Cleaned, Error> {
        let cleaned = self.backend()?.cleanup(folders_max);
        cleaned.map_err(|source| Error::Snapshot {
            operation: "clean up after",
            key: self.snapshotter.to_string(),
            source: Arc::new(source),
        })
    }

    fn backend(&self) -> Result<&Arc<dyn Snapshotter>, Error> {
        let snapshotters = &self.view.db().backends().snapshotters;
        snapshotters
            .get(&self.snapshotter)
            .ok_or_else(|| Error::NoBackend {
                kind: "snapshotter",
                name: self.snapshotter.to_string(),
            })
    }

    fn failed(
        &self,
        operation: &'static str,
        key: &SnapshotKey,
    ) -> impl FnOnce(orlop_snapshot::Error) -> Error + use<> {
        let key = key.to_string();
        move |source| Error::Snapshot {
            operation,
            key,
            source: Arc::new(source),
        }
    }
}

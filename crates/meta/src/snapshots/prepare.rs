//! Making snapshots: writable ones and views.

use orlop_snapshot::{Kind, SnapshotNumber};
use orlop_types::{Labels, Mount, Namespace, SnapshotKey};
use rusqlite::params;

use super::rows::{self, chain, kind_number, load_by_id, next_number};
use super::{Snapshots, TARGET_LABEL};
use crate::db::Tx;
use crate::node::{self, EdgeKind, Kept, NodeKind, already_exists, not_found};
use crate::records::{to_json, without_empty};
use crate::{Error, Event};

/// How a snapshot is to be made.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// What it is on top of: a committed snapshot.
    pub parent: Option<SnapshotKey>,
    /// Its labels. `containerd.io/snapshot.ref` names what it will be committed as: if that is there already, also in
    /// another namespace, the call says `AlreadyExists` and this namespace sees it.
    pub labels: Labels,
}

/// What the first transaction of a preparation decided.
enum Begun {
    /// There is nothing to make; the key that exists is bound to the lease.
    Exists(SnapshotKey),
    /// The row is there, in state preparing.
    Preparing {
        id: i64,
        number: SnapshotNumber,
        parents: Vec<SnapshotNumber>,
    },
}

impl Snapshots<'_> {
    /// Makes a writable snapshot, bound to the view's lease or without one kept for a day. Returns its mounts.
    ///
    /// # Errors
    /// `AlreadyExists` for the key or the labelled target, which then is bound to the lease; `NotFound` for parent or
    /// lease; `FailedPrecondition` for a parent that is not committed; `NoBackend`, `Snapshot`, `Database`.
    pub fn prepare(
        &self,
        key: &SnapshotKey,
        options: &SnapshotOptions,
    ) -> Result<Vec<Mount>, Error> {
        self.make(key, Kind::Active, options)
    }

    /// Makes a read-only snapshot of the parent. Returns its mounts.
    ///
    /// # Errors
    /// As [`Snapshots::prepare`].
    pub fn view(&self, key: &SnapshotKey, options: &SnapshotOptions) -> Result<Vec<Mount>, Error> {
        self.make(key, Kind::View, options)
    }

    fn make(
        &self,
        key: &SnapshotKey,
        kind: Kind,
        options: &SnapshotOptions,
    ) -> Result<Vec<Mount>, Error> {
        let backend = self.backend()?;
        // A killed process keeps this row without an fsync; a power cut may take it, but then folder and files were
        // not synced either, and what is left of them has no row and goes. Whatever a client does next that must last
        // (a commit, a container's record) syncs the log and this row with it.
        let begun = self
            .view
            .db()
            .write_relaxed("begin a snapshot", |tx| self.begin(tx, key, kind, options))?;
        let (id, number, parents) = match begun {
            Begun::Exists(existing) => {
                // What the lease now holds must be on disk before the client relies on it.
                self.view.db().make_durable()?;
                let namespace = self.view.namespace();
                return Err(already_exists(NodeKind::Snapshot, existing, namespace));
            }
            Begun::Preparing {
                id,
                number,
                parents,
            } => (id, number, parents),
        };
        let made = match kind {
            Kind::View => backend.view(number, &parents),
            Kind::Active | Kind::Committed => backend.prepare(number, &parents),
        };
        let mounts = made.and_then(|()| backend.mounts(number, kind, &parents));
        let mounts = match mounts {
            Ok(mounts) => mounts,
            Err(error) => {
                self.undo(id);
                return Err(self.failed("prepare", key)(error));
            }
        };
        self.view.db().write_relaxed("finish a snapshot", |tx| {
            self.finish(tx, id, key, kind, options)
        })?;
        Ok(mounts)
    }

    fn begin(
        &self,
        tx: &Tx<'_>,
        key: &SnapshotKey,
        kind: Kind,
        options: &SnapshotOptions,
    ) -> Result<Begun, Error> {
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        let parent = match &options.parent {
            Some(parent) => Some(self.committed(tx, parent)?),
            None => None,
        };
        let parents = parent.map_or(Ok(Vec::new()), |parent| chain(tx, parent))?;
        if let Some(target) = self.existing_target(tx, namespace, options, &parents)? {
            return Ok(Begun::Exists(target));
        }
        let labels = without_empty(&options.labels);
        let kept = self.kept(tx, key, &labels);
        let Some(id) = node::enliven(tx, self.node_key(namespace, key), kept)? else {
            let existing = node::intern(tx, self.node_key(namespace, key))?;
            self.view.bind(tx, namespace, existing)?;
            return Ok(Begun::Exists(key.clone()));
        };
        let number = next_number(tx, "snapshot")?;
        tx.prepare_cached(
            "INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4, 0, ?5, NULL, NULL, ?6, ?6)",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                id,
                number,
                parent,
                kind_number(kind),
                to_json(&labels),
                tx.now
            ])
        })
        .map_err(Error::database("begin a snapshot"))?;
        if let Some(parent) = parent {
            node::link(tx, (id, parent, id), EdgeKind::Field, None)?;
        }
        node::relabel(tx, (id, namespace), &labels, None)?;
        self.view.bind(tx, namespace, id)?;
        let number = SnapshotNumber::new(u64::try_from(number).unwrap_or(0));
        Ok(Begun::Preparing {
            id,
            number,
            parents,
        })
    }

    /// How a new snapshot is kept: by a label, by the lease, or for want of both for a while.
    pub(super) fn kept(&self, tx: &Tx<'_>, key: &SnapshotKey, labels: &Labels) -> Kept {
        let labelled = node::expiry(NodeKind::Snapshot, key.as_str(), labels);
        if labelled.root {
            return labelled;
        }
        Kept::until_held(self.view.lease().is_some(), tx.now)
    }

    /// The node of a parent, which must be committed.
    pub(super) fn committed(&self, tx: &Tx<'_>, parent: &SnapshotKey) -> Result<i64, Error> {
        let row = self.load(tx, parent)?;
        if row.snapshot.kind == Kind::Committed {
            return Ok(row.id);
        }
        Err(Error::FailedPrecondition {
            operation: "use as parent",
            subject: parent.to_string(),
            reason: format!("it is {}", row.snapshot.kind),
        })
    }

    /// The labelled target if it is there, bound to the lease; taken over from another namespace if it is there.
    fn existing_target(
        &self,
        tx: &Tx<'_>,
        namespace: i64,
        options: &SnapshotOptions,
        parents: &[SnapshotNumber],
    ) -> Result<Option<SnapshotKey>, Error> {
        let Some(target) = options.labels.value(TARGET_LABEL) else {
            return Ok(None);
        };
        let target = SnapshotKey::new(target)
            .map_err(|error| Error::invalid("prepare snapshot", target, error.to_string()))?;
        if let Some(id) = node::find_live(tx, self.node_key(namespace, &target))? {
            self.view.bind(tx, namespace, id)?;
            return Ok(Some(target));
        }
        let Some(other) = node::live_elsewhere(tx, self.node_key(namespace, &target))? else {
            return Ok(None);
        };
        let theirs = load_by_id(tx, other)?
            .filter(|row| row.is_ready && row.snapshot.kind == Kind::Committed)
            .ok_or(());
        let Ok(theirs) = theirs else { return Ok(None) };
        // The same name on other parents is another snapshot.
        if chain(tx, other)?.get(1..).unwrap_or_default() != parents {
            return Ok(None);
        }
        self.share(tx, namespace, &target, (options, &theirs))?;
        Ok(Some(target))
    }

    /// Gives this namespace its own row for a folder that another namespace has.
    fn share(
        &self,
        tx: &Tx<'_>,
        namespace: i64,
        target: &SnapshotKey,
        (options, theirs): (&SnapshotOptions, &rows::Row),
    ) -> Result<(), Error> {
        let labels = without_empty(&options.labels);
        let kept = self.kept(tx, target, &labels);
        let id = node::enliven(tx, self.node_key(namespace, target), kept)?
            .ok_or_else(|| already_exists(NodeKind::Snapshot, target, self.view.namespace()))?;
        let parent = match &options.parent {
            Some(parent) => Some(self.committed(tx, parent)?),
            None => None,
        };
        let usage = theirs.snapshot.usage.unwrap_or_default();
        tx.prepare_cached("INSERT INTO snapshots VALUES (?1, ?2, ?3, 3, 1, ?4, ?5, ?6, ?7, ?7)")
            .and_then(|mut insert| {
                insert.execute(params![
                    id,
                    i64::try_from(theirs.snapshot.number.value()).unwrap_or(i64::MAX),
                    parent,
                    to_json(&labels),
                    i64::try_from(usage.bytes).unwrap_or(i64::MAX),
                    i64::try_from(usage.inodes).unwrap_or(i64::MAX),
                    tx.now
                ])
            })
            .map_err(Error::database("share a snapshot"))?;
        if let Some(parent) = parent {
            node::link(tx, (id, parent, id), EdgeKind::Field, None)?;
        }
        node::relabel(tx, (id, namespace), &labels, None)?;
        self.view.bind(tx, namespace, id)?;
        Ok(())
    }

    fn finish(
        &self,
        tx: &Tx<'_>,
        id: i64,
        key: &SnapshotKey,
        kind: Kind,
        options: &SnapshotOptions,
    ) -> Result<(), Error> {
        let changed = tx
            .prepare_cached("UPDATE snapshots SET state = 1 WHERE id = ?1")
            .and_then(|mut update| update.execute([id]))
            .map_err(Error::database("finish a snapshot"))?;
        if changed == 0 {
            return Err(not_found(NodeKind::Snapshot, key, self.view.namespace()));
        }
        if kind == Kind::View {
            // As in containerd, whose topic is for writable snapshots.
            return Ok(());
        }
        let namespace: &Namespace = self.view.namespace();
        let event = Event::SnapshotPrepare {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: options.parent.clone(),
        };
        tx.append(namespace, &event).map(drop)
    }

    /// Takes back a row whose folder could not be made; what there is of the folder is queued.
    fn undo(&self, id: i64) {
        let undone = self
            .view
            .db()
            .write("undo a snapshot", |tx| match load_by_id(tx, id)? {
                Some(row) => rows::remove_row(tx, id, &row.snapshotter, &row.snapshot),
                None => Ok(()),
            });
        if let Err(error) = undone {
            // The next start of the daemon takes it back.
            tracing::warn!(%error, "the row of a snapshot that could not be made stays");
        }
    }
}

//! Mounts made ahead: their records, and the store that makes them.
//!
//! **Crash.** The row is there before the first mount, and goes with an entry of the sweep queue, so whatever is mounted has
//! a row or an entry; [`recover`] takes back what was being made, rows whose mounts are gone (after a reboot all are), and
//! mounts that no row names. **Ordering.** What is told as made has been made whole. Nothing here waits for the disk: a
//! power cut takes the mounts with the rows. **Cancellation.** None: a call that began ends.

use std::borrow::Cow;
use std::time::SystemTime;

use orlop_mounts::{Active, Made, Plan, Store};
use orlop_types::filter::{Fields, label_field, text_field};
use orlop_types::{ActivationName, Labels, Mount};
use rusqlite::{Connection, OptionalExtension, params};

use crate::db::Tx;
use crate::node::{self, Kept, NodeKey, NodeKind, already_exists, not_found};
use crate::records::{Columns, filters, to_json, without_empty};
use crate::snapshots::next_number;
use crate::sweep::{self, SweepKind};
use crate::time::from_nanos;
use crate::{Db, Error, View, mask};

/// Mounts that were made ahead under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// Its name.
    pub name: ActivationName,
    /// Its labels.
    pub labels: Labels,
    /// What was made, in order.
    pub active: Vec<Active>,
    /// What the client is to make to get at the files.
    pub system: Vec<Mount>,
    /// Set by the database.
    pub created_at: SystemTime,
    /// Set by the database.
    pub updated_at: SystemTime,
}

impl Fields for Activation {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path[0].as_str() {
            "name" => text_field(self.name.as_str()),
            "labels" => label_field(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// Mounts that a client wants to get at.
#[derive(Debug, Clone, Default)]
pub struct WantedMounts {
    /// In this order.
    pub mounts: Vec<Mount>,
    /// Only to look: all of them are made, and the client binds the last.
    pub temporary: bool,
}

/// The activations of a namespace.
#[derive(Debug)]
pub struct Activations<'a> {
    view: &'a View,
}

/// A row, with what only this crate needs of it.
struct Row {
    id: i64,
    number: u64,
    is_ready: bool,
    activation: Activation,
}

const SELECT: &str = "SELECT node.key, mount.id, mount.number, mount.state, mount.active, mount.left_over, mount.labels,
    mount.created_at, mount.updated_at
    FROM mounts AS mount CROSS JOIN nodes AS node ON node.id = mount.id";

impl<'a> Activations<'a> {
    pub(crate) const fn new(view: &'a View) -> Self {
        Self { view }
    }

    /// Makes those of the mounts that need help, bound to the view's lease, or to what the labels say, or for want of both
    /// for a day. Nothing if none needs help.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` for the lease, `NoBackend`, `Mounts`, `Database`. Then nothing stays mounted.
    pub fn activate(
        &self,
        name: &ActivationName,
        wanted: WantedMounts,
        labels: &Labels,
    ) -> Result<Option<Activation>, Error> {
        let plan = Plan::new(wanted.mounts, wanted.temporary);
        let failed = || Error::mounts("activate", name.as_str());
        let Some(plan) = plan.map_err(failed())? else {
            return Ok(None);
        };
        let store = self.store()?;
        let db = self.view.db();
        let begin = |tx: &Tx<'_>| self.begin(tx, name, labels);
        let (id, number) = db.write_relaxed("begin an activation", begin)?;
        let made = store.make(number, &plan, db.clock().wall());
        let made = match made {
            Ok(made) => made,
            Err(source) => {
                self.take_back(store, id, number);
                return Err(failed()(source));
            }
        };
        db.write_relaxed("finish an activation", |tx| finish(tx, id, &made))?;
        self.find(name).map(Some)
    }

    /// Takes the mounts down. Their record goes at once; what is in use is tried again by collection.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while they are being made; `Mounts` for what is in use; `Database`.
    pub fn deactivate(&self, name: &ActivationName) -> Result<(), Error> {
        let store = self.store()?;
        let db = self.view.db();
        let row = db.write_relaxed("begin a deactivation", |tx| {
            let row = self.load_ready(tx, name)?;
            tx.prepare_cached("UPDATE mounts SET state = 2 WHERE id = ?1")
                .and_then(|mut update| update.execute([row.id]))
                .map_err(Error::database("begin a deactivation"))?;
            Ok(row)
        })?;
        let removed = store.remove(row.number);
        db.write_relaxed("finish a deactivation", |tx| {
            remove(tx, row.id)?;
            match &removed {
                Ok(()) => Ok(()),
                Err(_) => enqueue(tx, row.number),
            }
        })?;
        removed.map_err(Error::mounts("deactivate", name.as_str()))
    }

    /// One activation.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn find(&self, name: &ActivationName) -> Result<Activation, Error> {
        self.view.db().read("read an activation", |connection| {
            Ok(self.load_ready(connection, name)?.activation)
        })
    }

    /// The activations that any of `filters` keeps, by name.
    ///
    /// # Errors
    /// `Filter`, `Database`, `Corrupt`.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Activation>, Error> {
        let filters = self::filters("activation", filters)?;
        let mut found = Vec::new();
        let sql = format!("{SELECT} WHERE node.namespace = ?1 ORDER BY mount.id");
        self.view.each_row("mounts", &sql, |columns| {
            let row = row(columns)?;
            if row.is_ready && filters.matches(&row.activation) {
                found.push(row.activation);
            }
            Ok(())
        })?;
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Changes labels: those named (`labels`, `labels.KEY`), or without any all of them.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for another field, `Database`.
    pub fn update(
        &self,
        name: &ActivationName,
        labels: &Labels,
        fields: &[String],
    ) -> Result<Activation, Error> {
        self.view.db().write_relaxed("update an activation", |tx| {
            let mut row = self.load(tx, name)?;
            let all = ["labels".to_owned()];
            let fields = if fields.is_empty() { &all } else { fields };
            let current = &mut row.activation.labels;
            for path in fields {
                if !mask::labels(path, current, labels)? {
                    return Err(mask::refused("update activation", name, path));
                }
            }
            *current = without_empty(current);
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            tx.prepare_cached("UPDATE mounts SET labels = ?2, updated_at = ?3 WHERE id = ?1")
                .and_then(|mut update| update.execute(params![row.id, to_json(current), tx.now]))
                .map_err(Error::database("update an activation"))?;
            node::relabel(tx, (row.id, namespace), current, None)?;
            tx.note_deletion();
            row.activation.updated_at = from_nanos(tx.now);
            Ok(row.activation)
        })
    }

    fn begin(
        &self,
        tx: &Tx<'_>,
        name: &ActivationName,
        labels: &Labels,
    ) -> Result<(i64, u64), Error> {
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        let labels = without_empty(labels);
        let is_held = self.view.lease().is_some() || node::named(&labels).any(|named| named.back);
        let kept = Kept::until_held(is_held, tx.now);
        let id = node::enliven(tx, key(namespace, name), kept)?
            .ok_or_else(|| already_exists(NodeKind::Mount, name, self.view.namespace()))?;
        let number = next_number(tx, "mount")?;
        tx.prepare_cached("INSERT INTO mounts VALUES (?1, ?2, 0, '[]', '[]', ?3, ?4, ?4)")
            .and_then(|mut insert| insert.execute(params![id, number, to_json(&labels), tx.now]))
            .map_err(Error::database("begin an activation"))?;
        node::relabel(tx, (id, namespace), &labels, None)?;
        self.view.bind(tx, namespace, id)?;
        Ok((id, u64::try_from(number).unwrap_or(0)))
    }

    /// What cannot be taken down now is tried again by collection.
    fn take_back(&self, store: &Store, id: i64, number: u64) {
        let is_down = store.remove(number).is_ok();
        let db = self.view.db();
        let taken = db.write_relaxed("take an activation back", |tx| {
            remove(tx, id)?;
            if is_down { Ok(()) } else { enqueue(tx, number) }
        });
        if let Err(error) = taken {
            tracing::warn!(%error, "the row of a failed activation stays until the next start");
        }
    }

    fn load_ready(&self, connection: &Connection, name: &ActivationName) -> Result<Row, Error> {
        let row = self.load(connection, name)?;
        if row.is_ready {
            return Ok(row);
        }
        Err(Error::FailedPrecondition {
            operation: "use activation",
            subject: name.to_string(),
            reason: "it is being made or taken down".to_owned(),
        })
    }

    fn load(&self, connection: &Connection, name: &ActivationName) -> Result<Row, Error> {
        let missing = || not_found(NodeKind::Mount, name, self.view.namespace());
        let namespace =
            node::namespace_id(connection, self.view.namespace())?.ok_or_else(missing)?;
        let node = node::find_live(connection, key(namespace, name))?.ok_or_else(missing)?;
        connection
            .prepare_cached(&format!("{SELECT} WHERE mount.id = ?1"))
            .and_then(|mut select| {
                let found = select.query_row([node], |found| {
                    Ok(Columns::new("mounts", found).and_then(|columns| row(&columns)))
                });
                found.optional()
            })
            .map_err(Error::database("read an activation"))?
            .unwrap_or_else(|| Err(missing()))
    }

    fn store(&self) -> Result<&Store, Error> {
        let store = self.view.db().backends().mounts.as_deref();
        store.ok_or_else(|| Error::NoBackend {
            kind: "store of mounts",
            name: "mounts".to_owned(),
        })
    }
}

fn remove(tx: &Tx<'_>, id: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM mounts WHERE id = ?1")
        .and_then(|mut delete| delete.execute([id]))
        .map_err(Error::database("remove an activation"))?;
    node::retire(tx, id)
}

fn enqueue(tx: &Tx<'_>, number: u64) -> Result<(), Error> {
    sweep::enqueue(tx, SweepKind::Mount, ("", &number.to_string()), 0)
}

/// Removes a row for collection and queues its mounts; whether it was there and made. What somebody is at work on stays.
pub(crate) fn collect(tx: &Tx<'_>, id: i64) -> Result<bool, Error> {
    let number: Option<i64> = tx
        .prepare_cached("SELECT number FROM mounts WHERE id = ?1 AND state = 1")
        .and_then(|mut select| select.query_row([id], |row| row.get(0)).optional())
        .map_err(Error::database("remove an activation"))?;
    let number = number.and_then(|number| u64::try_from(number).ok());
    let Some(number) = number else {
        return Ok(false);
    };
    remove(tx, id)?;
    enqueue(tx, number)?;
    Ok(true)
}

/// Makes rows and mounts agree after a start: rows without mounts go, and mounts without rows are taken down. Nobody else
/// may be at work. Returns how many activations went.
///
/// # Errors
/// `Database`, `Corrupt`, `Mounts` where the mounts cannot be listed.
pub(crate) fn recover(db: &Db) -> Result<usize, Error> {
    let Some(store) = db.backends().mounts.as_deref() else {
        return Ok(0);
    };
    let failed = || Error::mounts("recover", "all of them");
    let table = store.table().map_err(failed())?;
    let there = store.numbers().map_err(failed())?;
    let gone = db.write_relaxed("take lost activations back", |tx| {
        let (mut gone, mut named) = (Vec::new(), Vec::new());
        for row in rows(tx)? {
            if row.is_ready && store.is_whole(&row.activation.active, &table) {
                named.push(row.number);
            } else {
                remove(tx, row.id)?;
                enqueue(tx, row.number)?;
                gone.push(row.number);
            }
        }
        for number in there {
            if !named.contains(&number) && !gone.contains(&number) {
                enqueue(tx, number)?;
                gone.push(number);
            }
        }
        Ok(gone)
    })?;
    for number in &gone {
        match store.remove(*number) {
            Ok(()) => db.write_relaxed("finish a deactivation", |tx| dequeue(tx, *number))?,
            // The queue has it, and tries again.
            Err(error) => tracing::warn!(number, %error, "mounts that no record names stay"),
        }
    }
    Ok(gone.len())
}

fn finish(tx: &Tx<'_>, id: i64, made: &Made) -> Result<(), Error> {
    tx.prepare_cached(
        "UPDATE mounts SET state = 1, active = ?2, left_over = ?3, updated_at = ?4 WHERE id = ?1",
    )
    .and_then(|mut update| {
        update.execute(params![
            id,
            to_json(&made.active),
            to_json(&made.system),
            tx.now
        ])
    })
    .map_err(Error::database("finish an activation"))?;
    Ok(())
}

fn dequeue(tx: &Tx<'_>, number: u64) -> Result<(), Error> {
    sweep::dequeue(tx, SweepKind::Mount, ("", &number.to_string()))
}

fn rows(tx: &Tx<'_>) -> Result<Vec<Row>, Error> {
    let failed = Error::database("list activations");
    let mut select = tx.prepare(SELECT).map_err(failed)?;
    let mut found = select.query([]).map_err(failed)?;
    let mut rows = Vec::new();
    while let Some(next) = found.next().map_err(failed)? {
        rows.push(row(&Columns::new("mounts", next)?)?);
    }
    Ok(rows)
}

fn row(columns: &Columns<'_, '_>) -> Result<Row, Error> {
    Ok(Row {
        id: columns.value(1)?,
        number: columns.size(2)?,
        is_ready: columns.value::<i64>(3)? == 1,
        activation: Activation {
            name: columns.parsed(0)?,
            active: columns.json(4)?,
            system: columns.json(5)?,
            labels: columns.json(6)?,
            created_at: columns.time(7)?,
            updated_at: columns.time(8)?,
        },
    })
}

fn key(namespace: i64, name: &ActivationName) -> NodeKey<'_> {
    NodeKey {
        namespace,
        kind: NodeKind::Mount,
        scope: "",
        key: name.as_str(),
    }
}

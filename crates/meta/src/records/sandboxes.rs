//! Sandboxes: pods, as containerd's sandbox store has them. A sandbox holds what its labels name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use orlop_types::filter::{Fields, label_field, text_field};
use orlop_types::{Labels, SandboxId};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Columns, Runtime, TypedBytes, check_extensions, filters, to_json, without_empty};
use crate::db::Tx;
use crate::node::{self, NodeKey, NodeKind, already_exists, not_found};
use crate::time::{from_nanos, to_nanos};
use crate::{Error, Event, View, mask};

/// A sandbox's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Its labels.
    pub labels: Labels,
    /// What runs it.
    pub runtime: Runtime,
    /// The runtime's specification, in the encoding of the client.
    pub spec: Option<TypedBytes>,
    /// The controller that has it in hand, such as `podsandbox` or `shim`.
    pub sandboxer: String,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, TypedBytes>,
    /// Set by the database.
    pub created_at: SystemTime,
    /// Set by the database.
    pub updated_at: SystemTime,
}

impl Sandbox {
    /// A sandbox to be created, without spec, sandboxer, labels and extensions.
    #[must_use]
    pub const fn new(id: SandboxId, runtime: Runtime) -> Self {
        Self {
            id,
            labels: Labels::new(),
            runtime,
            spec: None,
            sandboxer: String::new(),
            extensions: BTreeMap::new(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
        }
    }
}

impl Fields for Sandbox {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path[0].as_str() {
            "id" => text_field(self.id.as_str()),
            "labels" => label_field(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// The sandboxes of a namespace.
#[derive(Debug)]
pub struct Sandboxes<'a> {
    view: &'a View,
}

const SELECT: &str = "SELECT node.key, sandboxer, runtime_name, runtime_options_type, runtime_options, spec_type, spec,
    extensions, labels, created_at, updated_at
    FROM sandboxes AS sandbox CROSS JOIN nodes AS node ON node.id = sandbox.id";

impl<'a> Sandboxes<'a> {
    pub(crate) const fn new(view: &'a View) -> Self {
        Self { view }
    }

    /// Creates a sandbox.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument` for a nameless extension, `Database`.
    pub fn create(&self, sandbox: &Sandbox) -> Result<Sandbox, Error> {
        let create = |tx: &Tx<'_>| self.create_in(tx, sandbox);
        self.view.db().write("create a sandbox", create)
    }

    /// As [`Sandboxes::create`], without waiting for the disk: for a sandbox of which a power cut leaves nothing. What is
    /// written durably later takes the row to the disk with it.
    ///
    /// # Errors
    /// As [`Sandboxes::create`].
    pub fn create_relaxed(&self, sandbox: &Sandbox) -> Result<Sandbox, Error> {
        let create = |tx: &Tx<'_>| self.create_in(tx, sandbox);
        self.view.db().write_relaxed("create a sandbox", create)
    }

    fn create_in(&self, tx: &Tx<'_>, sandbox: &Sandbox) -> Result<Sandbox, Error> {
        check_extensions("store sandbox", sandbox.id.as_str(), &sandbox.extensions)?;
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        let mut sandbox = sandbox.clone();
        sandbox.labels = without_empty(&sandbox.labels);
        sandbox.created_at = from_nanos(tx.now);
        sandbox.updated_at = sandbox.created_at;
        let kept = node::expiry(NodeKind::Sandbox, sandbox.id.as_str(), &sandbox.labels);
        let id = node::enliven(tx, key(namespace, &sandbox.id), kept)?
            .ok_or_else(|| already_exists(NodeKind::Sandbox, &sandbox.id, self.view.namespace()))?;
        store(tx, (id, namespace), &sandbox)?;
        let id = sandbox.id.clone();
        tx.append(self.view.namespace(), &Event::SandboxCreate { id })?;
        Ok(sandbox)
    }

    /// One sandbox.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn find(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        self.view.db().read("read a sandbox", |connection| {
            Ok(self.load(connection, id)?.1)
        })
    }

    /// The sandboxes that any of `filters` keeps, by id.
    ///
    /// # Errors
    /// `Filter`, `Database`, `Corrupt`.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Sandbox>, Error> {
        let filters = self::filters("sandbox", filters)?;
        let mut sandboxes = Vec::new();
        let sql = format!("{SELECT} WHERE node.namespace = ?1 ORDER BY sandbox.id");
        self.view.each_row("sandboxes", &sql, |columns| {
            let sandbox = sandbox(columns)?;
            if filters.matches(&sandbox) {
                sandboxes.push(sandbox);
            }
            Ok(())
        })?;
        sandboxes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(sandboxes)
    }

    /// Changes a sandbox: the fields named (`labels`, `labels.KEY`, `extensions`, `extensions.KEY`, `spec`, `runtime`),
    /// or without any all of these.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for another field or a changed runtime name, `Database`.
    pub fn update(&self, sandbox: &Sandbox, fields: &[String]) -> Result<Sandbox, Error> {
        self.update_and_tell(sandbox, fields, None)
    }

    /// As [`Sandboxes::update`], and tells of it in the same transaction.
    ///
    /// # Errors
    /// As there.
    pub fn update_and_tell(
        &self,
        sandbox: &Sandbox,
        fields: &[String],
        event: Option<&Event>,
    ) -> Result<Sandbox, Error> {
        let update = |tx: &Tx<'_>| self.update_in(tx, sandbox, fields, event);
        self.view.db().write("update a sandbox", update)
    }

    /// As [`Sandboxes::update_and_tell`], without waiting for the disk: for a change that a power cut makes void, or that
    /// is found out again after one.
    ///
    /// # Errors
    /// As [`Sandboxes::update`].
    pub fn update_and_tell_relaxed(
        &self,
        sandbox: &Sandbox,
        fields: &[String],
        event: Option<&Event>,
    ) -> Result<Sandbox, Error> {
        let update = |tx: &Tx<'_>| self.update_in(tx, sandbox, fields, event);
        self.view.db().write_relaxed("update a sandbox", update)
    }

    fn update_in(
        &self,
        tx: &Tx<'_>,
        sandbox: &Sandbox,
        fields: &[String],
        event: Option<&Event>,
    ) -> Result<Sandbox, Error> {
        let (id, mut updated) = self.load(tx, &sandbox.id)?;
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        if fields.is_empty() {
            apply_all(&mut updated, sandbox)?;
        }
        for path in fields {
            apply(&mut updated, sandbox, path)?;
        }
        check_extensions("store sandbox", updated.id.as_str(), &updated.extensions)?;
        updated.labels = without_empty(&updated.labels);
        updated.updated_at = from_nanos(tx.now);
        store(tx, (id, namespace), &updated)?;
        tx.note_deletion();
        if let Some(event) = event {
            tx.append(self.view.namespace(), event)?;
        }
        Ok(updated)
    }

    /// Removes a sandbox's record.
    ///
    /// # Errors
    /// `NotFound`, `Database`.
    pub fn delete(&self, id: &SandboxId) -> Result<(), Error> {
        self.view.db().write("remove a sandbox", |tx| {
            let (node, _) = self.load(tx, id)?;
            tx.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")
                .and_then(|mut delete| delete.execute([node]))
                .map_err(Error::database("remove a sandbox"))?;
            node::retire(tx, node)?;
            let id = id.clone();
            tx.append(self.view.namespace(), &Event::SandboxDelete { id })?;
            Ok(())
        })
    }

    fn load(&self, connection: &Connection, id: &SandboxId) -> Result<(i64, Sandbox), Error> {
        let missing = || not_found(NodeKind::Sandbox, id, self.view.namespace());
        let namespace =
            node::namespace_id(connection, self.view.namespace())?.ok_or_else(missing)?;
        let node = node::find_live(connection, key(namespace, id))?.ok_or_else(missing)?;
        let found = connection
            .prepare_cached(&format!("{SELECT} WHERE sandbox.id = ?1"))
            .and_then(|mut select| {
                let found = select.query_row([node], |row| {
                    Ok(Columns::new("sandboxes", row).and_then(|columns| sandbox(&columns)))
                });
                found.optional()
            })
            .map_err(Error::database("read a sandbox"))?;
        Ok((node, found.unwrap_or_else(|| Err(missing()))?))
    }
}

fn store(tx: &Tx<'_>, (id, namespace): (i64, i64), sandbox: &Sandbox) -> Result<(), Error> {
    let options = sandbox.runtime.options.as_ref();
    let spec = sandbox.spec.as_ref();
    tx.prepare_cached(
        "INSERT OR REPLACE INTO sandboxes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )
    .and_then(|mut insert| {
        insert.execute(params![
            id,
            sandbox.sandboxer,
            sandbox.runtime.name,
            options.map(|options| &options.type_url),
            options.map(|options| &options.value),
            spec.map(|spec| &spec.type_url),
            spec.map(|spec| &spec.value),
            to_json(&sandbox.extensions),
            to_json(&sandbox.labels),
            to_nanos(sandbox.created_at),
            to_nanos(sandbox.updated_at),
        ])
    })
    .map_err(Error::database("store a sandbox"))?;
    node::relabel(tx, (id, namespace), &sandbox.labels, None)
}

fn apply_all(updated: &mut Sandbox, wanted: &Sandbox) -> Result<(), Error> {
    if updated.runtime.name != wanted.runtime.name {
        let reason = "field \"runtime.name\" cannot be changed";
        return Err(Error::invalid("update sandbox", wanted.id.as_str(), reason));
    }
    for path in ["labels", "extensions", "spec", "runtime"] {
        apply(updated, wanted, path)?;
    }
    Ok(())
}

fn apply(updated: &mut Sandbox, wanted: &Sandbox, path: &str) -> Result<(), Error> {
    if mask::labels(path, &mut updated.labels, &wanted.labels)?
        || mask::map(
            (path, "extensions"),
            &mut updated.extensions,
            &wanted.extensions,
        )
    {
        return Ok(());
    }
    match path {
        "spec" => updated.spec.clone_from(&wanted.spec),
        "runtime" => updated.runtime.clone_from(&wanted.runtime),
        _ => return Err(mask::refused("update sandbox", &wanted.id, path)),
    }
    Ok(())
}

fn sandbox(columns: &Columns<'_, '_>) -> Result<Sandbox, Error> {
    Ok(Sandbox {
        id: columns.parsed(0)?,
        sandboxer: columns.value(1)?,
        runtime: Runtime {
            name: columns.value(2)?,
            options: columns.typed_bytes(3)?,
        },
        spec: columns.typed_bytes(5)?,
        extensions: columns.json(7)?,
        labels: columns.json(8)?,
        created_at: columns.time(9)?,
        updated_at: columns.time(10)?,
    })
}

fn key(namespace: i64, id: &SandboxId) -> NodeKey<'_> {
    NodeKey {
        namespace,
        kind: NodeKind::Sandbox,
        scope: "",
        key: id.as_str(),
    }
}

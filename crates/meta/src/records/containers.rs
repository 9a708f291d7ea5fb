//! Containers: what is to be run. Whether it runs is a task's matter.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use orlop_types::filter::{Fields, label_field, text_field};
use orlop_types::{ContainerId, Labels};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Columns, TypedBytes, check_extensions, filters, to_json, without_empty};
use crate::db::Tx;
use crate::node::{self, EdgeKind, NodeKey, NodeKind, already_exists, not_found};
use crate::time::{from_nanos, to_nanos};
use crate::{Error, Event, View, mask};

/// Which runtime runs a container or sandbox, and its options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Such as `io.containerd.runc.v2`.
    pub name: String,
    /// What the shim is given.
    pub options: Option<TypedBytes>,
}

/// A container's record, as containerd's API has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its labels.
    pub labels: Labels,
    /// The image it was made from, for people; it holds nothing.
    pub image: String,
    /// What runs it.
    pub runtime: Runtime,
    /// The OCI spec, in the encoding of the client.
    pub spec: TypedBytes,
    /// The snapshotter of its root file system; empty if it has none.
    pub snapshotter: String,
    /// The snapshot it runs on and holds; empty if it has none.
    pub snapshot_key: String,
    /// The sandbox it belongs to; empty if none.
    pub sandbox: String,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, TypedBytes>,
    /// Set by the database.
    pub created_at: SystemTime,
    /// Set by the database.
    pub updated_at: SystemTime,
}

impl Container {
    /// A container to be created, without image, snapshot, sandbox, labels and extensions.
    #[must_use]
    pub const fn new(id: ContainerId, runtime: Runtime, spec: TypedBytes) -> Self {
        Self {
            id,
            labels: Labels::new(),
            image: String::new(),
            runtime,
            spec,
            snapshotter: String::new(),
            snapshot_key: String::new(),
            sandbox: String::new(),
            extensions: BTreeMap::new(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
        }
    }
}

impl Fields for Container {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match (path[0].as_str(), path.get(1).map(String::as_str)) {
            ("id", _) => text_field(self.id.as_str()),
            ("runtime", Some("name")) => text_field(&self.runtime.name),
            ("image", _) => text_field(&self.image),
            // Beyond containerd, which cannot be asked for a pod's containers.
            ("sandbox", _) => text_field(&self.sandbox),
            ("labels", _) => label_field(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// The containers of a namespace.
#[derive(Debug)]
pub struct Containers<'a> {
    view: &'a View,
}

const SELECT: &str = "SELECT node.key, container.image, runtime_name, runtime_options_type, runtime_options, spec_type,
    spec, snapshotter, snapshot_key, sandbox, extensions, labels, created_at, updated_at
    FROM containers AS container CROSS JOIN nodes AS node ON node.id = container.id";

impl<'a> Containers<'a> {
    pub(crate) const fn new(view: &'a View) -> Self {
        Self { view }
    }

    /// Creates a container, which from then on holds its snapshot.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument` without runtime or with a snapshot but no snapshotter, `Database`.
    pub fn create(&self, container: &Container) -> Result<Container, Error> {
        check(container)?;
        self.view.db().write("create a container", |tx| {
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            let mut container = container.clone();
            container.labels = without_empty(&container.labels);
            container.created_at = from_nanos(tx.now);
            container.updated_at = container.created_at;
            let node = key(namespace, &container.id);
            let kept = node::expiry(
                NodeKind::Container,
                container.id.as_str(),
                &container.labels,
            );
            let id = node::enliven(tx, node, kept)?.ok_or_else(|| {
                already_exists(NodeKind::Container, &container.id, self.view.namespace())
            })?;
            store(tx, (id, namespace), &container)?;
            let event = Event::ContainerCreate {
                id: container.id.clone(),
                image: container.image.clone(),
                runtime: container.runtime.name.clone(),
            };
            tx.append(self.view.namespace(), &event)?;
            Ok(container)
        })
    }

    /// One container.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn find(&self, id: &ContainerId) -> Result<Container, Error> {
        self.view.db().read("read a container", |connection| {
            Ok(self.load(connection, id)?.1)
        })
    }

    /// The containers that any of `filters` keeps, by id.
    ///
    /// # Errors
    /// `Filter`, `Database`, `Corrupt`.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Container>, Error> {
        let filters = self::filters("container", filters)?;
        let mut containers = Vec::new();
        let sql = format!("{SELECT} WHERE node.namespace = ?1 ORDER BY container.id");
        self.view.each_row("containers", &sql, |columns| {
            let container = container(columns)?;
            if filters.matches(&container) {
                containers.push(container);
            }
            Ok(())
        })?;
        containers.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(containers)
    }

    /// Changes a container: the fields named (`labels`, `labels.KEY`, `spec`, `extensions`, `extensions.KEY`, `image`,
    /// `snapshotkey`), or without any all of these.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for another field or a changed runtime or snapshotter, `Database`.
    pub fn update(&self, container: &Container, fields: &[String]) -> Result<Container, Error> {
        let update = |tx: &Tx<'_>| self.update_in(tx, container, fields);
        self.view.db().write("update a container", update)
    }

    /// As [`Containers::update`], without waiting for the disk: for what a power cut makes void.
    ///
    /// # Errors
    /// As [`Containers::update`].
    pub fn update_relaxed(
        &self,
        container: &Container,
        fields: &[String],
    ) -> Result<Container, Error> {
        let update = |tx: &Tx<'_>| self.update_in(tx, container, fields);
        self.view.db().write_relaxed("update a container", update)
    }

    fn update_in(
        &self,
        tx: &Tx<'_>,
        container: &Container,
        fields: &[String],
    ) -> Result<Container, Error> {
        let (id, mut updated) = self.load(tx, &container.id)?;
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        if fields.is_empty() {
            apply_all(&mut updated, container)?;
        }
        for path in fields {
            apply(&mut updated, container, path)?;
        }
        check(&updated)?;
        updated.labels = without_empty(&updated.labels);
        updated.updated_at = from_nanos(tx.now);
        store(tx, (id, namespace), &updated)?;
        let event = Event::ContainerUpdate {
            id: updated.id.clone(),
            image: updated.image.clone(),
            labels: updated.labels.clone(),
            snapshot_key: updated.snapshot_key.clone(),
        };
        tx.append(self.view.namespace(), &event)?;
        Ok(updated)
    }

    /// Removes a container's record; its snapshot is no longer held by it.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` while it has a task, `Database`.
    pub fn delete(&self, id: &ContainerId) -> Result<(), Error> {
        let failed = Error::database("remove a container");
        self.view.db().write("remove a container", |tx| {
            let (node, _) = self.load(tx, id)?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            let has_task = tx
                .prepare_cached("SELECT 1 FROM tasks WHERE namespace = ?1 AND container = ?2")
                .and_then(|mut select| select.exists(params![namespace, id.as_str()]))
                .map_err(failed)?;
            if has_task {
                return Err(Error::FailedPrecondition {
                    operation: "remove container",
                    subject: id.to_string(),
                    reason: "it has a task".to_owned(),
                });
            }
            tx.prepare_cached("DELETE FROM containers WHERE id = ?1")
                .and_then(|mut delete| delete.execute([node]))
                .map_err(failed)?;
            node::retire(tx, node)?;
            let event = Event::ContainerDelete { id: id.clone() };
            tx.append(self.view.namespace(), &event).map(drop)
        })
    }

    fn load(&self, connection: &Connection, id: &ContainerId) -> Result<(i64, Container), Error> {
        let missing = || not_found(NodeKind::Container, id, self.view.namespace());
        let namespace =
            node::namespace_id(connection, self.view.namespace())?.ok_or_else(missing)?;
        let node = node::find_live(connection, key(namespace, id))?.ok_or_else(missing)?;
        let found = connection
            .prepare_cached(&format!("{SELECT} WHERE container.id = ?1"))
            .and_then(|mut select| {
                let found = select.query_row([node], |row| {
                    Ok(Columns::new("containers", row).and_then(|columns| container(&columns)))
                });
                found.optional()
            })
            .map_err(Error::database("read a container"))?;
        Ok((node, found.unwrap_or_else(|| Err(missing()))?))
    }
}

fn store(tx: &Tx<'_>, (id, namespace): (i64, i64), container: &Container) -> Result<(), Error> {
    let options = container.runtime.options.as_ref();
    tx.prepare_cached(
        "INSERT OR REPLACE INTO containers VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )
    .and_then(|mut insert| {
        insert.execute(params![
            id,
            container.image,
            container.runtime.name,
            options.map(|options| &options.type_url),
            options.map(|options| &options.value),
            container.spec.type_url,
            container.spec.value,
            container.snapshotter,
            container.snapshot_key,
            container.sandbox,
            to_json(&container.extensions),
            to_json(&container.labels),
            to_nanos(container.created_at),
            to_nanos(container.updated_at),
        ])
    })
    .map_err(Error::database("store a container"))?;
    node::relabel(tx, (id, namespace), &container.labels, None)?;
    node::unlink_owned(tx, id, Some(&[EdgeKind::Field]))?;
    if container.snapshot_key.is_empty() {
        return Ok(());
    }
    let snapshot = NodeKey {
        namespace,
        kind: NodeKind::Snapshot,
        scope: &container.snapshotter,
        key: &container.snapshot_key,
    };
    let snapshot = node::intern(tx, snapshot)?;
    node::link(tx, (id, snapshot, id), EdgeKind::Field, None)
}

fn apply_all(updated: &mut Container, wanted: &Container) -> Result<(), Error> {
    let immutable = |field: &str| {
        let reason = format!("field {field:?} cannot be changed");
        Err(Error::invalid(
            "update container",
            wanted.id.as_str(),
            reason,
        ))
    };
    if updated.snapshotter != wanted.snapshotter {
        return immutable("snapshotter");
    }
    if updated.runtime.name != wanted.runtime.name {
        return immutable("runtime.name");
    }
    for path in ["labels", "spec", "extensions", "image", "snapshotkey"] {
        apply(updated, wanted, path)?;
    }
    Ok(())
}

fn apply(updated: &mut Container, wanted: &Container, path: &str) -> Result<(), Error> {
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
        "image" => updated.image.clone_from(&wanted.image),
        "snapshotkey" => updated.snapshot_key.clone_from(&wanted.snapshot_key),
        _ => return Err(mask::refused("update container", &wanted.id, path)),
    }
    Ok(())
}

fn check(container: &Container) -> Result<(), Error> {
    let id = container.id.as_str();
    if container.runtime.name.is_empty() {
        return Err(Error::invalid("store container", id, "it names no runtime"));
    }
    if container.spec.type_url.is_empty() {
        return Err(Error::invalid("store container", id, "it has no spec"));
    }
    if container.snapshotter.is_empty() && !container.snapshot_key.is_empty() {
        let reason = "it names a snapshot but no snapshotter";
        return Err(Error::invalid("store container", id, reason));
    }
    check_extensions("store container", id, &container.extensions)
}

fn container(columns: &Columns<'_, '_>) -> Result<Container, Error> {
    let spec_type = columns.value(5)?;
    Ok(Container {
        id: columns.parsed(0)?,
        image: columns.value(1)?,
        runtime: Runtime {
            name: columns.value(2)?,
            options: columns.typed_bytes(3)?,
        },
        spec: TypedBytes {
            type_url: spec_type,
            value: columns.value(6)?,
        },
        snapshotter: columns.value(7)?,
        snapshot_key: columns.value(8)?,
        sandbox: columns.value(9)?,
        extensions: columns.json(10)?,
        labels: columns.json(11)?,
        created_at: columns.time(12)?,
        updated_at: columns.time(13)?,
    })
}

fn key(namespace: i64, id: &ContainerId) -> NodeKey<'_> {
    NodeKey {
        namespace,
        kind: NodeKind::Container,
        scope: "",
        key: id.as_str(),
    }
}

//! Leases: what keeps things while they are being made.

use std::borrow::Cow;
use std::time::SystemTime;

use orlop_types::filter::{Fields, label_field, text_field};
use orlop_types::{
    ActivationName, Digest, ImageName, IngestRef, Labels, LeaseId, SnapshotKey, SnapshotterName,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Columns, filters, to_json, without_empty};
use crate::db::Tx;
use crate::node::{self, EdgeKind, NodeKey, NodeKind, already_exists, not_found};
use crate::time::from_nanos;
use crate::{Error, Event, View};

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Its labels. `containerd.io/gc.expire` ends it, `containerd.io/gc.flat` narrows what it holds.
    pub labels: Labels,
    /// Set by the database.
    pub created_at: SystemTime,
}

impl Fields for Lease {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path[0].as_str() {
            "id" => text_field(self.id.as_str()),
            "labels" => label_field(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// Something a lease holds. It need not exist (yet).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseResource {
    /// A blob.
    Content(Digest),
    /// An ingest.
    Ingest(IngestRef),
    /// An image that expires.
    Image(ImageName),
    /// A snapshot and its parents.
    Snapshot(SnapshotterName, SnapshotKey),
    /// Mounts made ahead.
    Mount(ActivationName),
}

impl LeaseResource {
    /// Reads a resource as containerd spells it: `content`, `ingests`, `images` or `snapshots/NAME`, and an id;
    /// `mounts`, which containerd keeps elsewhere.
    ///
    /// # Errors
    /// `InvalidArgument` for another type, or an id that does not fit it.
    pub fn parse(resource_type: &str, id: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::invalid("read lease resource", id, reason);
        match resource_type.split_once('/') {
            None if resource_type == "content" => {
                let digest = id.parse().map_err(|error| refuse(format!("{error}")))?;
                Ok(Self::Content(digest))
            }
            None if resource_type == "ingests" => {
                let reference = IngestRef::new(id).map_err(|error| refuse(error.to_string()))?;
                Ok(Self::Ingest(reference))
            }
            None if resource_type == "images" => {
                let name = ImageName::new(id).map_err(|error| refuse(error.to_string()))?;
                Ok(Self::Image(name))
            }
            None if resource_type == "mounts" => {
                let name = ActivationName::new(id).map_err(|error| refuse(error.to_string()))?;
                Ok(Self::Mount(name))
            }
            Some(("snapshots", snapshotter)) => {
                let name = SnapshotterName::new(snapshotter);
                let name = name.map_err(|error| refuse(error.to_string()))?;
                let key = SnapshotKey::new(id).map_err(|error| refuse(error.to_string()))?;
                Ok(Self::Snapshot(name, key))
            }
            None | Some(_) => Err(refuse(format!("type {resource_type:?} is not known"))),
        }
    }

    /// The type as containerd spells it.
    #[must_use]
    pub fn type_name(&self) -> Cow<'static, str> {
        match self {
            Self::Content(_) => "content".into(),
            Self::Ingest(_) => "ingests".into(),
            Self::Image(_) => "images".into(),
            Self::Snapshot(snapshotter, _) => format!("snapshots/{snapshotter}").into(),
            Self::Mount(_) => "mounts".into(),
        }
    }

    /// The id as containerd spells it.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Content(digest) => digest.to_string(),
            Self::Ingest(reference) => reference.to_string(),
            Self::Image(name) => name.to_string(),
            Self::Snapshot(_, key) => key.to_string(),
            Self::Mount(name) => name.to_string(),
        }
    }

    fn kind(&self) -> NodeKind {
        match self {
            Self::Content(_) => NodeKind::Content,
            Self::Ingest(_) => NodeKind::Ingest,
            Self::Image(_) => NodeKind::Image,
            Self::Snapshot(..) => NodeKind::Snapshot,
            Self::Mount(_) => NodeKind::Mount,
        }
    }

    fn scope(&self) -> &str {
        match self {
            Self::Content(_) | Self::Ingest(_) | Self::Image(_) | Self::Mount(_) => "",
            Self::Snapshot(snapshotter, _) => snapshotter.as_str(),
        }
    }
}

/// The leases of a namespace.
#[derive(Debug)]
pub struct Leases<'a> {
    view: &'a View,
}

const SELECT: &str = "SELECT node.key, lease.labels, lease.created_at FROM leases AS lease
    CROSS JOIN nodes AS node ON node.id = lease.id";

impl<'a> Leases<'a> {
    pub(crate) const fn new(view: &'a View) -> Self {
        Self { view }
    }

    /// Creates a lease.
    ///
    /// # Errors
    /// `AlreadyExists`, `Database`.
    pub fn create(&self, id: &LeaseId, labels: &Labels) -> Result<Lease, Error> {
        let create = |tx: &Tx<'_>| self.create_in(tx, id, labels);
        self.view.db().write("create a lease", create)
    }

    /// As [`Leases::create`], without waiting for the disk: for a lease that only spans what its maker does next, which
    /// a power cut ends too. What is written durably under it takes the lease to the disk with it.
    ///
    /// # Errors
    /// As [`Leases::create`].
    pub fn create_relaxed(&self, id: &LeaseId, labels: &Labels) -> Result<Lease, Error> {
        let create = |tx: &Tx<'_>| self.create_in(tx, id, labels);
        self.view.db().write_relaxed("create a lease", create)
    }

    fn create_in(&self, tx: &Tx<'_>, id: &LeaseId, labels: &Labels) -> Result<Lease, Error> {
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        let labels = without_empty(labels);
        let kept = node::expiry(NodeKind::Lease, id.as_str(), &labels);
        let node = node::enliven(tx, key(namespace, id), kept)?
            .ok_or_else(|| already_exists(NodeKind::Lease, id, self.view.namespace()))?;
        tx.prepare_cached("INSERT INTO leases VALUES (?1, ?2, ?3)")
            .and_then(|mut insert| insert.execute(params![node, to_json(&labels), tx.now]))
            .map_err(Error::database("create a lease"))?;
        let lease = Lease {
            id: id.clone(),
            labels: labels.clone(),
            created_at: from_nanos(tx.now),
        };
        let id = id.clone();
        tx.append(self.view.namespace(), &Event::LeaseCreate { id, labels })?;
        Ok(lease)
    }

    /// One lease.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn find(&self, id: &LeaseId) -> Result<Lease, Error> {
        self.view.db().read("read a lease", |connection| {
            let node = self.node(connection, id)?;
            connection
                .prepare_cached(&format!("{SELECT} WHERE lease.id = ?1"))
                .and_then(|mut select| {
                    let found = select.query_row([node], |row| {
                        Ok(Columns::new("leases", row).and_then(|columns| lease(&columns)))
                    });
                    found.optional()
                })
                .map_err(Error::database("read a lease"))?
                .unwrap_or_else(|| Err(self.missing(id)))
        })
    }

    /// The leases that any of `filters` keeps, by id.
    ///
    /// # Errors
    /// `Filter`, `Database`, `Corrupt`.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Lease>, Error> {
        let filters = self::filters("lease", filters)?;
        let mut leases = Vec::new();
        let sql = format!("{SELECT} WHERE node.namespace = ?1 ORDER BY lease.id");
        self.view.each_row("leases", &sql, |columns| {
            let lease = lease(columns)?;
            if filters.matches(&lease) {
                leases.push(lease);
            }
            Ok(())
        })?;
        leases.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(leases)
    }

    /// Releases a lease. What nothing else holds is left to collection.
    ///
    /// # Errors
    /// `NotFound`, `Database`.
    pub fn delete(&self, id: &LeaseId) -> Result<(), Error> {
        let delete = |tx: &Tx<'_>| self.delete_in(tx, id);
        self.view.db().write("remove a lease", delete)
    }

    /// As [`Leases::delete`], without waiting for the disk: for a lease with an expiry, which ends it as well when a
    /// power cut brings it back.
    ///
    /// # Errors
    /// As [`Leases::delete`].
    pub fn delete_relaxed(&self, id: &LeaseId) -> Result<(), Error> {
        let delete = |tx: &Tx<'_>| self.delete_in(tx, id);
        self.view.db().write_relaxed("remove a lease", delete)
    }

    fn delete_in(&self, tx: &Tx<'_>, id: &LeaseId) -> Result<(), Error> {
        let node = self.node(tx, id)?;
        remove(tx, node)?;
        let event = Event::LeaseDelete {
            id: id.clone(),
            expired: false,
        };
        tx.append(self.view.namespace(), &event).map(drop)
    }

    /// Makes a lease hold something, once.
    ///
    /// # Errors
    /// `NotFound` for the lease, `Database`.
    pub fn add_resource(&self, id: &LeaseId, resource: &LeaseResource) -> Result<(), Error> {
        self.view.db().write("add to a lease", |tx| {
            self.node(tx, id)?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            let target = node::intern(tx, resource_key(namespace, resource, &resource.id()))?;
            node::bind(tx, (namespace, self.view.namespace()), id, target)
        })
    }

    /// Makes a lease hold something no longer. Nothing happens if it did not.
    ///
    /// # Errors
    /// `NotFound` for the lease, `Database`.
    pub fn remove_resource(&self, id: &LeaseId, resource: &LeaseResource) -> Result<(), Error> {
        self.view.db().write("remove from a lease", |tx| {
            let lease = self.node(tx, id)?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            let target = node::intern(tx, resource_key(namespace, resource, &resource.id()))?;
            node::unlink(tx, lease, target, EdgeKind::Lease).map(drop)
        })
    }

    /// What a lease holds, in order.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn resources(&self, id: &LeaseId) -> Result<Vec<LeaseResource>, Error> {
        let failed = Error::database("list a lease's resources");
        self.view.db().read("list a lease's resources", |connection| {
            let lease = self.node(connection, id)?;
            let mut select = connection
                .prepare_cached(
                    "SELECT node.key, node.kind, node.scope FROM refs CROSS JOIN nodes AS node ON node.id = refs.target
                     WHERE refs.owner = ?1 AND refs.kind = ?2",
                )
                .map_err(failed)?;
            let values = params![lease, EdgeKind::Lease as u8];
            let mut rows = select.query(values).map_err(failed)?;
            let mut resources = Vec::new();
            while let Some(row) = rows.next().map_err(failed)? {
                resources.push(resource(&Columns::new("refs", row)?)?);
            }
            resources.sort_unstable();
            Ok(resources)
        })
    }

    fn node(&self, connection: &Connection, id: &LeaseId) -> Result<i64, Error> {
        let namespace = node::namespace_id(connection, self.view.namespace())?
            .ok_or_else(|| self.missing(id))?;
        node::lease_id(connection, (namespace, self.view.namespace()), id)
    }

    fn missing(&self, id: &LeaseId) -> Error {
        not_found(NodeKind::Lease, id, self.view.namespace())
    }
}

/// Removes a lease's row, node and edges.
pub(crate) fn remove(tx: &Tx<'_>, id: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM leases WHERE id = ?1")
        .and_then(|mut delete| delete.execute([id]))
        .map_err(Error::database("remove a lease"))?;
    node::retire(tx, id)
}

fn lease(columns: &Columns<'_, '_>) -> Result<Lease, Error> {
    Ok(Lease {
        id: columns.parsed(0)?,
        labels: columns.json(1)?,
        created_at: columns.time(2)?,
    })
}

fn resource(columns: &Columns<'_, '_>) -> Result<LeaseResource, Error> {
    let kind: u8 = columns.value(1)?;
    if kind == NodeKind::Content as u8 {
        return columns.parsed(0).map(LeaseResource::Content);
    }
    if kind == NodeKind::Ingest as u8 {
        return columns.parsed(0).map(LeaseResource::Ingest);
    }
    if kind == NodeKind::Image as u8 {
        return columns.parsed(0).map(LeaseResource::Image);
    }
    if kind == NodeKind::Snapshot as u8 {
        return Ok(LeaseResource::Snapshot(
            columns.parsed(2)?,
            columns.parsed(0)?,
        ));
    }
    if kind == NodeKind::Mount as u8 {
        return columns.parsed(0).map(LeaseResource::Mount);
    }
    Err(columns.damaged(format!("a lease cannot hold a node of kind {kind}")))
}

fn resource_key<'a>(namespace: i64, resource: &'a LeaseResource, key: &'a str) -> NodeKey<'a> {
    NodeKey {
        namespace,
        kind: resource.kind(),
        scope: resource.scope(),
        key,
    }
}

fn key(namespace: i64, id: &LeaseId) -> NodeKey<'_> {
    NodeKey {
        namespace,
        kind: NodeKind::Lease,
        scope: "",
        key: id.as_str(),
    }
}

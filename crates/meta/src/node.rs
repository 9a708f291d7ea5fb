//! Nodes and edges: who holds what, in the form collection reads.
//!
//! Every record has a node of the same id. Its labels and fields that name other records are edges, rewritten in
//! the transaction that writes the record. An edge may name what does not exist (yet): then the target is a node
//! without a record (`live` = 0), which goes when the last edge to it goes.

use std::time::Duration;

use orlop_types::{LeaseId, Namespace};
use rusqlite::{Connection, OptionalExtension, params};

use crate::Error;
use crate::db::Tx;

mod labels;

pub(crate) use labels::{expiry, named, relabel};

/// What a node stands for. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum NodeKind {
    Content = 1,
    Snapshot = 2,
    Container = 3,
    Image = 4,
    Lease = 5,
    Ingest = 6,
    Sandbox = 7,
    Mount = 8,
}

impl NodeKind {
    /// The word used in errors and by `gc why`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Snapshot => "snapshot",
            Self::Container => "container",
            Self::Image => "image",
            Self::Lease => "lease",
            Self::Ingest => "ingest",
            Self::Sandbox => "sandbox",
            Self::Mount => "mount",
        }
    }
}

/// Why an edge is there. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum EdgeKind {
    /// A field: a snapshot's parent, an image's target, a container's snapshot. Followed from flat leases too.
    Field = 1,
    /// A label `containerd.io/gc.ref.…` of the source.
    Label = 2,
    /// A label `containerd.io/gc.bref.…` of the target.
    BackLabel = 3,
    /// A resource of a lease.
    Lease = 4,
}

/// Names a node before its id is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeKey<'a> {
    pub(crate) namespace: i64,
    pub(crate) kind: NodeKind,
    /// The snapshotter of a snapshot, else empty.
    pub(crate) scope: &'a str,
    pub(crate) key: &'a str,
}

/// How a new record is kept by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kept {
    pub(crate) root: bool,
    pub(crate) flat: bool,
    /// Nanoseconds since 1970; after that it is no longer a root.
    pub(crate) expires_at: Option<i64>,
}

/// How long something made without a lease is kept for its maker to refer to it: as long as containerd keeps ingests.
const UNLEASED: Duration = Duration::from_secs(24 * 60 * 60);

impl Kept {
    /// What is made at `now` without a lease is kept for a while; with one, as long as the lease or a reference says.
    pub(crate) fn until_held(leased: bool, now: i64) -> Self {
        let until = i64::try_from(UNLEASED.as_nanos()).unwrap_or(i64::MAX);
        Self {
            root: !leased,
            flat: false,
            expires_at: (!leased).then(|| now.saturating_add(until)),
        }
    }
}

const FAILED: &str = "read or write references";

/// The id of a namespace that exists.
pub(crate) fn namespace_id(
    connection: &Connection,
    namespace: &Namespace,
) -> Result<Option<i64>, Error> {
    connection
        .prepare_cached("SELECT id FROM namespaces WHERE name = ?1")
        .and_then(|mut select| {
            select
                .query_row([namespace.as_str()], |row| row.get(0))
                .optional()
        })
        .map_err(Error::database("look a namespace up"))
}

/// The id of a namespace, which is created if it does not exist: clients of containerd expect that.
pub(crate) fn ensure_namespace(tx: &Tx<'_>, namespace: &Namespace) -> Result<i64, Error> {
    if let Some(id) = namespace_id(tx, namespace)? {
        return Ok(id);
    }
    tx.prepare_cached("INSERT INTO namespaces (name, labels) VALUES (?1, '{}')")
        .and_then(|mut insert| insert.insert([namespace.as_str()]))
        .map_err(Error::database("create a namespace"))
}

/// The id of a node that has a record.
pub(crate) fn find_live(connection: &Connection, node: NodeKey<'_>) -> Result<Option<i64>, Error> {
    Ok(find(connection, node)?.and_then(|(id, live)| live.then_some(id)))
}

fn find(connection: &Connection, node: NodeKey<'_>) -> Result<Option<(i64, bool)>, Error> {
    connection
        .prepare_cached(
            "SELECT id, live FROM nodes WHERE namespace = ?1 AND kind = ?2 AND scope = ?3 AND key = ?4",
        )
        .and_then(|mut select| {
            let values = params![node.namespace, node.kind as u8, node.scope, node.key];
            let found = select.query_row(values, |row| Ok((row.get(0)?, row.get(1)?)));
            found.optional()
        })
        .map_err(Error::database(FAILED))
}

/// The id of a node, which is created without a record if it is not there.
pub(crate) fn intern(tx: &Tx<'_>, node: NodeKey<'_>) -> Result<i64, Error> {
    if let Some((id, _)) = find(tx, node)? {
        return Ok(id);
    }
    tx.prepare_cached("INSERT INTO nodes (namespace, kind, scope, key) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut insert| {
            insert.insert(params![
                node.namespace,
                node.kind as u8,
                node.scope,
                node.key
            ])
        })
        .map_err(Error::database(FAILED))
}

/// Gives a node its record. Nothing if it has one.
pub(crate) fn enliven(tx: &Tx<'_>, node: NodeKey<'_>, kept: Kept) -> Result<Option<i64>, Error> {
    let id = intern(tx, node)?;
    let changed = tx
        .prepare_cached(
            "UPDATE nodes SET live = 1, root = ?2, flat = ?3, expires_at = ?4 WHERE id = ?1 AND live = 0",
        )
        .and_then(|mut update| update.execute(params![id, kept.root, kept.flat, kept.expires_at]))
        .map_err(Error::database(FAILED))?;
    Ok((changed == 1).then_some(id))
}

/// Changes how a record is kept by itself.
pub(crate) fn keep(tx: &Tx<'_>, id: i64, kept: Kept) -> Result<(), Error> {
    tx.prepare_cached("UPDATE nodes SET root = ?2, flat = ?3, expires_at = ?4 WHERE id = ?1")
        .and_then(|mut update| update.execute(params![id, kept.root, kept.flat, kept.expires_at]))
        .map_err(Error::database(FAILED))?;
    Ok(())
}

/// Takes a node's record away: what it said goes, and the node too unless others still name it.
///
/// The row of the record itself is the caller's, and must be gone before.
pub(crate) fn retire(tx: &Tx<'_>, id: i64) -> Result<(), Error> {
    unlink_owned(tx, id, None)?;
    tx.prepare_cached(
        "UPDATE nodes SET live = 0, root = 0, flat = 0, expires_at = NULL WHERE id = ?1",
    )
    .and_then(|mut update| update.execute([id]))
    .map_err(Error::database(FAILED))?;
    forget_if_unnamed(tx, id)?;
    tx.note_deletion();
    Ok(())
}

/// Adds the edge by which `owner` says that `source` holds `target`.
pub(crate) fn link(
    tx: &Tx<'_>,
    (source, target, owner): (i64, i64, i64),
    kind: EdgeKind,
    via: Option<&str>,
) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO refs (source, target, owner, kind, via) VALUES (?1, ?2, ?3, ?4, ?5)",
    )
    .and_then(|mut insert| insert.execute(params![source, target, owner, kind as u8, via]))
    .map_err(Error::database(FAILED))?;
    Ok(())
}

/// Removes edges that `owner` said, all of them or those of some kinds.
pub(crate) fn unlink_owned(
    tx: &Tx<'_>,
    owner: i64,
    kinds: Option<&[EdgeKind]>,
) -> Result<(), Error> {
    let failed = Error::database(FAILED);
    let mut select = tx
        .prepare_cached("SELECT id, source, target, kind FROM refs WHERE owner = ?1")
        .map_err(failed)?;
    let edges = select
        .query_map([owner], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .and_then(Iterator::collect::<Result<Vec<(i64, i64, i64, u8)>, _>>)
        .map_err(failed)?;
    for (id, source, target, kind) in edges {
        if kinds.is_none_or(|kinds| kinds.iter().any(|wanted| *wanted as u8 == kind)) {
            let other = if source == owner { target } else { source };
            remove_edge(tx, id, other)?;
        }
    }
    Ok(())
}

/// Removes the edges by which `owner` holds `target`; whether there was one.
pub(crate) fn unlink(tx: &Tx<'_>, owner: i64, target: i64, kind: EdgeKind) -> Result<bool, Error> {
    let removed = tx
        .prepare_cached("DELETE FROM refs WHERE owner = ?1 AND target = ?2 AND kind = ?3")
        .and_then(|mut delete| delete.execute(params![owner, target, kind as u8]))
        .map_err(Error::database(FAILED))?;
    forget_if_unnamed(tx, target)?;
    tx.note_deletion();
    Ok(removed > 0)
}

fn remove_edge(tx: &Tx<'_>, id: i64, other: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM refs WHERE id = ?1")
        .and_then(|mut delete| delete.execute([id]))
        .map_err(Error::database(FAILED))?;
    tx.note_deletion();
    forget_if_unnamed(tx, other)
}

/// Drops a node that has no record and that no edge names.
fn forget_if_unnamed(tx: &Tx<'_>, id: i64) -> Result<(), Error> {
    tx.prepare_cached(
        "DELETE FROM nodes WHERE id = ?1 AND live = 0
            AND NOT EXISTS (SELECT 1 FROM refs WHERE target = ?1)
            AND NOT EXISTS (SELECT 1 FROM refs WHERE source = ?1)",
    )
    .and_then(|mut delete| delete.execute([id]))
    .map_err(Error::database(FAILED))?;
    Ok(())
}

/// Makes `target` a resource of `lease`, once.
pub(crate) fn bind(
    tx: &Tx<'_>,
    namespace: (i64, &Namespace),
    lease: &LeaseId,
    target: i64,
) -> Result<(), Error> {
    let lease = lease_id(tx, namespace, lease)?;
    let bound = tx
        .prepare_cached("SELECT 1 FROM refs WHERE owner = ?1 AND target = ?2 AND kind = ?3")
        .and_then(|mut select| select.exists(params![lease, target, EdgeKind::Lease as u8]))
        .map_err(Error::database(FAILED))?;
    if bound {
        return Ok(());
    }
    link(tx, (lease, target, lease), EdgeKind::Lease, None)
}

/// The node of a lease that exists.
pub(crate) fn lease_id(
    connection: &Connection,
    (id, namespace): (i64, &Namespace),
    lease: &LeaseId,
) -> Result<i64, Error> {
    let node = NodeKey {
        namespace: id,
        kind: NodeKind::Lease,
        scope: "",
        key: lease.as_str(),
    };
    find_live(connection, node)?.ok_or_else(|| not_found(NodeKind::Lease, lease, namespace))
}

/// Whether a namespace other than `except` has a live record of this kind and key; its node.
pub(crate) fn live_elsewhere(
    connection: &Connection,
    node: NodeKey<'_>,
) -> Result<Option<i64>, Error> {
    connection
        .prepare_cached(
            "SELECT node.id FROM namespaces CROSS JOIN nodes AS node
                ON node.namespace = namespaces.id AND node.kind = ?2 AND node.scope = ?3 AND node.key = ?4
             WHERE namespaces.id <> ?1 AND node.live = 1 LIMIT 1",
        )
        .and_then(|mut select| {
            let values = params![node.namespace, node.kind as u8, node.scope, node.key];
            select.query_row(values, |row| row.get(0)).optional()
        })
        .map_err(Error::database(FAILED))
}

pub(crate) fn not_found(kind: NodeKind, key: impl ToString, namespace: &Namespace) -> Error {
    Error::NotFound {
        kind: kind.as_str(),
        key: key.to_string(),
        namespace: namespace.to_string(),
    }
}

pub(crate) fn already_exists(kind: NodeKind, key: impl ToString, namespace: &Namespace) -> Error {
    Error::AlreadyExists {
        kind: kind.as_str(),
        key: key.to_string(),
        namespace: namespace.to_string(),
    }
}

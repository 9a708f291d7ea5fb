//! Nodes and edges as compact arrays, read in one transaction.

use rusqlite::Connection;

use crate::Error;
use crate::node::{EdgeKind, NodeKind};

/// The node's place in the arrays.
pub(crate) type Index = u32;

/// What marking needs to know of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// The row in `nodes`.
    pub(crate) id: i64,
    pub(crate) kind: NodeKind,
    /// Whether there is a record.
    pub(crate) live: bool,
    /// Whether it is kept by itself, until `expires_at`.
    pub(crate) root: bool,
    pub(crate) flat: bool,
    /// Nanoseconds since 1970.
    pub(crate) expires_at: Option<i64>,
}

/// An edge: source, target, why.
pub(crate) type Edge = (Index, Index, EdgeKind);

/// All nodes in the order of their ids, and of each the edges it is the source of.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    /// The edges of node `n` are those from `starts[n]` up to `starts[n + 1]`.
    starts: Vec<u32>,
    targets: Vec<Index>,
    kinds: Vec<EdgeKind>,
}

impl Graph {
    /// Sorts edges under their sources. `nodes` must be in the order of their ids.
    pub(crate) fn new(nodes: Vec<Node>, edges: &[Edge]) -> Self {
        let mut starts = vec![0_u32; nodes.len() + 1];
        for (source, _, _) in edges {
            starts[*source as usize + 1] += 1;
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let mut next = starts.clone();
        let mut targets = vec![0; edges.len()];
        let mut kinds = vec![EdgeKind::Field; edges.len()];
        for (source, target, kind) in edges {
            let slot = &mut next[*source as usize];
            targets[*slot as usize] = *target;
            kinds[*slot as usize] = *kind;
            *slot += 1;
        }
        Self {
            nodes,
            starts,
            targets,
            kinds,
        }
    }

    /// Reads all of both tables, in the caller's transaction.
    pub(crate) fn load(connection: &Connection) -> Result<Self, Error> {
        let nodes = load_nodes(connection)?;
        let edges = load_edges(connection, &nodes)?;
        Ok(Self::new(nodes, &edges))
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn edge_count(&self) -> usize {
        self.targets.len()
    }

    pub(crate) fn node(&self, index: Index) -> &Node {
        &self.nodes[index as usize]
    }

    pub(crate) fn indices(&self) -> std::ops::Range<Index> {
        0..u32::try_from(self.nodes.len()).expect("loading refuses more")
    }

    /// What `source` holds, and why.
    pub(crate) fn edges(&self, source: Index) -> impl Iterator<Item = (Index, EdgeKind)> + '_ {
        let source = source as usize;
        let range = self.starts[source] as usize..self.starts[source + 1] as usize;
        let targets = self.targets[range.clone()].iter().copied();
        targets.zip(self.kinds[range].iter().copied())
    }

    /// What `source` holds.
    pub(crate) fn targets(&self, source: Index) -> &[Index] {
        let source = source as usize;
        &self.targets[self.starts[source] as usize..self.starts[source + 1] as usize]
    }

    /// Where the node of row `id` is; nothing if it came after the arrays were read.
    pub(crate) fn find(&self, id: i64) -> Option<Index> {
        find(&self.nodes, id)
    }
}

fn find(nodes: &[Node], id: i64) -> Option<Index> {
    let found = nodes.binary_search_by_key(&id, |node| node.id).ok()?;
    u32::try_from(found).ok()
}

fn load_nodes(connection: &Connection) -> Result<Vec<Node>, Error> {
    let failed = Error::database("read nodes");
    let mut select = connection
        .prepare_cached("SELECT id, kind, live, root, flat, expires_at FROM nodes ORDER BY id")
        .map_err(failed)?;
    let mut rows = select.query([]).map_err(failed)?;
    let mut nodes = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let (id, kind): (i64, i64) = (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
        nodes.push(Node {
            id,
            kind: node_kind(kind).ok_or_else(|| damaged("nodes", id, "kind", kind))?,
            live: row.get(2).map_err(failed)?,
            root: row.get(3).map_err(failed)?,
            flat: row.get(4).map_err(failed)?,
            expires_at: row.get(5).map_err(failed)?,
        });
    }
    if u32::try_from(nodes.len()).is_err() {
        return Err(damaged("nodes", 0, "count", i64::MAX));
    }
    Ok(nodes)
}

fn load_edges(connection: &Connection, nodes: &[Node]) -> Result<Vec<Edge>, Error> {
    let failed = Error::database("read references");
    let mut select = connection
        .prepare_cached("SELECT id, source, target, kind FROM refs")
        .map_err(failed)?;
    let mut rows = select.query([]).map_err(failed)?;
    let mut edges = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let id: i64 = row.get(0).map_err(failed)?;
        let end = |column: usize, name: &'static str| -> Result<Index, Error> {
            let node: i64 = row.get(column).map_err(failed)?;
            find(nodes, node).ok_or_else(|| damaged("refs", id, name, node))
        };
        let kind: i64 = row.get(3).map_err(failed)?;
        let kind = edge_kind(kind).ok_or_else(|| damaged("refs", id, "kind", kind))?;
        edges.push((end(1, "source")?, end(2, "target")?, kind));
    }
    Ok(edges)
}

/// The kind stored as `number`.
pub(crate) const fn node_kind(number: i64) -> Option<NodeKind> {
    Some(match number {
        1 => NodeKind::Content,
        2 => NodeKind::Snapshot,
        3 => NodeKind::Container,
        4 => NodeKind::Image,
        5 => NodeKind::Lease,
        6 => NodeKind::Ingest,
        7 => NodeKind::Sandbox,
        8 => NodeKind::Mount,
        _ => return None,
    })
}

const fn edge_kind(number: i64) -> Option<EdgeKind> {
    Some(match number {
        1 => EdgeKind::Field,
        2 => EdgeKind::Label,
        3 => EdgeKind::BackLabel,
        4 => EdgeKind::Lease,
        _ => return None,
    })
}

/// What is not understood might hold something: nothing is collected until `fsck` has looked at it.
fn damaged(table: &'static str, id: i64, column: &'static str, value: i64) -> Error {
    Error::Corrupt {
        table,
        subject: id.to_string(),
        reason: format!("{column} {value} is not known"),
    }
}

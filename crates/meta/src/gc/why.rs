//! Why something is kept: the way from a root to it, hop by hop.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use orlop_types::{Digest, Namespace};
use rusqlite::{Connection, OptionalExtension, params};

use super::graph::{self, Graph, Index};
use super::mark::{self, Trace};
use super::queue::{self, QueueItem};
use crate::node::{EdgeKind, NodeKind};
use crate::time::from_nanos;
use crate::{Db, Error};

const FAILED: &str = "look who holds something";

/// A digest may be shortened to so many of its hexadecimal characters, as long as it stays unique.
const PREFIX_CHARS_MIN: usize = 6;

/// The kinds of things that hold or are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ResourceKind {
    Content,
    Snapshot,
    Container,
    Image,
    Lease,
    Ingest,
    Sandbox,
    /// Mounts made ahead.
    Mount,
}

/// Something that holds or is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Where its record is.
    pub namespace: String,
    /// What it is.
    pub kind: ResourceKind,
    /// The snapshotter of a snapshot, else empty.
    pub snapshotter: String,
    /// Its key.
    pub key: String,
}

/// Why a path begins where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootReason {
    /// A lease, until it is released or expires.
    Lease {
        /// When it expires; never if absent.
        expires_at: Option<SystemTime>,
        /// It holds its resources, but not what their labels name.
        flat: bool,
    },
    /// An image's name.
    Image {
        /// When it expires; never if absent.
        expires_at: Option<SystemTime>,
    },
    /// A container's record.
    Container,
    /// A sandbox's record.
    Sandbox,
    /// Its own label `containerd.io/gc.root…`.
    RootLabel,
    /// It was made without a lease, and is kept for a while for its maker to refer to it.
    MadeWithoutLease {
        /// Until when.
        until: SystemTime,
    },
}

/// Through what a hop holds the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// A field: a snapshot's parent, an image's target, a container's snapshot, an ingest's expected blob.
    Field(&'static str),
    /// A label of the holder.
    Label(String),
    /// A label of what is held, which names its holder.
    BackLabel(String),
    /// It is a resource of the lease.
    LeaseResource,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// What is held at this step, or for the first one, the root.
    pub resource: Resource,
    /// Through what the step before holds it; nothing for the root.
    pub via: Option<Via>,
}

/// A path from a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Why the first hop is a root.
    pub root: RootReason,
    /// From the root to the resource asked for. No path is shorter.
    pub path: Vec<Hop>,
}

/// What is to be said about one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Something holds it.
    Held(Held),
    /// Nothing holds it: the next pass removes it.
    Unheld,
    /// It has no record any more; its bytes are to go.
    Queued(Box<QueueItem>),
    /// It has no record; others name it all the same.
    Missing,
}

/// One answer: a key can stand for several resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// The resource.
    pub resource: Resource,
    /// Whether its record is in another namespace than the one asked for.
    pub is_elsewhere: bool,
    /// Why it is there.
    pub verdict: Verdict,
}

impl Db {
    /// Why everything that `key` can stand for is kept: a digest or the unique beginning of its hexadecimal form, a
    /// snapshot's key, an image's name, an id. `kind` narrows it down.
    ///
    /// First what the namespace has, then what others have under the same key, then what waits in the sweep queue. No
    /// answer at all: nothing of this name is known.
    ///
    /// # Errors
    /// `InvalidArgument` for a beginning that several digests share, `Database`, `Corrupt`.
    pub fn why(
        &self,
        namespace: &Namespace,
        key: &str,
        kind: Option<ResourceKind>,
    ) -> Result<Vec<Why>, Error> {
        let now = self.now();
        self.read(FAILED, |connection| {
            let full = complete(connection, key)?;
            let key = full.as_deref().unwrap_or(key);
            let found = find(connection, key, kind)?;
            let mut answers = Vec::with_capacity(found.len());
            if !found.is_empty() {
                let graph = Graph::load(connection)?;
                let trace = mark::trace(&graph, now);
                for (id, live) in found {
                    let answer = answer(connection, (&graph, &trace), (id, live), now)?;
                    answers.extend(answer.map(|(resource, verdict)| Why {
                        is_elsewhere: resource.namespace != namespace.as_str(),
                        resource,
                        verdict,
                    }));
                }
            }
            answers.sort_by_key(|answer| answer.is_elsewhere);
            answers.extend(queued(connection, key, kind)?);
            Ok(answers)
        })
    }
}

/// The whole digest, if the text is the beginning of exactly one that a record or the queue names.
fn complete(connection: &Connection, text: &str) -> Result<Option<String>, Error> {
    let (algorithm, hex) = text.split_once(':').unwrap_or(("", text));
    let is_hex = hex
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_known = matches!(algorithm, "" | "sha256" | "sha512");
    if !is_hex || !is_known || hex.len() < PREFIX_CHARS_MIN || text.parse::<Digest>().is_ok() {
        return Ok(None);
    }
    let failed = Error::database(FAILED);
    let algorithms = ["sha256", "sha512"].into_iter();
    let mut found = Vec::new();
    for algorithm in algorithms.filter(|known| algorithm.is_empty() || algorithm == *known) {
        // `g` is the character after the last hexadecimal one.
        let (from, to) = (format!("{algorithm}:{hex}"), format!("{algorithm}:{hex}g"));
        let mut select = connection
            .prepare_cached(
                "SELECT DISTINCT node.key FROM namespaces CROSS JOIN nodes AS node
                    ON node.namespace = namespaces.id AND node.kind = ?3 AND node.scope = ''
                    AND node.key >= ?1 AND node.key < ?2
                 UNION SELECT key FROM sweeps WHERE key >= ?1 AND key < ?2 LIMIT 3",
            )
            .map_err(failed)?;
        let keys = select
            .query_map(params![from, to, NodeKind::Content as u8], |row| row.get(0))
            .and_then(Iterator::collect::<Result<Vec<String>, _>>)
            .map_err(failed)?;
        found.extend(keys);
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => {
            let reason = format!("it is the beginning of {first}, {second} and perhaps others");
            Err(Error::invalid("look who holds", text, reason))
        }
    }
}

/// The nodes of this key in all namespaces, with whether they have a record.
fn find(
    connection: &Connection,
    key: &str,
    kind: Option<ResourceKind>,
) -> Result<Vec<(i64, bool)>, Error> {
    let failed = Error::database(FAILED);
    let mut select = connection
        .prepare_cached("SELECT id, live FROM nodes WHERE key = ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY kind, id")
        .map_err(failed)?;
    select
        .query_map(params![key, kind.map(|kind| kind.node() as u8)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .and_then(Iterator::collect)
        .map_err(failed)
}

fn answer(
    connection: &Connection,
    (graph, trace): (&Graph, &Trace),
    (id, live): (i64, bool),
    now: i64,
) -> Result<Option<(Resource, Verdict)>, Error> {
    let Some(index) = graph.find(id) else {
        return Ok(None);
    };
    let resource = resource(connection, id)?;
    let path = trace.path(graph, index);
    let verdict = match path.first() {
        _ if !live => Verdict::Missing,
        None => Verdict::Unheld,
        Some(root) => Verdict::Held(Held {
            root: reason(graph, *root, now),
            path: hops(connection, graph, &path)?,
        }),
    };
    Ok(Some((resource, verdict)))
}

fn hops(connection: &Connection, graph: &Graph, path: &[Index]) -> Result<Vec<Hop>, Error> {
    let mut hops = Vec::with_capacity(path.len());
    for (place, index) in path.iter().enumerate() {
        let id = graph.node(*index).id;
        let via = match place.checked_sub(1) {
            None => None,
            Some(before) => Some(via(connection, graph, (path[before], *index))?),
        };
        hops.push(Hop {
            resource: resource(connection, id)?,
            via,
        });
    }
    Ok(hops)
}

fn via(
    connection: &Connection,
    graph: &Graph,
    (source, target): (Index, Index),
) -> Result<Via, Error> {
    let mut edges = graph.edges(source).filter(|(held, _)| *held == target);
    // Fields first: a flat lease follows nothing else.
    let kind = edges
        .by_ref()
        .map(|(_, kind)| kind)
        .min_by_key(|kind| *kind as u8)
        .unwrap_or(EdgeKind::Field);
    let label: Option<Option<String>> = connection
        .prepare_cached(
            "SELECT via FROM refs WHERE source = ?1 AND target = ?2 AND kind = ?3 ORDER BY id",
        )
        .and_then(|mut select| {
            let ids = (graph.node(source).id, graph.node(target).id);
            let values = params![ids.0, ids.1, kind as u8];
            select.query_row(values, |row| row.get(0)).optional()
        })
        .map_err(Error::database(FAILED))?;
    let label = label.flatten().unwrap_or_default();
    Ok(match kind {
        EdgeKind::Field => Via::Field(field_of(graph.node(source).kind)),
        EdgeKind::Label => Via::Label(label),
        EdgeKind::BackLabel => Via::BackLabel(label),
        EdgeKind::Lease => Via::LeaseResource,
    })
}

const fn field_of(holder: NodeKind) -> &'static str {
    match holder {
        NodeKind::Snapshot => "parent",
        NodeKind::Image => "target",
        NodeKind::Container => "snapshot",
        NodeKind::Ingest => "expected",
        NodeKind::Content | NodeKind::Lease | NodeKind::Sandbox | NodeKind::Mount => "field",
    }
}

fn reason(graph: &Graph, root: Index, now: i64) -> RootReason {
    let node = graph.node(root);
    let expires_at = node.expires_at.map(from_nanos);
    match (node.kind, expires_at) {
        (NodeKind::Lease, expires_at) => RootReason::Lease {
            expires_at,
            flat: node.flat,
        },
        (NodeKind::Image, expires_at) => RootReason::Image { expires_at },
        (NodeKind::Container, _) => RootReason::Container,
        (NodeKind::Sandbox, _) => RootReason::Sandbox,
        (NodeKind::Ingest | NodeKind::Mount, until) => RootReason::MadeWithoutLease {
            until: until.unwrap_or_else(|| from_nanos(now)),
        },
        (NodeKind::Content | NodeKind::Snapshot, Some(until)) => {
            RootReason::MadeWithoutLease { until }
        }
        (NodeKind::Content | NodeKind::Snapshot, None) => RootReason::RootLabel,
    }
}

fn resource(connection: &Connection, id: i64) -> Result<Resource, Error> {
    let failed = Error::database(FAILED);
    let (kind, namespace, snapshotter, key): (i64, String, String, String) = connection
        .prepare_cached(
            "SELECT kind, namespaces.name, scope, key FROM nodes JOIN namespaces ON namespaces.id = namespace
             WHERE nodes.id = ?1",
        )
        .and_then(|mut select| {
            select.query_row([id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
        })
        .map_err(failed)?;
    let kind = graph::node_kind(kind).ok_or_else(|| Error::Corrupt {
        table: "nodes",
        subject: id.to_string(),
        reason: format!("kind {kind} is not known"),
    })?;
    Ok(Resource {
        namespace,
        kind: kind.into(),
        snapshotter,
        key,
    })
}

fn queued(
    connection: &Connection,
    key: &str,
    kind: Option<ResourceKind>,
) -> Result<Vec<Why>, Error> {
    let items = queue::named(connection, key)?;
    let answers = items.into_iter().filter_map(|item| {
        let of = match item.kind() {
            "content" => ResourceKind::Content,
            "ingest" => ResourceKind::Ingest,
            "snapshot" => ResourceKind::Snapshot,
            "mount" => ResourceKind::Mount,
            _ => return None,
        };
        kind.is_none_or(|kind| kind == of).then(|| Why {
            resource: Resource {
                namespace: String::new(),
                kind: of,
                snapshotter: item.scope.clone(),
                key: item.key.clone(),
            },
            is_elsewhere: false,
            verdict: Verdict::Queued(Box::new(item)),
        })
    });
    Ok(answers.collect())
}

impl ResourceKind {
    /// The word for it, as [`FromStr`] reads it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.node().as_str()
    }

    const fn node(self) -> NodeKind {
        match self {
            Self::Content => NodeKind::Content,
            Self::Snapshot => NodeKind::Snapshot,
            Self::Container => NodeKind::Container,
            Self::Image => NodeKind::Image,
            Self::Lease => NodeKind::Lease,
            Self::Ingest => NodeKind::Ingest,
            Self::Sandbox => NodeKind::Sandbox,
            Self::Mount => NodeKind::Mount,
        }
    }
}

impl From<NodeKind> for ResourceKind {
    fn from(kind: NodeKind) -> Self {
        match kind {
            NodeKind::Content => Self::Content,
            NodeKind::Snapshot => Self::Snapshot,
            NodeKind::Container => Self::Container,
            NodeKind::Image => Self::Image,
            NodeKind::Lease => Self::Lease,
            NodeKind::Ingest => Self::Ingest,
            NodeKind::Sandbox => Self::Sandbox,
            NodeKind::Mount => Self::Mount,
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for ResourceKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let kinds = [
            Self::Content,
            Self::Snapshot,
            Self::Container,
            Self::Image,
            Self::Lease,
            Self::Ingest,
            Self::Sandbox,
            Self::Mount,
        ];
        let found = kinds.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| Error::invalid("read a kind", text, "it is not known"))
    }
}

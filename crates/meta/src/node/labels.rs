//! containerd's collection labels, read into edges and expiries (`docs/garbage-collection.md` of containerd).

use orlop_types::Labels;

use super::{EdgeKind, Kept, NodeKey, NodeKind, intern, keep, link, unlink_owned};
use crate::Error;
use crate::db::Tx;
use crate::time::parse_rfc3339;

const ROOT: &str = "containerd.io/gc.root";
const EXPIRE: &str = "containerd.io/gc.expire";
const FLAT: &str = "containerd.io/gc.flat";
const REFERENCE: &str = "containerd.io/gc.ref.";
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";

/// How a record with these labels is kept by itself, before anything refers to it.
pub(crate) fn expiry(kind: NodeKind, key: &str, labels: &Labels) -> Kept {
    match kind {
        NodeKind::Container | NodeKind::Sandbox => Kept {
            root: true,
            ..Kept::default()
        },
        NodeKind::Image | NodeKind::Lease => Kept {
            root: true,
            flat: kind == NodeKind::Lease && labels.value(FLAT).is_some(),
            expires_at: expires_at(kind, key, labels),
        },
        NodeKind::Content | NodeKind::Snapshot => Kept {
            root: labels.iter().any(|(label, _)| label.starts_with(ROOT)),
            ..Kept::default()
        },
        NodeKind::Ingest | NodeKind::Mount => Kept::default(),
    }
}

fn expires_at(kind: NodeKind, key: &str, labels: &Labels) -> Option<i64> {
    let text = labels.value(EXPIRE)?;
    let time = parse_rfc3339(text);
    if time.is_none() {
        // As in containerd: a time nobody can read never comes.
        tracing::info!(
            kind = kind.as_str(),
            key,
            text,
            "ignoring an expiry that is no RFC 3339 time"
        );
    }
    time
}

/// Rewrites what a record's labels say: its label edges, and with `kept` how it is kept by itself.
pub(crate) fn relabel(
    tx: &Tx<'_>,
    (id, namespace): (i64, i64),
    labels: &Labels,
    kept: Option<Kept>,
) -> Result<(), Error> {
    unlink_owned(tx, id, Some(&[EdgeKind::Label, EdgeKind::BackLabel]))?;
    for Named {
        label,
        value,
        kind,
        scope,
        back,
    } in named(labels)
    {
        let other = intern(
            tx,
            NodeKey {
                namespace,
                kind,
                scope,
                key: value,
            },
        )?;
        if back {
            link(tx, (other, id, id), EdgeKind::BackLabel, Some(label))?;
        } else {
            link(tx, (id, other, id), EdgeKind::Label, Some(label))?;
        }
    }
    match kept {
        Some(kept) => keep(tx, id, kept),
        None => Ok(()),
    }
}

/// A node that a label names.
pub(crate) struct Named<'a> {
    pub(crate) label: &'a str,
    pub(crate) value: &'a str,
    pub(crate) kind: NodeKind,
    pub(crate) scope: &'a str,
    /// Whether the node holds the record with the label, not the other way round.
    pub(crate) back: bool,
}

/// The nodes that a record's labels name.
pub(crate) fn named(labels: &Labels) -> impl Iterator<Item = Named<'_>> {
    labels.iter().filter_map(|(label, value)| {
        let forward = label.strip_prefix(REFERENCE).map(forward_target);
        let back = || label.strip_prefix(BACK_REFERENCE).map(back_source);
        let is_back = forward.is_none();
        let (kind, scope) = forward.or_else(back).flatten()?;
        Some(Named {
            label,
            value,
            kind,
            scope,
            back: is_back,
        })
    })
}

fn forward_target(rest: &str) -> Option<(NodeKind, &str)> {
    if let Some(snapshotter) = rest.strip_prefix("snapshot.") {
        return Some((NodeKind::Snapshot, without_name(snapshotter)));
    }
    [("content", NodeKind::Content), ("image", NodeKind::Image)]
        .into_iter()
        .find(|(word, _)| is_word(rest, word))
        .map(|(_, kind)| (kind, ""))
}

fn back_source(rest: &str) -> Option<(NodeKind, &str)> {
    if is_word(rest, "container") {
        return Some((NodeKind::Container, ""));
    }
    forward_target(rest)
}

/// Whether `rest` is `word`, or `word` with a name of the user's after a dot or slash.
fn is_word(rest: &str, word: &str) -> bool {
    rest.strip_prefix(word)
        .is_some_and(|name| name.is_empty() || name.starts_with(['.', '/']))
}

fn without_name(snapshotter: &str) -> &str {
    snapshotter
        .split_once('/')
        .map_or(snapshotter, |(snapshotter, _)| snapshotter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_what_containerd_reads_in_them() {
        for (rest, expected) in [
            ("content", Some((NodeKind::Content, ""))),
            ("content.l.0", Some((NodeKind::Content, ""))),
            ("content/config", Some((NodeKind::Content, ""))),
            ("contents", None),
            ("image", Some((NodeKind::Image, ""))),
            (
                "snapshot.overlayfs",
                Some((NodeKind::Snapshot, "overlayfs")),
            ),
            ("snapshot.native/x", Some((NodeKind::Snapshot, "native"))),
            ("snapshot", None),
            ("container", None),
            ("", None),
        ] {
            assert_eq!(forward_target(rest), expected, "{rest}");
        }
        assert_eq!(back_source("container.a"), Some((NodeKind::Container, "")));
    }

    #[test]
    fn only_leases_and_images_expire_and_only_bytes_need_a_root_label() {
        let mut labels = Labels::new();
        labels.insert(EXPIRE, "2026-11-23T12:56:39Z").unwrap();
        labels.insert(ROOT, "yes").unwrap();
        let kept = |kind| expiry(kind, "k", &labels);
        assert!(kept(NodeKind::Lease).expires_at.is_some());
        assert!(kept(NodeKind::Image).expires_at.is_some());
        assert_eq!(kept(NodeKind::Content).expires_at, None);
        assert!(kept(NodeKind::Content).root);
        assert!(!expiry(NodeKind::Content, "k", &Labels::new()).root);
        labels.insert(EXPIRE, "soon").unwrap();
        assert_eq!(expiry(NodeKind::Lease, "k", &labels).expires_at, None);
    }
}

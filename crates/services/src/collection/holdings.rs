//! Why something is kept, in words.

use std::time::SystemTime;

use orlop_api::orlop::v1 as api;
use orlop_base::units::format_moment;
use orlop_meta::gc::{Hop, Resource, ResourceKind, RootReason, Verdict, Via};
use orlop_meta::{Error, View};
use orlop_types::{Namespace, SnapshotterName};
use tonic::Status;

use super::sweep_item;
use crate::status;

/// The kind a caller asks for; nothing means all of them.
///
/// # Errors
/// `INVALID_ARGUMENT` for namespaces, which nothing holds.
pub(super) fn kind(wanted: api::ResourceKind) -> Result<Option<ResourceKind>, Status> {
    Ok(Some(match wanted {
        api::ResourceKind::Unspecified => return Ok(None),
        api::ResourceKind::Namespace => {
            return Err(status::invalid_text(
                "namespaces are not collected: a client that made one removes it",
            ));
        }
        api::ResourceKind::Lease => ResourceKind::Lease,
        api::ResourceKind::Image => ResourceKind::Image,
        api::ResourceKind::Container => ResourceKind::Container,
        api::ResourceKind::Sandbox => ResourceKind::Sandbox,
        api::ResourceKind::Content => ResourceKind::Content,
        api::ResourceKind::Snapshot => ResourceKind::Snapshot,
        api::ResourceKind::Ingest => ResourceKind::Ingest,
        api::ResourceKind::Mount => ResourceKind::Mount,
    }))
}

pub(super) const fn kind_message(kind: ResourceKind) -> api::ResourceKind {
    match kind {
        ResourceKind::Lease => api::ResourceKind::Lease,
        ResourceKind::Image => api::ResourceKind::Image,
        ResourceKind::Container => api::ResourceKind::Container,
        ResourceKind::Sandbox => api::ResourceKind::Sandbox,
        ResourceKind::Content => api::ResourceKind::Content,
        ResourceKind::Snapshot => api::ResourceKind::Snapshot,
        ResourceKind::Ingest => api::ResourceKind::Ingest,
        ResourceKind::Mount => api::ResourceKind::Mount,
    }
}

/// Everything that `key` stands for and that has a record or waits for the sweep.
pub(super) fn find(
    view: &View,
    key: &str,
    kind: Option<ResourceKind>,
) -> Result<Vec<api::Holding>, Error> {
    let answers = view.db().why(view.namespace(), key, kind)?;
    let mut holdings = Vec::with_capacity(answers.len());
    for answer in answers {
        let mut holding = api::Holding {
            resource: Some(resource(&answer.resource)),
            ..api::Holding::default()
        };
        match answer.verdict {
            Verdict::Held(held) => {
                let root = root_reason(held.root);
                holding.path = held
                    .path
                    .iter()
                    .map(|hop| hop_message(hop, &root))
                    .collect();
                holding.bytes = bytes(view, &answer.resource)?;
            }
            Verdict::Unheld => holding.bytes = bytes(view, &answer.resource)?,
            Verdict::Queued(item) => {
                holding.bytes = item.bytes;
                holding.sweep = Some(sweep_item(&item));
            }
            // A name in somebody's label, and nothing behind it.
            Verdict::Missing => continue,
        }
        holdings.push(holding);
    }
    Ok(holdings)
}

fn hop_message(hop: &Hop, root: &str) -> api::Hop {
    api::Hop {
        resource: Some(resource(&hop.resource)),
        reason: match &hop.via {
            None => root.to_owned(),
            Some(Via::Field(field)) => format!("its {field}"),
            Some(Via::Label(label)) => format!("label {label}"),
            Some(Via::BackLabel(label)) => format!("label {label} of what it holds"),
            Some(Via::LeaseResource) => "a resource of the lease".to_owned(),
        },
    }
}

fn root_reason(root: RootReason) -> String {
    match root {
        RootReason::Lease { expires_at, flat } => {
            let flat = if flat { "a flat lease" } else { "a lease" };
            format!("{flat}, {}", until(expires_at))
        }
        RootReason::Image { expires_at } => format!("an image's name, {}", until(expires_at)),
        RootReason::Container => "a container's record".to_owned(),
        RootReason::Sandbox => "a sandbox's record".to_owned(),
        RootReason::RootLabel => "its own label containerd.io/gc.root".to_owned(),
        RootReason::MadeWithoutLease { until } => format!(
            "made without a lease, kept until {} for its maker to refer to it",
            format_moment(until)
        ),
    }
}

fn until(expires_at: Option<SystemTime>) -> String {
    match expires_at {
        Some(moment) => format!("until {}", format_moment(moment)),
        None => "until it is removed".to_owned(),
    }
}

fn resource(resource: &Resource) -> api::Resource {
    api::Resource {
        kind: kind_message(resource.kind).into(),
        namespace: resource.namespace.clone(),
        key: resource.key.clone(),
        snapshotter: resource.snapshotter.clone(),
    }
}

/// What a blob or committed snapshot takes; 0 for everything else, and for what has gone meanwhile.
fn bytes(view: &View, resource: &Resource) -> Result<u64, Error> {
    let Ok(namespace) = Namespace::new(&resource.namespace) else {
        return Ok(0);
    };
    let view = view.db().namespace(&namespace);
    let found = match resource.kind {
        ResourceKind::Content => match resource.key.parse() {
            Ok(digest) => view.content().info(&digest).map(|blob| blob.size),
            Err(_) => Ok(0),
        },
        ResourceKind::Snapshot => match (
            SnapshotterName::new(&resource.snapshotter),
            resource.key.parse(),
        ) {
            (Ok(snapshotter), Ok(key)) => {
                let snapshot = view.snapshots(&snapshotter).stat(&key);
                snapshot.map(|snapshot| snapshot.usage.map_or(0, |usage| usage.bytes))
            }
            (Ok(_) | Err(_), _) => Ok(0),
        },
        ResourceKind::Container
        | ResourceKind::Image
        | ResourceKind::Lease
        | ResourceKind::Ingest
        | ResourceKind::Sandbox
        | ResourceKind::Mount => Ok(0),
    };
    match found {
        Err(Error::NotFound { .. }) => Ok(0),
        other => other,
    }
}

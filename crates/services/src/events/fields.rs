//! The fields of an event that filters can look at, under the names of containerd's messages.
//!
//! As in containerd, only text can be looked at, and labels under their keys: `event.container_id`,
//! `event.labels.tier`.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "each function looks at one family of events, and the enum is open for new ones"
)]

use std::borrow::Cow;

use orlop_meta::{Envelope, Event};
use orlop_types::Labels;
use orlop_types::filter::{Fields, label_field, text_field};

/// An event as filters see it.
pub(crate) struct Filtered<'a>(pub(crate) &'a Envelope);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "namespace" => text_field(self.0.namespace.as_str()),
            "topic" => text_field(self.0.event.topic()),
            "event" => event_field(&self.0.event, path.get(1..)?),
            _ => None,
        }
    }
}

fn event_field<'a>(event: &'a Event, path: &[String]) -> Option<Cow<'a, str>> {
    let name = path.first()?.as_str();
    if name == "labels" {
        return label_field(event_labels(event)?, path.get(1..)?);
    }
    stored_field(event, name)
        .or_else(|| record_field(event, name))
        .or_else(|| task_field(event, name))
}

fn event_labels(event: &Event) -> Option<&Labels> {
    match event {
        Event::NamespaceCreate { labels, .. }
        | Event::NamespaceUpdate { labels, .. }
        | Event::ImageCreate { labels, .. }
        | Event::ImageUpdate { labels, .. }
        | Event::ContentCreate { labels, .. }
        | Event::ContentUpdate { labels, .. }
        | Event::LeaseCreate { labels, .. }
        | Event::ContainerUpdate { labels, .. } => Some(labels),
        _ => None,
    }
}

fn stored_field<'a>(event: &'a Event, name: &str) -> Option<Cow<'a, str>> {
    match (event, name) {
        (
            Event::ContentCreate { digest, .. }
            | Event::ContentUpdate { digest, .. }
            | Event::ContentDelete { digest },
            "digest",
        ) => Some(digest.to_string().into()),
        (Event::ContentCreate { media_type, .. }, "mediaType") => {
            text_field(media_type.as_deref().unwrap_or_default())
        }
        (
            Event::SnapshotPrepare { key, .. }
            | Event::SnapshotCommit { key, .. }
            | Event::SnapshotRemove { key, .. },
            "key",
        ) => text_field(key.as_str()),
        (Event::SnapshotPrepare { parent, .. }, "parent") => parent
            .as_ref()
            .and_then(|parent| text_field(parent.as_str())),
        (Event::SnapshotCommit { name, .. }, "name") => text_field(name.as_str()),
        (
            Event::SnapshotPrepare { snapshotter, .. }
            | Event::SnapshotCommit { snapshotter, .. }
            | Event::SnapshotRemove { snapshotter, .. },
            "snapshotter",
        ) => text_field(snapshotter.as_str()),
        _ => None,
    }
}

fn record_field<'a>(event: &'a Event, name: &str) -> Option<Cow<'a, str>> {
    match (event, name) {
        (
            Event::NamespaceCreate { name, .. }
            | Event::NamespaceUpdate { name, .. }
            | Event::NamespaceDelete { name },
            "name",
        ) => text_field(name.as_str()),
        (
            Event::ImageCreate { name, .. }
            | Event::ImageUpdate { name, .. }
            | Event::ImageDelete { name },
            "name",
        ) => text_field(name.as_str()),
        (
            Event::ContainerCreate { id, .. }
            | Event::ContainerUpdate { id, .. }
            | Event::ContainerDelete { id },
            "id",
        ) => text_field(id.as_str()),
        (Event::ContainerCreate { image, .. } | Event::ContainerUpdate { image, .. }, "image") => {
            text_field(image)
        }
        (Event::ContainerUpdate { snapshot_key, .. }, "snapshot_key") => text_field(snapshot_key),
        (
            Event::SandboxCreate { id }
            | Event::SandboxStart { id }
            | Event::SandboxExit { id, .. }
            | Event::SandboxDelete { id },
            "sandbox_id",
        ) => text_field(id.as_str()),
        _ => None,
    }
}

fn task_field<'a>(event: &'a Event, name: &str) -> Option<Cow<'a, str>> {
    match (event, name) {
        (
            Event::TaskCreate { container, .. }
            | Event::TaskStart { container, .. }
            | Event::TaskOom { container }
            | Event::TaskExit { container, .. }
            | Event::TaskDelete { container, .. }
            | Event::TaskExecAdded { container, .. }
            | Event::TaskExecStarted { container, .. }
            | Event::TaskPaused { container }
            | Event::TaskResumed { container }
            | Event::TaskCheckpointed { container, .. },
            "container_id",
        ) => text_field(container.as_str()),
        (Event::TaskExit { process, .. } | Event::TaskDelete { process, .. }, "id") => {
            text_field(process)
        }
        (Event::TaskExecAdded { exec, .. } | Event::TaskExecStarted { exec, .. }, "exec_id") => {
            text_field(exec.as_str())
        }
        (Event::TaskCreate { bundle, .. }, "bundle") => text_field(bundle),
        (
            Event::TaskCreate { checkpoint, .. } | Event::TaskCheckpointed { checkpoint, .. },
            "checkpoint",
        ) => text_field(checkpoint),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use orlop_types::filter::Filters;

    use super::*;

    fn matches(filter: &str) -> bool {
        let envelope = Envelope {
            sequence: 1,
            at: SystemTime::UNIX_EPOCH,
            namespace: "k8s.io".parse().unwrap(),
            event: Event::TaskOom {
                container: "web".parse().unwrap(),
            },
        };
        Filters::parse([filter])
            .unwrap()
            .matches(&Filtered(&envelope))
    }

    #[test]
    fn filters_see_namespace_topic_and_the_fields_of_the_message() {
        for filter in [
            "",
            "namespace==k8s.io",
            "topic~=|^/tasks/.+|",
            "topic==\"/tasks/oom\",event.container_id==web",
        ] {
            assert!(matches(filter), "{filter} did not match");
        }
        for filter in ["namespace==other", "event.id", "event", "event.labels.a"] {
            assert!(!matches(filter), "{filter} matched");
        }
    }
}

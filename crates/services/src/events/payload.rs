//! What the outbox keeps, as containerd's event messages.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "each function looks at one family of events, and the enum is open for new ones"
)]

use std::time::{Duration, SystemTime};

use orlop_api::containerd::events as api;
use orlop_api::containerd::services::images::v1::{ImageCreate, ImageDelete, ImageUpdate};
use orlop_api::{Any, Timestamp, any};
use orlop_meta::Event;

use crate::translate::{mount_message, signed};

/// The event as containerd's clients know it; nothing for events that containerd does not have.
///
/// Those are left out of `Subscribe`: its clients take a payload of unknown type for an error.
pub(crate) fn containerd(event: &Event) -> Option<Any> {
    namespace_or_image(event)
        .or_else(|| stored(event))
        .or_else(|| container_or_sandbox(event))
        .or_else(|| task(event))
        .or_else(|| further_task(event))
        .or_else(|| forwarded(event))
}

fn namespace_or_image(event: &Event) -> Option<Any> {
    Some(match event.clone() {
        Event::NamespaceCreate { name, labels } => any::pack(&api::NamespaceCreate {
            name: name.into(),
            labels: labels.into(),
        }),
        Event::NamespaceUpdate { name, labels } => any::pack(&api::NamespaceUpdate {
            name: name.into(),
            labels: labels.into(),
        }),
        Event::NamespaceDelete { name } => any::pack(&api::NamespaceDelete { name: name.into() }),
        Event::ImageCreate { name, labels } => any::pack(&ImageCreate {
            name: name.into(),
            labels: labels.into(),
        }),
        Event::ImageUpdate { name, labels } => any::pack(&ImageUpdate {
            name: name.into(),
            labels: labels.into(),
        }),
        Event::ImageDelete { name } => any::pack(&ImageDelete { name: name.into() }),
        _ => return None,
    })
}

fn stored(event: &Event) -> Option<Any> {
    Some(match event.clone() {
        Event::ContentCreate {
            digest,
            size,
            media_type,
            labels: _,
        } => any::pack(&api::ContentCreate {
            digest: digest.to_string(),
            size: signed(size),
            media_type: media_type.unwrap_or_default(),
        }),
        Event::ContentDelete { digest } => any::pack(&api::ContentDelete {
            digest: digest.to_string(),
        }),
        Event::SnapshotPrepare {
            snapshotter,
            key,
            parent,
        } => any::pack(&api::SnapshotPrepare {
            key: key.into(),
            parent: parent.map(String::from).unwrap_or_default(),
            snapshotter: snapshotter.into(),
        }),
        Event::SnapshotCommit {
            snapshotter,
            key,
            name,
        } => any::pack(&api::SnapshotCommit {
            key: key.into(),
            name: name.into(),
            snapshotter: snapshotter.into(),
        }),
        Event::SnapshotRemove { snapshotter, key } => any::pack(&api::SnapshotRemove {
            key: key.into(),
            snapshotter: snapshotter.into(),
        }),
        _ => return None,
    })
}

fn container_or_sandbox(event: &Event) -> Option<Any> {
    Some(match event.clone() {
        Event::ContainerCreate { id, image, runtime } => any::pack(&api::ContainerCreate {
            id: id.into(),
            image,
            runtime: Some(api::container_create::Runtime {
                name: runtime,
                options: None,
            }),
        }),
        Event::ContainerUpdate {
            id,
            image,
            labels,
            snapshot_key,
        } => any::pack(&api::ContainerUpdate {
            id: id.into(),
            image,
            labels: labels.into(),
            snapshot_key,
        }),
        Event::ContainerDelete { id } => any::pack(&api::ContainerDelete { id: id.into() }),
        Event::SandboxCreate { id } => any::pack(&api::SandboxCreate {
            sandbox_id: id.into(),
        }),
        Event::SandboxStart { id } => any::pack(&api::SandboxStart {
            sandbox_id: id.into(),
        }),
        Event::SandboxExit {
            id,
            exit_status,
            exited_at,
        } => any::pack(&api::SandboxExit {
            sandbox_id: id.into(),
            exit_status,
            exited_at: Some(from_nanos(exited_at)),
        }),
        _ => return None,
    })
}

fn task(event: &Event) -> Option<Any> {
    Some(match event.clone() {
        Event::TaskCreate {
            container,
            bundle,
            rootfs,
            stdin,
            stdout,
            stderr,
            terminal,
            checkpoint,
            pid,
        } => any::pack(&api::TaskCreate {
            container_id: container.into(),
            bundle,
            rootfs: rootfs.into_iter().map(mount_message).collect(),
            io: Some(api::TaskIo {
                stdin,
                stdout,
                stderr,
                terminal,
            }),
            checkpoint,
            pid,
        }),
        Event::TaskStart { container, pid } => any::pack(&api::TaskStart {
            container_id: container.into(),
            pid,
        }),
        Event::TaskExit {
            container,
            process,
            pid,
            exit_status,
            exited_at,
            cause: _,
        } => any::pack(&api::TaskExit {
            container_id: container.into(),
            id: process,
            pid,
            exit_status,
            exited_at: Some(from_nanos(exited_at)),
        }),
        Event::TaskDelete {
            container,
            process,
            pid,
            exit_status,
            exited_at,
        } => any::pack(&api::TaskDelete {
            container_id: container.into(),
            pid,
            exit_status,
            exited_at: Some(from_nanos(exited_at)),
            id: process,
        }),
        _ => return None,
    })
}

fn further_task(event: &Event) -> Option<Any> {
    Some(match event.clone() {
        Event::TaskOom { container } => any::pack(&api::TaskOom {
            container_id: container.into(),
        }),
        Event::TaskExecAdded { container, exec } => any::pack(&api::TaskExecAdded {
            container_id: container.into(),
            exec_id: exec.into(),
        }),
        Event::TaskExecStarted {
            container,
            exec,
            pid,
        } => any::pack(&api::TaskExecStarted {
            container_id: container.into(),
            exec_id: exec.into(),
            pid,
        }),
        Event::TaskPaused { container } => any::pack(&api::TaskPaused {
            container_id: container.into(),
        }),
        Event::TaskResumed { container } => any::pack(&api::TaskResumed {
            container_id: container.into(),
        }),
        Event::TaskCheckpointed {
            container,
            checkpoint,
        } => any::pack(&api::TaskCheckpointed {
            container_id: container.into(),
            checkpoint,
        }),
        _ => return None,
    })
}

fn forwarded(event: &Event) -> Option<Any> {
    let Event::Forwarded {
        type_url, value, ..
    } = event
    else {
        return None;
    };
    Some(Any {
        type_url: type_url.clone(),
        value: from_base16(value)?,
    })
}

/// Bytes as the outbox keeps them.
pub(super) fn to_base16(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

fn from_base16(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn from_nanos(nanos: i64) -> Timestamp {
    let since = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    Timestamp::from(SystemTime::UNIX_EPOCH + since)
}

#[cfg(test)]
mod tests {
    use orlop_api::containerd::events::TaskExit;

    use super::*;

    #[test]
    fn an_event_has_the_type_and_fields_that_containerd_gives_it() {
        let event = Event::TaskExit {
            container: "web".parse().unwrap(),
            process: "web".to_owned(),
            pid: 7,
            exit_status: 137,
            exited_at: 1_500_000_000,
            cause: Some("workload_oom".to_owned()),
        };
        let any = containerd(&event).unwrap();
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        let exit: TaskExit = any::unpack(&any).unwrap();
        assert_eq!(exit.exit_status, 137);
        assert_eq!(
            exit.exited_at,
            Some(Timestamp {
                seconds: 1,
                nanos: 500_000_000
            })
        );
    }

    #[test]
    fn image_events_have_the_package_of_the_image_service() {
        let event = Event::ImageDelete {
            name: "docker.io/library/a:1".parse().unwrap(),
        };
        assert_eq!(
            containerd(&event).unwrap().type_url,
            "containerd.services.images.v1.ImageDelete"
        );
    }

    #[test]
    fn a_forwarded_event_comes_back_byte_by_byte() {
        let bytes = vec![0, 1, 0xfe, 0xff];
        let event = Event::Forwarded {
            topic: "/x".to_owned(),
            type_url: "some.Type".to_owned(),
            value: to_base16(&bytes),
            attributes: std::collections::BTreeMap::new(),
        };
        let any = containerd(&event).unwrap();
        assert_eq!((any.type_url.as_str(), any.value), ("some.Type", bytes));
    }

    #[test]
    fn events_that_containerd_does_not_have_are_left_out() {
        let event = Event::LeaseDelete {
            id: "a".parse().unwrap(),
            expired: true,
        };
        assert_eq!(containerd(&event), None);
    }
}

//! The content of containerd's events as JSON.

use orlop_api::containerd::events;
use orlop_api::containerd::services::images::v1::{ImageCreate, ImageDelete, ImageUpdate};
use orlop_api::{Any, Message, Name, any};
use serde_json::{Map, Value, json};

use crate::time;

/// Turns a message of one type into JSON, or says that it is of another.
type Describer = fn(&Any) -> Option<Value>;

/// Every type of event that containerd publishes. What is not here is shown by its type alone.
const DESCRIBERS: &[Describer] = &[
    |any| {
        of(
            any,
            |e: events::ContainerCreate| json!({ "id": e.id, "image": e.image }),
        )
    },
    |any| {
        of(
            any,
            |e: events::ContainerUpdate| json!({ "id": e.id, "image": e.image, "snapshot_key": e.snapshot_key }),
        )
    },
    |any| of(any, |e: events::ContainerDelete| json!({ "id": e.id })),
    |any| {
        of(
            any,
            |e: events::ContentCreate| json!({ "digest": e.digest, "size": e.size, "media_type": e.media_type }),
        )
    },
    |any| {
        of(
            any,
            |e: events::ContentDelete| json!({ "digest": e.digest }),
        )
    },
    |any| of(any, |e: ImageCreate| json!({ "name": e.name })),
    |any| of(any, |e: ImageUpdate| json!({ "name": e.name })),
    |any| of(any, |e: ImageDelete| json!({ "name": e.name })),
    |any| of(any, |e: events::NamespaceCreate| json!({ "name": e.name })),
    |any| of(any, |e: events::NamespaceUpdate| json!({ "name": e.name })),
    |any| of(any, |e: events::NamespaceDelete| json!({ "name": e.name })),
    |any| {
        of(
            any,
            |e: events::SandboxCreate| json!({ "sandbox_id": e.sandbox_id }),
        )
    },
    |any| {
        of(
            any,
            |e: events::SandboxStart| json!({ "sandbox_id": e.sandbox_id }),
        )
    },
    |any| {
        of(
            any,
            |e: events::SandboxExit| json!({ "sandbox_id": e.sandbox_id, "exit_status": e.exit_status }),
        )
    },
    |any| {
        of(
            any,
            |e: events::SnapshotPrepare| json!({ "key": e.key, "parent": e.parent, "snapshotter": e.snapshotter }),
        )
    },
    |any| {
        of(
            any,
            |e: events::SnapshotCommit| json!({ "key": e.key, "name": e.name, "snapshotter": e.snapshotter }),
        )
    },
    |any| {
        of(
            any,
            |e: events::SnapshotRemove| json!({ "key": e.key, "snapshotter": e.snapshotter }),
        )
    },
    |any| {
        of(
            any,
            |e: events::TaskCreate| json!({ "container_id": e.container_id, "pid": e.pid }),
        )
    },
    |any| {
        of(
            any,
            |e: events::TaskStart| json!({ "container_id": e.container_id, "pid": e.pid }),
        )
    },
    |any| {
        of(
            any,
            |e: events::TaskDelete| json!({ "container_id": e.container_id, "pid": e.pid, "exit_status": e.exit_status }),
        )
    },
    |any| of(any, task_exit),
    |any| {
        of(
            any,
            |e: events::TaskOom| json!({ "container_id": e.container_id }),
        )
    },
    |any| {
        of(
            any,
            |e: events::TaskExecAdded| json!({ "container_id": e.container_id, "exec_id": e.exec_id }),
        )
    },
    |any| {
        of(
            any,
            |e: events::TaskExecStarted| json!({ "container_id": e.container_id, "exec_id": e.exec_id, "pid": e.pid }),
        )
    },
    |any| {
        of(
            any,
            |e: events::TaskPaused| json!({ "container_id": e.container_id }),
        )
    },
    |any| {
        of(
            any,
            |e: events::TaskResumed| json!({ "container_id": e.container_id }),
        )
    },
    |any| {
        of(
            any,
            |e: events::TaskCheckpointed| json!({ "container_id": e.container_id, "checkpoint": e.checkpoint }),
        )
    },
];

/// What an event says, without its empty fields.
pub(super) fn describe(event: &Any) -> Map<String, Value> {
    let described = DESCRIBERS.iter().find_map(|describer| describer(event));
    let mut fields = match described {
        Some(Value::Object(fields)) => fields,
        Some(_) | None => Map::new(),
    };
    fields.retain(|_, value| !value.is_null() && value != "");
    fields
}

fn of<M: Message + Name + Default>(event: &Any, describe: impl Fn(M) -> Value) -> Option<Value> {
    any::unpack(event).ok().map(describe)
}

fn task_exit(event: events::TaskExit) -> Value {
    // For the container's first process containerd repeats the container's id.
    let exec_id = Some(event.id).filter(|id| *id != event.container_id);
    json!({
        "container_id": event.container_id,
        "exec_id": exec_id,
        "pid": event.pid,
        "exit_status": event.exit_status,
        "exited_at": time::moment(event.exited_at.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_events_are_told_and_unknown_ones_are_empty() {
        let exit = events::TaskExit {
            container_id: "web".to_owned(),
            id: "web".to_owned(),
            pid: 7,
            exit_status: 137,
            exited_at: None,
        };
        let told = Value::Object(describe(&any::pack(&exit)));
        assert_eq!(
            told,
            json!({ "container_id": "web", "pid": 7, "exit_status": 137 })
        );
        let unknown = Any {
            type_url: "x.Y".to_owned(),
            value: vec![1],
        };
        assert!(describe(&unknown).is_empty());
        let broken = Any {
            type_url: any::pack(&exit).type_url,
            value: vec![0xff],
        };
        assert!(describe(&broken).is_empty());
    }
}

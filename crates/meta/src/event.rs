//! Events: what changed, as the outbox keeps it. `services` translates them to containerd's messages.

use std::collections::BTreeMap;

use orlop_types::{
    ContainerId, Digest, ExecId, ImageName, Labels, LeaseId, Mount, Namespace, SandboxId,
    SnapshotKey, SnapshotterName,
};
use serde::{Deserialize, Serialize};

/// One change. Field names are stored: rename none, and give new ones a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "the fields are named after the records they come from"
)]
#[non_exhaustive]
pub enum Event {
    /// A namespace was created by a client.
    NamespaceCreate { name: Namespace, labels: Labels },
    /// A namespace's labels changed.
    NamespaceUpdate { name: Namespace, labels: Labels },
    /// An empty namespace was removed.
    NamespaceDelete { name: Namespace },
    /// An image got its name.
    ImageCreate { name: ImageName, labels: Labels },
    /// An image's target or labels changed.
    ImageUpdate { name: ImageName, labels: Labels },
    /// An image's name went, by a client or by collection.
    ImageDelete { name: ImageName },
    /// A blob became visible in the namespace.
    ContentCreate {
        digest: Digest,
        /// In bytes.
        size: u64,
        media_type: Option<String>,
        labels: Labels,
    },
    /// A blob's labels changed.
    ContentUpdate { digest: Digest, labels: Labels },
    /// A blob is no longer visible in the namespace, by a client or by collection.
    ContentDelete { digest: Digest },
    /// An active snapshot was created.
    SnapshotPrepare {
        snapshotter: SnapshotterName,
        key: SnapshotKey,
        parent: Option<SnapshotKey>,
    },
    /// An active snapshot became a committed one.
    SnapshotCommit {
        snapshotter: SnapshotterName,
        key: SnapshotKey,
        name: SnapshotKey,
    },
    /// A snapshot went, by a client or by collection.
    SnapshotRemove {
        snapshotter: SnapshotterName,
        key: SnapshotKey,
    },
    /// A lease was created.
    LeaseCreate { id: LeaseId, labels: Labels },
    /// A lease was released, or expired.
    LeaseDelete { id: LeaseId, expired: bool },
    /// A container's record was created.
    ContainerCreate {
        id: ContainerId,
        image: String,
        runtime: String,
    },
    /// A container's record changed.
    ContainerUpdate {
        id: ContainerId,
        image: String,
        labels: Labels,
        snapshot_key: String,
    },
    /// A container's record was removed.
    ContainerDelete { id: ContainerId },
    /// A sandbox's record was created.
    SandboxCreate { id: SandboxId },
    /// A sandbox runs.
    SandboxStart { id: SandboxId },
    /// A sandbox ended. `exited_at` is in nanoseconds since 1970.
    SandboxExit {
        id: SandboxId,
        exit_status: u32,
        exited_at: i64,
    },
    /// A sandbox's record was removed.
    SandboxDelete { id: SandboxId },
    /// A task was created, not yet started.
    TaskCreate {
        container: ContainerId,
        bundle: String,
        rootfs: Vec<Mount>,
        stdin: String,
        stdout: String,
        stderr: String,
        terminal: bool,
        checkpoint: String,
        pid: u32,
    },
    /// A task's first process runs.
    TaskStart { container: ContainerId, pid: u32 },
    /// The kernel killed for want of memory in a task.
    TaskOom { container: ContainerId },
    /// A process of a task ended; `process` is the container's id for the first one.
    TaskExit {
        container: ContainerId,
        process: String,
        pid: u32,
        exit_status: u32,
        exited_at: i64,
        /// Why, in the words of the runtime's cause, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// A task was removed.
    TaskDelete {
        container: ContainerId,
        process: String,
        pid: u32,
        exit_status: u32,
        exited_at: i64,
    },
    /// A further process was defined.
    TaskExecAdded {
        container: ContainerId,
        exec: ExecId,
    },
    /// A further process runs.
    TaskExecStarted {
        container: ContainerId,
        exec: ExecId,
        pid: u32,
    },
    /// A task was paused.
    TaskPaused { container: ContainerId },
    /// A task goes on.
    TaskResumed { container: ContainerId },
    /// A task was checkpointed.
    TaskCheckpointed {
        container: ContainerId,
        checkpoint: String,
    },
    /// The sweep removed something nothing held. `key` is a digest or a number.
    Collected {
        kind: String,
        key: String,
        bytes: u64,
    },
    /// The sweep could not remove something; it will try again.
    CollectFailed {
        kind: String,
        key: String,
        attempts: u32,
        error: String,
    },
    /// An event of a client or shim whose type is not known here; base-16 value.
    Forwarded {
        topic: String,
        type_url: String,
        value: String,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        attributes: BTreeMap<String, String>,
    },
}

impl Event {
    /// The topic, as containerd names it where it has one.
    #[must_use]
    pub fn topic(&self) -> &str {
        match self {
            Self::NamespaceCreate { .. } => "/namespaces/create",
            Self::NamespaceUpdate { .. } => "/namespaces/update",
            Self::NamespaceDelete { .. } => "/namespaces/delete",
            Self::ImageCreate { .. } => "/images/create",
            Self::ImageUpdate { .. } => "/images/update",
            Self::ImageDelete { .. } => "/images/delete",
            Self::ContentCreate { .. } => "/content/create",
            Self::ContentUpdate { .. } => "/content/update",
            Self::ContentDelete { .. } => "/content/delete",
            Self::SnapshotPrepare { .. } => "/snapshot/prepare",
            Self::SnapshotCommit { .. } => "/snapshot/commit",
            Self::SnapshotRemove { .. } => "/snapshot/remove",
            Self::LeaseCreate { .. } => "/leases/create",
            Self::LeaseDelete { .. } => "/leases/delete",
            Self::ContainerCreate { .. } => "/containers/create",
            Self::ContainerUpdate { .. } => "/containers/update",
            Self::ContainerDelete { .. } => "/containers/delete",
            Self::SandboxCreate { .. } => "/sandboxes/create",
            Self::SandboxStart { .. } => "/sandboxes/start",
            Self::SandboxExit { .. } => "/sandboxes/exit",
            Self::SandboxDelete { .. } => "/sandboxes/delete",
            Self::TaskCreate { .. } => "/tasks/create",
            Self::TaskStart { .. } => "/tasks/start",
            Self::TaskOom { .. } => "/tasks/oom",
            Self::TaskExit { .. } => "/tasks/exit",
            Self::TaskDelete { .. } => "/tasks/delete",
            Self::TaskExecAdded { .. } => "/tasks/exec-added",
            Self::TaskExecStarted { .. } => "/tasks/exec-started",
            Self::TaskPaused { .. } => "/tasks/paused",
            Self::TaskResumed { .. } => "/tasks/resumed",
            Self::TaskCheckpointed { .. } => "/tasks/checkpointed",
            Self::Collected { .. } => "/collect/removed",
            Self::CollectFailed { .. } => "/collect/failed",
            Self::Forwarded { topic, .. } => topic,
        }
    }
}

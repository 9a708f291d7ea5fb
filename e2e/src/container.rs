//! A container's whole life by containerd's services, the same calls for both engines.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orlop_api::any::OCI_SPEC;
use orlop_api::containerd::services::containers::v1::container::Runtime;
use orlop_api::containerd::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest,
};
use orlop_api::containerd::services::snapshots::v1::{
    PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use orlop_api::containerd::services::tasks::v1::{
    CreateTaskRequest, DeleteTaskRequest, KillRequest, StartRequest, WaitRequest,
};
use orlop_api::{Any, containerd::types::Mount};
use serde_json::{Value, json};

use crate::client::{Client, SNAPSHOTTER};
use crate::{Engine, Kind};

const SIGKILL: u32 = 9;

/// The parts of [`Cycle::run`], in order.
pub const PARTS: [&str; 6] = [
    "snapshot and record made",
    "task created",
    "started",
    "ended",
    "task deleted",
    "record and snapshot removed",
];

/// Capabilities as both engines' command lines give them by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Makes containers of one image in one engine.
#[derive(Debug, Clone)]
pub struct Cycle {
    client: Client,
    kind: Kind,
    /// Name of the cgroup above the containers: the scratch folder's.
    group: String,
    parent: String,
}

impl Cycle {
    /// Containers on the committed snapshot `parent`.
    #[must_use]
    pub fn new(engine: &Engine, client: Client, parent: &str) -> Self {
        Self {
            client,
            kind: engine.kind(),
            group: engine.namespace().to_owned(),
            parent: parent.to_owned(),
        }
    }

    /// Makes a container, runs `command` in it to its end, and removes everything again. Gives how long each of
    /// [`PARTS`] took.
    ///
    /// # Errors
    /// A call fails, or the command's exit code is not zero.
    pub async fn run(&self, id: &str, command: &[&str]) -> Result<[Duration; PARTS.len()]> {
        let begun = Instant::now();
        let rootfs = self.record(id, command).await?;
        let recorded = Instant::now();
        self.create_task(id, rootfs).await?;
        let created = Instant::now();
        let wait = WaitRequest {
            container_id: id.to_owned(),
            ..WaitRequest::default()
        };
        let mut tasks = self.client.tasks();
        // Asked before the start, as containerd's own clients do, so that a short life is not missed.
        let start = async { self.start(id).await.map(|()| Instant::now()) };
        let (ended, started) = futures_util::future::join(tasks.wait(wait), start).await;
        let started = started?;
        let code = ended.context("cannot wait")?.into_inner().exit_status;
        ensure!(code == 0, "container {id} ended with {code}");
        let ended = Instant::now();
        self.delete_task(id).await?;
        let deleted = Instant::now();
        self.forget(id).await?;
        let moments = [
            begun,
            recorded,
            created,
            started,
            ended,
            deleted,
            Instant::now(),
        ];
        Ok(std::array::from_fn(|part| {
            moments[part + 1].saturating_duration_since(moments[part])
        }))
    }

    /// Makes a container and starts it.
    ///
    /// # Errors
    /// A call fails.
    pub async fn run_detached(&self, id: &str, command: &[&str]) -> Result<()> {
        let rootfs = self.record(id, command).await?;
        self.create_task(id, rootfs).await?;
        self.start(id).await
    }

    /// Kills a container and removes everything.
    ///
    /// # Errors
    /// A call fails.
    pub async fn kill(&self, id: &str) -> Result<()> {
        let wait = WaitRequest {
            container_id: id.to_owned(),
            ..WaitRequest::default()
        };
        let request = KillRequest {
            container_id: id.to_owned(),
            signal: SIGKILL,
            ..KillRequest::default()
        };
        let (mut tasks, mut killer) = (self.client.tasks(), self.client.tasks());
        let (ended, killed) =
            futures_util::future::join(tasks.wait(wait), killer.kill(request)).await;
        killed.context("cannot kill")?;
        ended.context("cannot wait")?;
        self.delete_task(id).await?;
        self.forget(id).await
    }

    /// Makes snapshot and record; gives the snapshot's mounts.
    async fn record(&self, id: &str, command: &[&str]) -> Result<Vec<Mount>> {
        let rootfs = self.prepare(id).await?;
        let container = Container {
            id: id.to_owned(),
            runtime: Some(Runtime {
                name: self.kind.runtime().to_owned(),
                options: None,
            }),
            spec: Some(Any {
                type_url: OCI_SPEC.to_owned(),
                value: spec(&format!("/{}/{id}", self.group), command)
                    .to_string()
                    .into_bytes(),
            }),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: id.to_owned(),
            ..Container::default()
        };
        let request = CreateContainerRequest {
            container: Some(container),
        };
        let made = self.client.containers().create(request).await;
        made.context("cannot create the container")?;
        Ok(rootfs)
    }

    async fn create_task(&self, id: &str, rootfs: Vec<Mount>) -> Result<()> {
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            ..CreateTaskRequest::default()
        };
        let made = self.client.tasks().create(request).await;
        made.map(drop).context("cannot create the task")
    }

    async fn prepare(&self, id: &str) -> Result<Vec<Mount>> {
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
            parent: self.parent.clone(),
            ..PrepareSnapshotRequest::default()
        };
        let answer = self.client.snapshots().prepare(request).await;
        Ok(answer.context("cannot prepare")?.into_inner().mounts)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let request = StartRequest {
            container_id: id.to_owned(),
            ..StartRequest::default()
        };
        let started = self.client.tasks().start(request).await;
        started.map(drop).context("cannot start")
    }

    async fn delete_task(&self, id: &str) -> Result<()> {
        let request = DeleteTaskRequest {
            container_id: id.to_owned(),
        };
        let deleted = self.client.tasks().delete(request).await;
        deleted.map(drop).context("cannot delete the task")
    }

    async fn forget(&self, id: &str) -> Result<()> {
        let request = DeleteContainerRequest { id: id.to_owned() };
        let deleted = self.client.containers().delete(request).await;
        deleted.context("cannot delete the container")?;
        let request = RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
        };
        let removed = self.client.snapshots().remove(request).await;
        removed.map(drop).context("cannot remove the snapshot")
    }
}

/// An OCI configuration as `ctr run` makes it.
#[must_use]
pub fn spec(cgroup: &str, command: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": command, "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "mounts": mounts(),
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    ])
}

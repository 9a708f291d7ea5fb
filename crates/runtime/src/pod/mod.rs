//! Pods: namespaces, a network, files and a cgroup that containers share (CRI's sandboxes).
//!
//! A pod has no process of its own (ADR 17): its namespaces are pinned as files, so it costs no memory and cannot crash.
//! Only a pod whose containers see each other's processes has one, because the first process of a process namespace has
//! to live as long as the namespace.
//!
//! Crash: the record is written before each outside effect ([`machine`]); the next daemon undoes what was half-made and
//! goes on with what was being taken down ([`crate::Runtime::recover`]). Cancellation: a caller that goes away stops no
//! step. Ordering: one operation at a time per pod; those of different pods never wait for each other.
//!
//! Entry points: [`crate::Runtime::run_pod`], [`crate::Runtime::hold_pod`], [`machine::PodState`].

mod bandwidth;
mod cgroup;
mod check;
mod config;
mod driver;
mod error;
mod files;
mod health;
mod host_dns;
mod init;
pub mod machine;
mod namespaces;
mod network;
mod operations;
mod record;
mod recover;
mod settings;
mod sysctl;
mod table;
mod volumes;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orlop_types::SandboxId;
use serde::{Deserialize, Serialize};

pub use config::{
    DnsConfig, IdMaps, IdRange, PodConfig, PodNamespaces, PodResources, PortMapping, PortProtocol,
    ProcessNamespace,
};
pub use error::PodError;
pub use health::{FindingKind, NetworkFinding, PodProbe};
pub use machine::{PodPhase, PodStep, PodTransition};
pub use operations::HeldPod;
pub use settings::PodSettings;
pub use volumes::{VolumeError, VolumeImage};

pub(crate) use table::Pods;
pub(crate) use volumes::{Volumes, Wanted};

/// A pod as it is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its id: 64 hexadecimal digits.
    pub id: SandboxId,
    /// What was asked for.
    pub config: PodConfig,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// Why it is no longer ready although nobody stopped it.
    pub reason: Option<String>,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// Its addresses, the first one first; none in the host's network.
    pub addresses: Vec<IpAddr>,
    /// What its containers share.
    pub places: PodPlaces,
    /// What its containers' cgroups are below: a path from the controllers' root, or a slice of systemd.
    pub cgroup_parent: PathBuf,
    /// The first process of the process namespace that its containers share, if they do.
    pub init: Option<PodInit>,
    /// What the network's plugins answered, in CNI's words.
    pub network: Option<serde_json::Value>,
    /// The steps of its creation, oldest first.
    pub transitions: Vec<PodTransition>,
}

impl Pod {
    /// The pod's cgroup as a path from the controllers' root, a slice of systemd spelled out.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        cgroup::path(&self.cgroup_parent)
    }

    /// Whether containers can be made and started in it.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.phase, PodPhase::Ready)
    }
}

/// The process that keeps a shared process namespace alive and reaps in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodInit {
    /// Its id in the host's process namespace.
    pub pid: u32,
}

/// Paths of what the containers of a pod share. What is absent is the host's or the container's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodPlaces {
    /// The network namespace, below `/run/netns`.
    pub network: Option<PathBuf>,
    /// The IPC namespace.
    pub ipc: Option<PathBuf>,
    /// The UTS namespace, with the pod's host name.
    pub uts: Option<PathBuf>,
    /// The process namespace that all containers of the pod join.
    pub processes: Option<PathBuf>,
    /// The user namespace.
    pub user: Option<PathBuf>,
    /// The file shown as `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// The file shown as `/etc/hosts` in containers that bring none.
    pub hosts: Option<PathBuf>,
    /// The file shown as `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// The file system shown as `/dev/shm`.
    pub shm: Option<PathBuf>,
}

impl PodPlaces {
    /// The files that namespaces are pinned at.
    fn namespaces(&self) -> impl Iterator<Item = &Path> {
        [
            &self.network,
            &self.ipc,
            &self.uts,
            &self.processes,
            &self.user,
        ]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
    }
}

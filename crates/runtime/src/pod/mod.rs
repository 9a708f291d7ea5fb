//! Pods: namespaces, a network, files and a cgroup that containers share (CRI's sandboxes).
//!
//! A pod has no process of its own (ADR 17): its namespaces are pinned as files, so it costs no memory and cannot crash.
//! Only a pod whose containers see each other's processes has one, because the first process of a process namespace has
//! to live as long as the namespace.

mod config;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use orlop_types::SandboxId;
use serde::{Deserialize, Serialize};

pub use config::{
    DnsConfig, IdMaps, IdRange, PodConfig, PodNamespaces, PortMapping, PortProtocol,
    ProcessNamespace,
};

/// A pod as it is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its id: 64 hexadecimal digits.
    pub id: SandboxId,
    /// What was asked for.
    pub config: PodConfig,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// Its addresses, the first one first; none in the host's network.
    pub addresses: Vec<IpAddr>,
    /// What its containers share.
    pub places: PodPlaces,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase", content = "step")]
pub enum PodPhase {
    /// The named step of its creation is under way.
    Creating(PodStep),
    /// Containers can be made in it.
    Ready,
    /// Its containers are being stopped, its network detached and its namespaces unpinned.
    Stopping,
    /// Stopped, or its namespaces went with a reboot. Nothing can be started in it again.
    NotReady,
    /// Its containers, files and record are being removed.
    Removing,
}

/// An outside effect on the way to a pod. They are done in this order and undone in the reverse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodStep {
    /// The folder with `resolv.conf`, `hosts`, `hostname` and `shm`.
    Files,
    /// The namespaces, pinned, with host name and kernel parameters set; the first process, if it has to have one.
    Namespaces,
    /// The attachment by CNI.
    Network,
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

//! What a pod is made of, in this crate's words. Kept as JSON with the pod's record, so fields are only ever added, and
//! each new one has a default.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use orlop_types::{IdMaps, IdRange};

/// Everything that was asked of a pod when it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodConfig {
    /// The name Kubernetes has for it.
    pub name: String,
    /// The Kubernetes namespace, which is not the engine's.
    pub kubernetes_namespace: String,
    /// The UID Kubernetes has for it.
    pub uid: String,
    /// How many pods there were before it under the same name and UID.
    pub attempt: u32,
    /// Its name for itself; empty for the host's.
    pub hostname: String,
    /// The folder that its containers' logs are in; empty for none.
    pub log_folder: PathBuf,
    /// How its containers resolve names; absent for the host's way.
    pub dns: Option<DnsConfig>,
    /// Ports of the host that lead into it.
    pub ports: Vec<PortMapping>,
    /// Labels, for selecting.
    pub labels: BTreeMap<String, String>,
    /// Annotations, for keeping.
    pub annotations: BTreeMap<String, String>,
    /// The cgroup its containers are below: a path from the controllers' root, or a slice of systemd; empty for the
    /// engine's own.
    pub cgroup_parent: String,
    /// Kernel parameters of its namespaces, by their dotted names.
    pub sysctls: BTreeMap<String, String>,
    /// Which namespaces it has.
    pub namespaces: PodNamespaces,
    /// Which runtime its containers run with; empty for the default.
    pub handler: String,
    /// Whether containers in it may be privileged.
    pub privileged: bool,
    /// The SELinux label, `user:role:type:level`; empty for none.
    pub selinux_label: String,
    /// What the pod itself takes over what its containers do, for the record.
    pub overhead: Option<PodResources>,
    /// The sum of what its containers may take, for the record: whoever made the cgroup has set the limits.
    pub resources: Option<PodResources>,
}

/// Limits and shares of a pod's cgroup. Zero and empty mean that nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodResources {
    /// The period of the CPU quota, in microseconds.
    pub cpu_period_micros: i64,
    /// The CPU time in each period, in microseconds.
    pub cpu_quota_micros: i64,
    /// Relative weight against other pods.
    pub cpu_shares: i64,
    /// The most memory, in bytes.
    pub memory_limit_bytes: i64,
    /// The most memory and swap together, in bytes.
    pub memory_swap_limit_bytes: i64,
    /// How willingly the kernel kills its processes.
    pub oom_score_adj: i64,
    /// CPUs it may use, as in `0-2,7`.
    pub cpuset_cpus: String,
    /// Memory nodes it may use.
    pub cpuset_mems: String,
    /// The most huge pages by their size, such as `2MB`, in bytes.
    pub hugepage_limits_bytes: BTreeMap<String, u64>,
    /// Files of cgroup v2 and what is written to them.
    pub unified: BTreeMap<String, String>,
}

/// How names are resolved: the lines of resolv.conf(5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Name servers, in order.
    pub servers: Vec<String>,
    /// Domains to search.
    pub searches: Vec<String>,
    /// Options, such as `ndots:5`.
    pub options: Vec<String>,
}

/// A port of the host that leads to one of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// TCP, UDP or SCTP.
    pub protocol: PortProtocol,
    /// The port inside.
    pub container_port: u16,
    /// The port of the host; 0 maps none.
    pub host_port: u16,
    /// The host's address it is open on; absent for all.
    pub host_ip: Option<IpAddr>,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// The namespaces of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodNamespaces {
    /// Whether it is in the host's network; then it has the host's name, too.
    pub host_network: bool,
    /// Whether it shares System V IPC, POSIX queues and `/dev/shm` with the host.
    pub host_ipc: bool,
    /// Whose processes its containers see.
    pub processes: ProcessNamespace,
    /// Its user namespace; absent for the host's.
    pub user: Option<IdMaps>,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessNamespace {
    /// Its own.
    #[default]
    Container,
    /// Those of all containers of the pod.
    Pod,
    /// All of the host.
    Host,
}

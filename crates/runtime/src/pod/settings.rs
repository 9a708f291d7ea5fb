//! How pods are set up on this node.

use std::path::PathBuf;
use std::time::Duration;

use super::health::PodProbe;
use crate::dns::RESOLVED_UPSTREAM;

/// How pods are set up on this node.
#[derive(Debug, Clone)]
pub struct PodSettings {
    /// Pods' files and pinned namespaces; on a file system that a reboot empties.
    pub folder: PathBuf,
    /// The host's `resolv.conf`.
    pub host_resolv_conf: PathBuf,
    /// Where the servers behind systemd-resolved's stub are listed.
    pub resolved_upstream: PathBuf,
    /// How often the host's `resolv.conf` is looked at for the pods that inherited it.
    pub host_dns_interval: Duration,
    /// The program that is the first process of a shared process namespace when called with `pod-init`: our shim.
    pub init_binary: PathBuf,
    /// Whether processes of a pod may bind ports below 1024 without being root (`net.ipv4.ip_unprivileged_port_start`).
    pub unprivileged_ports: bool,
    /// Whether processes of a pod may ping without being root (`net.ipv4.ping_group_range`).
    pub unprivileged_icmp: bool,
    /// What is tried from inside pods' networks; nothing unless somebody says so.
    pub probe: PodProbe,
    /// Calls of network plugins at once; further ones wait. A plugin that hangs keeps its place until its deadline.
    pub network_jobs_max: usize,
}

impl PodSettings {
    /// The usual settings, as containerd 2 has them.
    #[must_use]
    pub fn new(folder: PathBuf, init_binary: PathBuf) -> Self {
        Self {
            folder,
            host_resolv_conf: "/etc/resolv.conf".into(),
            resolved_upstream: RESOLVED_UPSTREAM.into(),
            host_dns_interval: Duration::from_secs(10),
            init_binary,
            unprivileged_ports: true,
            unprivileged_icmp: true,
            probe: PodProbe::default(),
            network_jobs_max: 16,
        }
    }
}

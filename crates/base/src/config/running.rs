//! The settings of what runs containers and pods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use orlop_types::Glob;

use super::reader::{Reader, Section};
use super::sections::{span, words};
use super::setting::{Setting, quoted};

/// Section `runtime`.
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// The shim's program: a path, or a name looked for beside the daemon and in `PATH`.
    pub shim: String,
    /// OCI runtimes in order of preference: paths, or names looked for in `PATH`.
    pub oci_runtimes: Vec<String>,
    /// Who makes the cgroups.
    pub cgroup_driver: CgroupDriver,
    /// How long one step of a start may take.
    pub step_timeout: Duration,
    /// How often containers are looked after whose labels ask for restarts; zero for never.
    pub restart_interval: Duration,
    /// Folders with CNI plugins.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// The folder with CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Folders with files of the Container Device Interface; later ones go before earlier ones.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Runtimes that clients choose by name, such as `io.containerd.runc.v2`.
    pub handlers: BTreeMap<String, RuntimeHandler>,
}

/// Section `runtime.handlers.<name>`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeHandler {
    /// The shim's program; empty for `runtime.shim`.
    pub shim: String,
    /// The OCI runtime's program; empty for the first of `runtime.oci_runtimes` that works.
    pub oci_runtime: String,
    /// What the shim is told, as containerd's `runtimes.<name>.options`.
    pub options: toml::Table,
    /// Annotations of pods that its containers' specs get: patterns as of Go's `path.Match`.
    pub pod_annotations: Vec<Glob>,
    /// Annotations of containers that their specs get.
    pub container_annotations: Vec<Glob>,
}

/// Section `cri`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cri {
    /// Where exec, attach and port-forward are served: an address without a port.
    pub stream_address: String,
    /// And at which port; 0 for any that is free.
    pub stream_port: u32,
    /// A streaming connection on which nothing moves for so long is closed.
    pub stream_idle_timeout: Duration,
    /// How long a client may take to open its streams.
    pub stream_creation_timeout: Duration,
    /// PEM file with the certificate of the streaming server; empty for plain HTTP.
    pub stream_certificate: String,
    /// PEM file with its key.
    pub stream_key: String,
    /// PEM file with the authorities that vouch for its clients; empty for clients without certificates.
    pub stream_client_ca: String,
    /// How long output is waited for after the end of a process that left somebody behind who holds it open.
    pub exec_drain_timeout: Duration,
    /// How often pods' networks are tried from inside; zero for never.
    pub network_probe_interval: Duration,
    /// Names that pods' own name servers have to know.
    pub network_probe_names: Vec<String>,
    /// TCP ports that have to accept.
    pub network_probe_targets: Vec<SocketAddr>,
    /// Whether processes of pods may bind ports below 1024 without being root.
    pub enable_unprivileged_ports: bool,
    /// Whether processes of pods may ping without being root.
    pub enable_unprivileged_icmp: bool,
}

words!(
    /// Who makes the cgroups.
    CgroupDriver {
        /// systemd where it runs as the first process, else cgroupfs.
        Auto = "auto",
        /// The OCI runtime itself.
        Cgroupfs = "cgroupfs",
        /// systemd, by scopes.
        Systemd = "systemd",
    } expects "\"auto\", \"cgroupfs\" or \"systemd\""
);

impl Runtime {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let oci_runtimes = ["runc", "crun", "youki"].map(str::to_owned).to_vec();
        Self {
            shim: s.setting(
                "shim",
                "containerd-shim-orlop-v1".to_owned(),
                "The shim: a path, or a name looked for beside the daemon and in PATH.",
            ),
            oci_runtimes: s.setting(
                "oci_runtimes",
                oci_runtimes,
                "OCI runtimes in order of preference: paths, or names looked for in PATH.",
            ),
            cgroup_driver: s.setting(
                "cgroup_driver",
                CgroupDriver::Auto,
                "Who makes the cgroups: \"auto\", \"cgroupfs\" or \"systemd\".",
            ),
            step_timeout: span(
                s,
                "step_timeout",
                60_000,
                "How long one step of a container's start may take.",
            ),
            restart_interval: span(
                s,
                "restart_interval",
                10_000,
                "How often containers are looked after whose labels ask for restarts; 0s for never.",
            ),
            cni_bin_dirs: s.setting(
                "cni_bin_dirs",
                vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
                "Folders with CNI plugins.",
            ),
            cni_conf_dir: s.setting(
                "cni_conf_dir",
                "/etc/cni/net.d".into(),
                "The folder with CNI configurations.",
            ),
            cdi_spec_dirs: s.setting(
                "cdi_spec_dirs",
                vec!["/etc/cdi".into(), "/var/run/cdi".into()],
                "Folders with files of the Container Device Interface; later ones go before earlier ones.",
            ),
            handlers: s
                .each("handlers", RuntimeHandler::read)
                .into_iter()
                .collect(),
        }
    }
}

impl RuntimeHandler {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            shim: s.setting("shim", String::new(), "The shim's program; empty for runtime.shim."),
            oci_runtime: s.setting("oci_runtime", String::new(), "The OCI runtime's program; empty for the first of runtime.oci_runtimes that works."),
            options: s.setting("options", toml::Table::new(), "What the shim is told, as in containerd's runtimes.<name>.options."),
            pod_annotations: s.setting("pod_annotations", Vec::new(), "Annotations of pods that its containers' specs get, such as [\"io.katacontainers.*\"]."),
            container_annotations: s.setting("container_annotations", Vec::new(), "Annotations of containers that their specs get."),
        }
    }
}

impl Cri {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            stream_address: s.setting(
                "stream_address",
                "127.0.0.1".to_owned(),
                "Where exec, attach and port-forward are served: an address of this machine.",
            ),
            stream_port: s.setting(
                "stream_port",
                0,
                "And at which port; 0 for any that is free.",
            ),
            stream_idle_timeout: span(
                s,
                "stream_idle_timeout",
                4 * 3_600_000,
                "A streaming connection on which nothing moves for so long is closed.",
            ),
            stream_creation_timeout: span(
                s,
                "stream_creation_timeout",
                30_000,
                "How long a client may take to open its streams.",
            ),
            stream_certificate: s.setting(
                "stream_certificate",
                String::new(),
                "PEM file with the certificate of the streaming server; empty for plain HTTP.",
            ),
            stream_key: s.setting("stream_key", String::new(), "PEM file with its key."),
            stream_client_ca: s.setting(
                "stream_client_ca",
                String::new(),
                "PEM file with the authorities that vouch for its clients; empty for clients without certificates.",
            ),
            exec_drain_timeout: span(
                s,
                "exec_drain_timeout",
                5_000,
                "How long output is waited for after the end of a process that left somebody behind who holds it open.",
            ),
            network_probe_interval: span(
                s,
                "network_probe_interval",
                0,
                "How often pods' networks are tried from inside; 0s for never.",
            ),
            network_probe_names: s.setting(
                "network_probe_names",
                Vec::new(),
                "Names that pods' own name servers have to know, such as [\"kubernetes.default.svc.cluster.local\"].",
            ),
            network_probe_targets: s.setting(
                "network_probe_targets",
                Vec::new(),
                "TCP ports that have to accept connections from pods, such as [\"10.96.0.1:443\"].",
            ),
            enable_unprivileged_ports: s.setting(
                "enable_unprivileged_ports",
                true,
                "Whether processes of pods may bind ports below 1024 without being root.",
            ),
            enable_unprivileged_icmp: s.setting(
                "enable_unprivileged_icmp",
                true,
                "Whether processes of pods may ping without being root.",
            ),
        }
    }

    /// What no setting can say about itself.
    pub(super) fn check(&self, reader: &mut Reader<'_>) {
        if self.stream_address.parse::<std::net::IpAddr>().is_err() {
            let reason = format!(
                "{:?} must be an address, such as \"127.0.0.1\"",
                self.stream_address
            );
            reader.refuse_key("cri.stream_address", reason);
        }
        if u16::try_from(self.stream_port).is_err() {
            reader.refuse_key("cri.stream_port", "must be at most 65535".to_owned());
        }
        if self.stream_certificate.is_empty() != self.stream_key.is_empty() {
            let reason = "must be given together with cri.stream_certificate, or not at all";
            reader.refuse_key("cri.stream_key", reason.to_owned());
        }
        if self.stream_certificate.is_empty() && !self.stream_client_ca.is_empty() {
            let reason = "needs cri.stream_certificate: without it there is no TLS";
            reader.refuse_key("cri.stream_client_ca", reason.to_owned());
        }
    }
}

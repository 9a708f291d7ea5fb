//! Every setting, with its default and its explanation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Reader, Section};
use super::setting::{Setting, quoted};
use crate::units::{ByteSize, TimeSpan};

/// The daemon's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folders, socket, limits of the process.
    pub engine: Engine,
    /// Talking to registries.
    pub registry: Registry,
    /// Keeping and unpacking layers.
    pub snapshotter: Snapshotter,
    /// Collecting what nothing holds.
    pub gc: Gc,
    /// Running containers.
    pub runtime: Runtime,
    /// Serving the kubelet.
    pub cri: Cri,
    /// Logs and metrics.
    pub telemetry: Telemetry,
}

/// Section `engine`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// What must survive a reboot.
    pub root: PathBuf,
    /// What must not.
    pub state: PathBuf,
    /// The gRPC socket.
    pub socket: PathBuf,
    /// The group that may use the socket, besides root.
    pub socket_gid: u32,
    /// How long running calls may take to end when the daemon stops.
    pub shutdown_grace: Duration,
    /// Short blocking jobs at once.
    pub blocking_jobs_max: u32,
    /// Long blocking jobs at once.
    pub long_jobs_max: u32,
    /// The daemon's own `oom_score_adj`, clamped to what the kernel allows.
    pub oom_score_adj: i32,
}

/// Section `registry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Folders with `<host>/hosts.toml`, first match wins.
    pub hosts_dirs: Vec<PathBuf>,
    /// Docker's `config.json` with credentials.
    pub credentials_file: PathBuf,
    /// Memory all downloads together may use for bytes not yet written.
    pub download_memory: ByteSize,
    /// Layers of one pull downloaded at once.
    pub layers_at_once: u32,
    /// Layers from this size on are fetched in ranges.
    pub range_threshold: ByteSize,
    /// The size of a range.
    pub range_size: ByteSize,
    /// Ranges of one layer fetched at once.
    pub ranges_at_once: u32,
    /// How long a download may stand still.
    pub progress_timeout: Duration,
    /// How often a failing request is tried.
    pub attempts_max: u32,
}

/// Section `snapshotter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshotter {
    /// Which backend new snapshots use.
    pub default: String,
}

/// Section `gc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gc {
    /// The first collection after start.
    pub startup_delay: Duration,
    /// How long after a change that frees something a collection runs.
    pub schedule_delay: Duration,
    /// Changes after which a collection runs even if nothing was removed.
    pub mutations_max: u32,
    /// How long what an interrupted pull has fetched is kept for the next one.
    pub lease_expiry_default: Duration,
}

/// Section `runtime`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// The shim's program: a path, or a name looked for beside the daemon and in `PATH`.
    pub shim: String,
    /// OCI runtimes in order of preference: paths, or names looked for in `PATH`.
    pub oci_runtimes: Vec<String>,
    /// Who makes the cgroups.
    pub cgroup_driver: CgroupDriver,
    /// How long one step of a start may take.
    pub step_timeout: Duration,
    /// Folders with CNI plugins.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// The folder with CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Runtimes that clients choose by name, such as `io.containerd.runc.v2`.
    pub handlers: BTreeMap<String, RuntimeHandler>,
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
    /// How long output is waited for after the end of a process that left somebody behind who holds it open.
    pub exec_drain_timeout: Duration,
}

/// Section `runtime.handlers.<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeHandler {
    /// The shim's program; empty for `runtime.shim`.
    pub shim: String,
    /// The OCI runtime's program; empty for the first of `runtime.oci_runtimes` that works.
    pub oci_runtime: String,
}

/// Section `telemetry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// Which lines are written: a level, or levels by module.
    pub log_level: String,
    /// How lines look.
    pub log_format: LogFormat,
    /// Within this time the same warning is written once.
    pub repeat_window: Duration,
    /// Where `/metrics` is served, such as `127.0.0.1:9464`; empty for nowhere.
    pub metrics_address: String,
}

/// A setting that is one of a few words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? } expects $expects:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl Setting for $name {
            const EXPECTS: &'static str = $expects;

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    other => Err(format!("{other:?} must be {}", Self::EXPECTS)),
                }
            }

            fn to_toml(&self) -> String {
                quoted(match self { $(Self::$variant => $word,)+ })
            }
        }
    };
}

words!(
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    } expects "\"text\" or \"json\""
);
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

impl Config {
    pub(super) fn from_reader(reader: &mut Reader<'_>) -> Self {
        let config = Self {
            engine: reader.section("engine", Engine::read),
            registry: reader.section("registry", Registry::read),
            snapshotter: reader.section("snapshotter", Snapshotter::read),
            gc: reader.section("gc", Gc::read),
            runtime: reader.section("runtime", Runtime::read),
            cri: reader.section("cri", Cri::read),
            telemetry: reader.section("telemetry", Telemetry::read),
        };
        config.check(reader);
        config
    }

    /// What no setting can say about itself.
    fn check(&self, reader: &mut Reader<'_>) {
        self.check_folders(reader);
        self.check_streaming(reader);
        let at_least_one = [
            ("engine.blocking_jobs_max", self.engine.blocking_jobs_max),
            ("engine.long_jobs_max", self.engine.long_jobs_max),
            ("registry.layers_at_once", self.registry.layers_at_once),
            ("registry.ranges_at_once", self.registry.ranges_at_once),
            ("registry.attempts_max", self.registry.attempts_max),
        ];
        for (key, _) in at_least_one.into_iter().filter(|(_, value)| *value == 0) {
            reader.refuse_key(key, "must be at least 1".to_owned());
        }
        if !(-1000..=1000).contains(&self.engine.oom_score_adj) {
            reader.refuse_key(
                "engine.oom_score_adj",
                "must be from -1000 to 1000".to_owned(),
            );
        }
        let range_size = self.registry.range_size;
        if range_size.as_u64() < 64 << 10 || range_size > self.registry.download_memory {
            let reason = "must be at least 64KiB and at most registry.download_memory".to_owned();
            reader.refuse_key("registry.range_size", reason);
        }
        if !["overlayfs", "native"].contains(&self.snapshotter.default.as_str()) {
            let reason = format!(
                "{:?} must be \"overlayfs\" or \"native\"",
                self.snapshotter.default
            );
            reader.refuse_key("snapshotter.default", reason);
        }
        if self.runtime.oci_runtimes.is_empty() {
            reader.refuse_key("runtime.oci_runtimes", "must name at least one".to_owned());
        }
        if let Err(reason) = crate::telemetry::check_filter(&self.telemetry.log_level) {
            reader.refuse_key("telemetry.log_level", reason);
        }
        let address = &self.telemetry.metrics_address;
        if !address.is_empty() && address.parse::<std::net::SocketAddr>().is_err() {
            let reason =
                format!("{address:?} must be an address and a port, such as \"127.0.0.1:9464\"");
            reader.refuse_key("telemetry.metrics_address", reason);
        }
    }

    fn check_streaming(&self, reader: &mut Reader<'_>) {
        let cri = &self.cri;
        if cri.stream_address.parse::<std::net::IpAddr>().is_err() {
            let reason = format!(
                "{:?} must be an address, such as \"127.0.0.1\"",
                cri.stream_address
            );
            reader.refuse_key("cri.stream_address", reason);
        }
        if u16::try_from(cri.stream_port).is_err() {
            reader.refuse_key("cri.stream_port", "must be at most 65535".to_owned());
        }
        if cri.stream_certificate.is_empty() != cri.stream_key.is_empty() {
            let reason = "must be given together with cri.stream_certificate, or not at all";
            reader.refuse_key("cri.stream_key", reason.to_owned());
        }
    }

    fn check_folders(&self, reader: &mut Reader<'_>) {
        let Engine {
            root,
            state,
            socket,
            ..
        } = &self.engine;
        if root.starts_with(state) || state.starts_with(root) {
            let reason =
                "must not be inside engine.root, nor around it: it is emptied at boot".to_owned();
            reader.refuse_key("engine.state", reason);
        }
        // The kernel's limit for a socket's path (sun_path, with its terminating zero).
        if socket.as_os_str().len() > 107 {
            let reason =
                "must be at most 107 bytes long, the kernel's limit for sockets".to_owned();
            reader.refuse_key("engine.socket", reason);
        }
    }
}

impl Engine {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            root: s.setting(
                "root",
                "/var/lib/orlop".into(),
                "Folder for what must survive a reboot: blobs, snapshots, the database.",
            ),
            state: s.setting(
                "state",
                "/run/orlop".into(),
                "Folder for what must not: bundles, FIFOs, sockets.",
            ),
            socket: s.setting("socket", "/run/orlop/orlop.sock".into(), "The gRPC socket."),
            socket_gid: s.setting(
                "socket_gid",
                0,
                "The group that may use the socket, besides root.",
            ),
            shutdown_grace: span(
                s,
                "shutdown_grace",
                10_000,
                "How long running calls may take to end when the daemon stops.",
            ),
            blocking_jobs_max: s.setting(
                "blocking_jobs_max",
                16,
                "Short blocking jobs (files, database) at once.",
            ),
            long_jobs_max: s.setting(
                "long_jobs_max",
                8,
                "Long blocking jobs (unpacking) at once.",
            ),
            oom_score_adj: s.setting(
                "oom_score_adj",
                -999,
                "The daemon's own oom_score_adj, clamped to what the kernel allows.",
            ),
        }
    }
}

impl Registry {
    fn read(s: &mut Section<'_, '_>) -> Self {
        let hosts_dirs = vec![
            "/etc/orlop/certs.d".into(),
            "/etc/containerd/certs.d".into(),
        ];
        Self {
            hosts_dirs: s.setting(
                "hosts_dirs",
                hosts_dirs,
                "Folders with <host>/hosts.toml; the first that has the host wins.",
            ),
            credentials_file: s.setting(
                "credentials_file",
                "/root/.docker/config.json".into(),
                "Docker's config.json with credentials and helpers. It need not exist.",
            ),
            download_memory: s.setting(
                "download_memory",
                ByteSize::mib(32),
                "Memory all downloads together may use for bytes not yet written.",
            ),
            layers_at_once: s.setting(
                "layers_at_once",
                3,
                "Layers of one pull downloaded at once.",
            ),
            range_threshold: s.setting(
                "range_threshold",
                ByteSize::mib(8),
                "Layers from this size on are fetched in ranges.",
            ),
            range_size: s.setting("range_size", ByteSize::mib(4), "The size of a range."),
            ranges_at_once: s.setting("ranges_at_once", 4, "Ranges of one layer fetched at once."),
            progress_timeout: span(
                s,
                "progress_timeout",
                60_000,
                "How long a download may stand still. Its duration has no limit.",
            ),
            attempts_max: s.setting(
                "attempts_max",
                5,
                "How often a request that fails for a passing reason is tried.",
            ),
        }
    }
}

impl Snapshotter {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            default: s.setting(
                "default",
                "overlayfs".to_owned(),
                "Which backend new snapshots use: \"overlayfs\" or \"native\".",
            ),
        }
    }
}

impl Gc {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            startup_delay: span(
                s,
                "startup_delay",
                100,
                "When the first collection after the start runs.",
            ),
            schedule_delay: span(
                s,
                "schedule_delay",
                0,
                "How long after a removal a collection runs.",
            ),
            mutations_max: s.setting(
                "mutations_max",
                100,
                "Changes after which a collection runs even if nothing was removed.",
            ),
            lease_expiry_default: span(
                s,
                "lease_expiry_default",
                86_400_000,
                "How long what an interrupted pull has fetched is kept for the next one.",
            ),
        }
    }
}

impl Runtime {
    fn read(s: &mut Section<'_, '_>) -> Self {
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
            handlers: s
                .each("handlers", RuntimeHandler::read)
                .into_iter()
                .collect(),
        }
    }
}

impl Cri {
    fn read(s: &mut Section<'_, '_>) -> Self {
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
            exec_drain_timeout: span(
                s,
                "exec_drain_timeout",
                5_000,
                "How long output is waited for after the end of a process that left somebody behind who holds it open.",
            ),
        }
    }
}

impl RuntimeHandler {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            shim: s.setting("shim", String::new(), "The shim's program; empty for runtime.shim."),
            oci_runtime: s.setting("oci_runtime", String::new(), "The OCI runtime's program; empty for the first of runtime.oci_runtimes that works."),
        }
    }
}

impl Telemetry {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            log_level: s.setting("log_level", "info".to_owned(), "Which lines are written: error, warn, info, debug or trace, also by module: \"info,orlop_registry=debug\"."),
            log_format: s.setting("log_format", LogFormat::Text, "How lines look: \"text\" or \"json\"."),
            repeat_window: span(s, "repeat_window", 60_000, "Within this time the same warning is written once."),
            metrics_address: s.setting("metrics_address", String::new(), "Where /metrics is served, such as \"127.0.0.1:9464\"; empty for nowhere."),
        }
    }
}

/// A span of time, with its default in milliseconds.
fn span(
    s: &mut Section<'_, '_>,
    key: &'static str,
    default_ms: u64,
    doc: &'static str,
) -> Duration {
    let default = TimeSpan::from(Duration::from_millis(default_ms));
    s.setting(key, default, doc).duration()
}

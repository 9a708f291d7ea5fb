//! Every setting, with its default and its explanation.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Reader, Section};
use super::running::{Cri, Runtime};
use super::setting::{Setting, quoted};
use crate::units::ByteSize;

/// The daemon's settings.
#[derive(Debug, Clone, PartialEq)]
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
    /// Spans.
    pub otlp: Otlp,
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

/// Section `telemetry.otlp`: spans, which only the daemon has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Where spans are sent, such as `http://127.0.0.1:4317`; empty for nowhere.
    pub endpoint: String,
    /// Of a million calls whose client does not say whether it is followed, so many are.
    pub samples_per_million: u32,
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
pub(super) use words;

impl Config {
    pub(super) fn from_reader(reader: &mut Reader<'_>) -> Self {
        let engine = reader.section("engine", Engine::read);
        let registry = reader.section("registry", Registry::read);
        let snapshotter = reader.section("snapshotter", Snapshotter::read);
        let gc = reader.section("gc", Gc::read);
        let runtime = reader.section("runtime", Runtime::read);
        let cri = reader.section("cri", Cri::read);
        let (telemetry, otlp) = reader.section("telemetry", |section| {
            let telemetry = Telemetry::read(section);
            (telemetry, section.table("otlp", Otlp::read))
        });
        let config = Self {
            engine,
            registry,
            snapshotter,
            gc,
            runtime,
            cri,
            telemetry,
            otlp,
        };
        config.check(reader);
        config
    }

    /// What no setting can say about itself.
    fn check(&self, reader: &mut Reader<'_>) {
        self.check_folders(reader);
        self.cri.check(reader);
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
        self.otlp.check(reader);
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

impl Telemetry {
    /// Declares the section and reads it.
    pub fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            log_level: s.setting("log_level", "info".to_owned(), "Which lines are written: error, warn, info, debug or trace, also by module: \"info,orlop_registry=debug\"."),
            log_format: s.setting("log_format", LogFormat::Text, "How lines look: \"text\" or \"json\"."),
            repeat_window: span(s, "repeat_window", 60_000, "Within this time the same warning is written once."),
            metrics_address: s.setting("metrics_address", String::new(), "Where /metrics is served, such as \"127.0.0.1:9464\"; empty for nowhere."),
        }
    }
}

impl Otlp {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            endpoint: s.setting("endpoint", String::new(), "Where spans are sent by OTLP over gRPC, such as \"http://127.0.0.1:4317\"; empty for nowhere."),
            samples_per_million: s.setting("samples_per_million", 1_000_000, "Of a million calls whose client does not say whether it is followed, so many are."),
        }
    }
}

impl Otlp {
    fn check(&self, reader: &mut Reader<'_>) {
        let endpoint = &self.endpoint;
        let authority = endpoint.strip_prefix("http://").unwrap_or_default();
        if !endpoint.is_empty() && (authority.is_empty() || authority.contains(char::is_whitespace))
        {
            let reason = format!(
                "{endpoint:?} must begin with http://, such as \"http://127.0.0.1:4317\": TLS is for a collector on the node"
            );
            reader.refuse_key("telemetry.otlp.endpoint", reason);
        }
        if self.samples_per_million > 1_000_000 {
            let reason = "must be 1000000 at most".to_owned();
            reader.refuse_key("telemetry.otlp.samples_per_million", reason);
        }
    }
}

/// A span of time, with its default in milliseconds.
pub(super) fn span(
    s: &mut Section<'_, '_>,
    key: &'static str,
    default_ms: u64,
    doc: &'static str,
) -> Duration {
    s.span(key, default_ms, doc)
}

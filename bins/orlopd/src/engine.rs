//! The parts of the daemon, opened in the order they need each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use orlop_api::any;
use orlop_api::containerd::runc::v1::Options as RuncOptions;
use orlop_base::clock::SharedClock;
use orlop_base::config::{CgroupDriver, Config};
use orlop_base::retry::RetryPolicy;
use orlop_base::task::TaskTree;
use orlop_content::Store;
use orlop_image::images::{Images, ImagesOptions, NoRecorder};
use orlop_meta::{Backends, Db};
use orlop_mounts::Store as Mounts;
use orlop_registry::{Client, ClientOptions, DockerConfig, FetchOptions, HostTree, MemoryBudget};
use orlop_runtime::pod::PodProbe;
use orlop_runtime::probe::{OciRuntime, find_executable, oci_runtime};
use orlop_runtime::{NetworkSettings, PodSettings, Runtime, RuntimeSettings, Settings};
use orlop_services::{Component, Facts, Identity};
use orlop_snapshot::{Native, Overlayfs, Snapshotter};
use orlop_sys::fs::{Dir, Mode, Name};
use orlop_types::SnapshotterName;
use orlop_types::restart::POLICIES;

use crate::daemon::NETWORK_JOBS_MAX;

use crate::{facts, handler_options};

/// What clients that know containerd call the default runtime; served by our shim, whose options are the same.
const RUNC_V2: &str = "io.containerd.runc.v2";
const ORLOP_V1: &str = "io.containerd.orlop.v1";

/// Everything the services stand on.
pub(crate) struct Engine {
    pub(crate) db: Db,
    /// Where the snapshotters keep their folders.
    pub(crate) snapshot_roots: BTreeMap<SnapshotterName, PathBuf>,
    pub(crate) runtime: Runtime,
    pub(crate) images: Images,
    pub(crate) oci_runtimes: Vec<OciRuntime>,
    pub(crate) components: Vec<Component>,
    pub(crate) facts: Facts,
    pub(crate) identity: Identity,
}

impl Engine {
    /// Opens the stores. Blocks. Fails if another daemon has them open.
    pub(crate) fn open(
        config: &Config,
        clock: &SharedClock,
        tasks: &TaskTree,
    ) -> anyhow::Result<Self> {
        let root = &config.engine.root;
        let folder =
            Dir::create_all(root, Mode::from_raw_mode(0o711)).context("cannot make engine.root")?;
        Dir::create_all(&config.engine.state, Mode::from_raw_mode(0o711))
            .context("cannot make engine.state")?;
        let content = Store::open(&root.join("content")).context("cannot open the blob store")?;
        let (snapshotters, mut components) = open_snapshotters(root);
        let snapshot_roots = snapshotters
            .keys()
            .map(|name| (name.clone(), root.join("snapshots").join(name.as_str())))
            .collect();
        let mounts = Mounts::open(
            &config.engine.state.join("mounts"),
            std::slice::from_ref(root),
        );
        let backends = Backends {
            content: Some(Arc::new(content)),
            snapshotters,
            mounts: Some(Arc::new(mounts.context("cannot open engine.state/mounts")?)),
        };
        let db = Db::open(&root.join("meta.db"), Arc::clone(clock), backends)
            .context("cannot open the database")?;
        // The database's lock is ours: nobody else writes here.
        remove_half_written(root);
        let oci_runtimes = probe(config);
        let settings = runtime_settings(config, &oci_runtimes)?;
        let runtime = Runtime::new(
            settings,
            db.clone(),
            Arc::clone(clock),
            tasks.child("runtime"),
        );
        let images = Images::new(
            db.clone(),
            Client::new(client_options(config)),
            tasks,
            images_options(config)?,
            Arc::new(NoRecorder),
        );
        components.extend(services_of(&oci_runtimes));
        Ok(Self {
            db,
            snapshot_roots,
            runtime,
            images,
            facts: facts::find(
                config,
                &oci_runtimes,
                &components,
                &search_folders(),
                clock.wall(),
            ),
            oci_runtimes,
            components,
            identity: identity(&folder)?,
        })
    }
}

/// The blob store and the database of a stopped daemon.
pub(crate) fn open_stores(root: &Path, clock: SharedClock) -> anyhow::Result<Db> {
    Dir::create_all(root, Mode::from_raw_mode(0o711)).context("cannot make engine.root")?;
    let content = Store::open(&root.join("content")).context("cannot open the blob store")?;
    let backends = Backends {
        content: Some(Arc::new(content)),
        ..Backends::default()
    };
    Db::open(&root.join("meta.db"), clock, backends).context("cannot open the database")
}

/// A daemon that was killed may have left the beginnings of small files.
fn remove_half_written(folder: &Path) {
    let removed = Dir::open(folder).and_then(|folder| folder.remove_stale_temporaries());
    match removed {
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "half-written files stay"),
        Ok(0) => {}
        Ok(count) => {
            tracing::info!(folder = %folder.display(), count, "removed half-written files")
        }
    }
}

/// A backend that does not work here is told to clients, and the others are used.
fn open_snapshotters(
    root: &Path,
) -> (
    BTreeMap<SnapshotterName, Arc<dyn Snapshotter>>,
    Vec<Component>,
) {
    let mut backends: BTreeMap<SnapshotterName, Arc<dyn Snapshotter>> = BTreeMap::new();
    let mut components = vec![Component::working("io.containerd.content.v1", "content")];
    let opened: [(&str, anyhow::Result<Arc<dyn Snapshotter>>); 2] = [
        (
            "overlayfs",
            Overlayfs::open(&root.join("snapshots/overlayfs"), &[])
                .map(|backend| Arc::new(backend) as _)
                .map_err(Into::into),
        ),
        (
            "native",
            Native::open(&root.join("snapshots/native"))
                .map(|backend| Arc::new(backend) as _)
                .map_err(Into::into),
        ),
    ];
    for (name, backend) in opened {
        let mut component = Component::working("io.containerd.snapshotter.v1", name);
        match backend {
            Ok(backend) => {
                backends.insert(backend.name().clone(), backend);
            }
            Err(error) => {
                tracing::warn!(
                    snapshotter = name,
                    error = format!("{error:#}"),
                    "a snapshotter does not work here"
                );
                component.error = Some(format!("{error:#}"));
            }
        }
        components.push(component);
    }
    (backends, components)
}

/// What else clients of containerd know by name. Task service and runtime are one here, and so are a service and what
/// is behind it.
fn services_of(oci_runtimes: &[OciRuntime]) -> Vec<Component> {
    const GRPC: [&str; 18] = [
        "containers",
        "content",
        "diff",
        "events",
        "healthcheck",
        "images",
        "introspection",
        "leases",
        "mounts",
        "namespaces",
        "orlop",
        "sandboxes",
        "snapshots",
        "streaming",
        "tasks",
        "transfer",
        "version",
        "cri",
    ];
    let mut tasks = Component::working("io.containerd.runtime.v2", "task");
    if !oci_runtimes.iter().any(|runtime| runtime.error.is_none()) {
        tasks.error = Some("no OCI runtime works".to_owned());
    }
    let restart = Component {
        capabilities: POLICIES.map(str::to_owned).to_vec(),
        ..Component::working("io.containerd.monitor.container.v1", "restart")
    };
    let parts = [
        ("io.containerd.metadata.v1", "sqlite"),
        ("io.containerd.gc.v1", "scheduler"),
        ("io.containerd.lease.v1", "manager"),
        ("io.containerd.event.v1", "outbox"),
        ("io.containerd.differ.v1", "walking"),
        ("io.containerd.streaming.v1", "manager"),
        ("io.containerd.transfer.v1", "local"),
        ("io.containerd.mount-manager.v1", "sqlite"),
        ("io.containerd.mount-handler.v1", "loop"),
        ("io.containerd.mount-handler.v1", "erofs"),
    ];
    let parts = parts.map(|(kind, id)| Component::working(kind, id));
    let services = GRPC.map(|id| Component::working("io.containerd.grpc.v1", id));
    [tasks, restart]
        .into_iter()
        .chain(parts)
        .chain(services)
        .collect()
}

fn client_options(config: &Config) -> ClientOptions {
    let registry = &config.registry;
    ClientOptions {
        hosts: HostTree::new(registry.hosts_dirs.clone()),
        credentials: Arc::new(DockerConfig::new(registry.credentials_file.clone())),
        budget: MemoryBudget::new(
            usize::try_from(registry.download_memory.as_u64()).unwrap_or(usize::MAX),
        ),
        fetch: FetchOptions {
            threshold_bytes: registry.range_threshold.as_u64(),
            chunk_bytes: registry.range_size.as_u64(),
            parallel_per_blob: registry.ranges_at_once as usize,
            no_progress: registry.progress_timeout,
            ..FetchOptions::default()
        },
        retry: RetryPolicy {
            attempts_max: registry.attempts_max,
            ..RetryPolicy::default()
        },
        ..ClientOptions::default()
    }
}

fn images_options(config: &Config) -> anyhow::Result<ImagesOptions> {
    let name = &config.snapshotter.default;
    Ok(ImagesOptions {
        snapshotter: SnapshotterName::new(name).context("snapshotter.default")?,
        downloads_max: config.registry.layers_at_once as usize,
        lease_lifetime: config.gc.lease_expiry_default,
    })
}

pub(crate) fn search_folders() -> Vec<PathBuf> {
    let own = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    own.into_iter()
        .chain(std::env::split_paths(&path))
        .chain(standard.map(PathBuf::from))
        .collect()
}

fn probe(config: &Config) -> Vec<OciRuntime> {
    let folders = search_folders();
    let probed: Vec<_> = config
        .runtime
        .oci_runtimes
        .iter()
        .map(|name| oci_runtime(name, &folders))
        .collect();
    if probed.iter().all(|runtime| runtime.error.is_some()) {
        let errors: Vec<_> = probed
            .iter()
            .filter_map(|runtime| runtime.error.as_deref())
            .collect();
        tracing::error!(
            errors = errors.join("; "),
            "no OCI runtime works: containers cannot be started until one is installed"
        );
    }
    probed
}

fn runtime_settings(config: &Config, oci_runtimes: &[OciRuntime]) -> anyhow::Result<Settings> {
    let folders = search_folders();
    let engine = &config.engine;
    Ok(Settings {
        state_folder: engine.state.join("tasks"),
        log_folder: engine.root.join("logs"),
        address: engine.socket.clone(),
        ttrpc_address: ttrpc_address(&engine.socket),
        publish_binary: std::env::current_exe().context("cannot tell where orlopd is")?,
        runtimes: runtimes(config, oci_runtimes, &folders)?,
        default_runtime: ORLOP_V1.to_owned(),
        step_limit: config.runtime.step_timeout,
        network: network_settings(config),
        cdi_folders: config.runtime.cdi_spec_dirs.clone(),
        pods: PodSettings {
            network_jobs_max: NETWORK_JOBS_MAX,
            probe: PodProbe {
                interval: config.cri.network_probe_interval,
                names: config.cri.network_probe_names.clone(),
                targets: config.cri.network_probe_targets.clone(),
            },
            unprivileged_ports: config.cri.enable_unprivileged_ports,
            unprivileged_icmp: config.cri.enable_unprivileged_icmp,
            ..PodSettings::new(engine.state.join("pods"), shim(config, "", &folders))
        },
        cgroup_parent: if uses_systemd(config.runtime.cgroup_driver) {
            "orlop.slice".into()
        } else {
            "/orlop".into()
        },
        shim_folders: folders,
    })
}

/// One that is missing is told in `orlop info`, and by every task that needs it: images and records can be had.
fn shim(config: &Config, name: &str, folders: &[PathBuf]) -> PathBuf {
    let name = if name.is_empty() {
        &config.runtime.shim
    } else {
        name
    };
    find_executable(name, folders).unwrap_or_else(|| PathBuf::from(name))
}

/// The default under both its names, and the configured handlers.
fn runtimes(
    config: &Config,
    oci_runtimes: &[OciRuntime],
    folders: &[PathBuf],
) -> anyhow::Result<BTreeMap<String, RuntimeSettings>> {
    let default_runtime = oci_runtimes
        .iter()
        .find(|runtime| runtime.error.is_none())
        .and_then(|runtime| runtime.path.clone());
    let mut runtimes = BTreeMap::new();
    for name in [ORLOP_V1, RUNC_V2] {
        let settings = RuntimeSettings {
            shim_binary: Some(shim(config, "", folders)),
            options: Some(any::pack(&runc_options(config, default_runtime.clone()))),
            ..RuntimeSettings::default()
        };
        runtimes.insert(name.to_owned(), settings);
    }
    for (name, handler) in &config.runtime.handlers {
        let own = Some(&handler.oci_runtime)
            .filter(|name| !name.is_empty())
            .and_then(|name| find_executable(name, folders));
        let executable = own.or_else(|| default_runtime.clone());
        let binary = shim(config, &handler.shim, folders);
        let is_own = handler.shim.is_empty() || handler.shim == config.runtime.shim;
        let engine = runc_options(config, executable);
        let options = handler_options::pack(&binary, is_own, &handler.options, engine)
            .with_context(|| format!("runtime.handlers.{name}.options"))?;
        let settings = RuntimeSettings {
            shim_binary: Some(binary),
            options,
            pod_annotations: handler.pod_annotations.clone(),
            container_annotations: handler.container_annotations.clone(),
        };
        runtimes.insert(name.clone(), settings);
    }
    Ok(runtimes)
}

fn runc_options(config: &Config, executable: Option<PathBuf>) -> RuncOptions {
    // Not runc's default and not containerd's: two engines on one node must not share container names.
    let root = config.engine.state.join("runc");
    RuncOptions {
        binary_name: executable
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        root: root.to_string_lossy().into_owned(),
        systemd_cgroup: uses_systemd(config.runtime.cgroup_driver),
        ..RuncOptions::default()
    }
}

fn network_settings(config: &Config) -> NetworkSettings {
    NetworkSettings {
        config_folder: config.runtime.cni_conf_dir.clone(),
        plugin_folders: config.runtime.cni_bin_dirs.clone(),
        // Below the root and not in /var/lib/cni: two engines on one node must not take each other's attachments down.
        cache_folder: config.engine.root.join("cni"),
        plugin_limit: config.runtime.step_timeout,
    }
}

/// As containerd names it, so that shims that derive it find it.
pub(crate) fn ttrpc_address(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".ttrpc");
    path.into()
}

pub(crate) fn uses_systemd(driver: CgroupDriver) -> bool {
    match driver {
        CgroupDriver::Systemd => true,
        CgroupDriver::Cgroupfs => false,
        // The mark of a running systemd (sd_booted(3)).
        CgroupDriver::Auto => Path::new("/run/systemd/system").is_dir(),
    }
}

/// The daemon's identity; its uuid is made once for a root folder.
fn identity(root: &Dir) -> anyhow::Result<Identity> {
    const UUID_BYTES_MAX: u64 = 64;
    let name = Name::from_static("uuid");
    let uuid = match root.read(&name, UUID_BYTES_MAX) {
        Ok(text) => String::from_utf8(text).context("engine.root/uuid is not text")?,
        Err(error) if error.is_not_found() => {
            let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
                .context("cannot make a uuid")?;
            root.write_atomic(&name, uuid.trim().as_bytes(), Mode::from_raw_mode(0o644))
                .context("cannot keep the uuid")?;
            uuid
        }
        Err(error) => return Err(error).context("cannot read the uuid"),
    };
    let namespace =
        std::fs::read_link("/proc/self/ns/pid").context("cannot tell the process namespace")?;
    let inode: String = namespace
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    Ok(Identity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("ORLOP_REVISION").unwrap_or_default().to_owned(),
        uuid: uuid.trim().to_owned(),
        pid: std::process::id(),
        pid_namespace: inode.parse().unwrap_or(0),
    })
}

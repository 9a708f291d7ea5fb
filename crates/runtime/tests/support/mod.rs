//! A node of one runtime: folders, a database, a network of its own; all gone when dropped.
#![allow(dead_code, reason = "every test program uses a part of it")]

pub(crate) mod child;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orlop_base::clock::SystemClock;
use orlop_base::task::TaskTree;
use orlop_meta::{Backends, Db};
use orlop_runtime::pod::{Pod, PodConfig, PodProbe};
use orlop_runtime::{NetworkSettings, PodSettings, Runtime, RuntimeSettings, Settings};
use orlop_types::{Namespace, SandboxId};

/// How long anything may take on a machine that is busy with builds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the node's things are. Two of the same folder are the same node.
pub(crate) struct Node {
    folder: PathBuf,
    bridge: String,
    subnet: u8,
    owned: Option<tempfile::TempDir>,
    /// What later lives of the daemon try from inside pods' networks.
    pub(crate) probe: RefCell<PodProbe>,
}

/// One life of a daemon.
pub(crate) struct Life {
    pub(crate) runtime: Runtime,
    pub(crate) db: Db,
    tasks: TaskTree,
}

impl Node {
    pub(crate) fn new(subnet: u8) -> Self {
        let owned = tempfile::tempdir().unwrap();
        let bridge = format!("op{subnet}x{}", std::process::id() % 100_000);
        let node = Self {
            folder: owned.path().to_owned(),
            bridge,
            subnet,
            owned: Some(owned),
            probe: RefCell::default(),
        };
        std::fs::create_dir(node.folder.join("net.d")).unwrap();
        node.write("resolv.conf", "nameserver 10.0.0.53\nsearch one.example\n");
        node.write("net.d/10-test.conflist", &node.network());
        node
    }

    /// The node of another process.
    pub(crate) fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            bridge: String::new(),
            subnet: 0,
            owned: None,
            probe: RefCell::default(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }

    fn network(&self) -> String {
        let (bridge, subnet) = (&self.bridge, self.subnet);
        let data = self.folder.join("ipam");
        serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": data, "routes": [{"dst": "0.0.0.0/0"}],
                      "ranges": [[{"subnet": format!("10.232.{subnet}.0/24")}]]}},
            {"type": "portmap", "capabilities": {"portMappings": true}}
        ]})
        .to_string()
    }

    /// A daemon's life on this node, in the runtime of the caller.
    pub(crate) fn begin(&self) -> Life {
        self.begin_with(Backends::default())
    }

    /// The same, with stores.
    pub(crate) fn begin_with(&self, backends: Backends) -> Life {
        let clock = SystemClock::shared();
        let tasks = TaskTree::root("test", Arc::clone(&clock));
        let at = |name: &str| self.folder.join(name);
        let db = Db::open(&at("meta.db"), Arc::clone(&clock), backends).unwrap();
        let pods = PodSettings {
            host_resolv_conf: at("resolv.conf"),
            resolved_upstream: at("upstream"),
            host_dns_interval: Duration::from_millis(200),
            probe: self.probe.borrow().clone(),
            ..PodSettings::new(at("pods"), shim())
        };
        let settings = Settings {
            state_folder: at("tasks"),
            log_folder: at("logs"),
            address: at("sock"),
            ttrpc_address: at("sock.ttrpc"),
            publish_binary: "/bin/false".into(),
            shim_folders: vec![shim().parent().unwrap().to_owned()],
            runtimes: std::collections::BTreeMap::from([annotated(), foreign()]),
            default_runtime: "io.containerd.orlop.v1".to_owned(),
            step_limit: Duration::from_secs(20),
            network: NetworkSettings {
                config_folder: at("net.d"),
                plugin_folders: vec![at("bin"), "/usr/lib/cni".into()],
                cache_folder: at("cni"),
                plugin_limit: Duration::from_secs(20),
            },
            cdi_folders: vec![at("cdi"), at("cdi.run")],
            pods,
            cgroup_parent: self.cgroup(),
        };
        let runtime = Runtime::new(settings, db.clone(), clock, tasks.child("runtime"));
        Life { runtime, db, tasks }
    }

    fn cgroup(&self) -> PathBuf {
        let name = self.folder.file_name().unwrap().to_string_lossy();
        format!("/orlop-test{}", name.replace('.', "-")).into()
    }

    /// Takes the rules of its network away, as a reboot does: bridge leaves its own if the namespace has gone before.
    pub(crate) fn forget_rules(&self) {
        let prefix = format!("10.232.{}.", self.subnet);
        for line in output("iptables-save", &["-t", "nat"]).lines() {
            let Some(rule) = line
                .strip_prefix("-A ")
                .filter(|rule| rule.contains(&prefix))
            else {
                continue;
            };
            let removal = format!("iptables -t nat -D {rule}");
            output("sh", &["-c", &removal]);
        }
    }

    /// Everything a pod may leave behind, by name. What the node itself has is not among it.
    pub(crate) fn traces(&self) -> BTreeSet<String> {
        let mut traces = BTreeSet::new();
        let mut add = |kind: &str, what: String| traces.extend([format!("{kind} {what}")]);
        let folder = self.folder.to_string_lossy().into_owned();
        for line in std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
        {
            if line.contains(&folder) {
                add("mount", line.split(' ').nth(4).unwrap().to_owned());
            }
        }
        for name in names(&self.folder.join("pods/k8s.io")) {
            // Namespaces of this node only: others' tests run beside.
            if Path::new("/run/netns")
                .join(format!("orlop-{name}"))
                .exists()
            {
                add("netns", name.clone());
            }
            add("folder", name);
        }
        for name in names(&self.folder.join("ipam/pods")) {
            if name.starts_with("10.") {
                add("address", name);
            }
        }
        for name in names(&self.folder.join("cni/results")) {
            add("attachment", name);
        }
        for line in output("ip", &["-o", "link", "show", "master", &self.bridge]).lines() {
            add("link", line.split_whitespace().nth(1).unwrap().to_owned());
        }
        let prefix = format!("10.232.{}.", self.subnet);
        for line in output("iptables-save", &[]).lines() {
            if line.contains(&prefix) {
                add("rule", line.to_owned());
            }
        }
        for hierarchy in names(Path::new("/sys/fs/cgroup")) {
            let folder = Path::new("/sys/fs/cgroup").join(&hierarchy);
            let own = folder
                .join(self.cgroup().strip_prefix("/").unwrap())
                .join("k8s.io");
            for name in names(&own)
                .into_iter()
                .filter(|name| name.starts_with("pod"))
            {
                add("cgroup", format!("{hierarchy}/{name}"));
            }
        }
        traces
    }

    /// The network namespaces that pods of this node have pinned, also of pods whose folder is gone.
    pub(crate) fn networks(ids: &[SandboxId]) -> usize {
        let pinned = |id: &&SandboxId| Path::new("/run/netns").join(format!("orlop-{id}")).exists();
        ids.iter().filter(pinned).count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.owned.is_none() {
            return;
        }
        // A failing test must not leave anything behind.
        for name in names(&self.folder.join("pods/k8s.io")) {
            let path = format!("/run/netns/orlop-{name}");
            output("umount", &["-l", &path]);
            drop(std::fs::remove_file(&path));
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.folder.to_string_lossy().into_owned();
        for line in table.lines().filter(|line| line.contains(&folder)) {
            output(
                "umount",
                &["-l", line.split(' ').nth(4).unwrap_or_default()],
            );
        }
        output("ip", &["link", "del", &self.bridge]);
        for hierarchy in names(Path::new("/sys/fs/cgroup")) {
            let own = Path::new("/sys/fs/cgroup").join(hierarchy);
            let own = own.join(self.cgroup().strip_prefix("/").unwrap());
            drop(std::fs::remove_dir(own.join("k8s.io")));
            drop(std::fs::remove_dir(own));
        }
    }
}

impl Life {
    pub(crate) async fn run(&self, config: PodConfig) -> SandboxId {
        self.runtime.run_pod(&namespace(), config).await.unwrap()
    }

    pub(crate) async fn pod(&self, id: &SandboxId) -> Pod {
        self.runtime.pod(&namespace(), id).await.unwrap()
    }

    pub(crate) async fn pods(&self) -> Vec<Pod> {
        self.runtime.pods(&namespace()).await.unwrap()
    }

    pub(crate) async fn remove(&self, id: &SandboxId) {
        self.runtime.remove_pod(&namespace(), id).await.unwrap();
    }

    /// Ends in order.
    pub(crate) async fn end(self) {
        self.tasks.shutdown(PATIENCE).await.unwrap();
    }
}

pub(crate) fn namespace() -> Namespace {
    Namespace::new("k8s.io").unwrap()
}

pub(crate) fn config(name: &str) -> PodConfig {
    PodConfig {
        name: name.to_owned(),
        kubernetes_namespace: "test".to_owned(),
        uid: format!("uid-{name}"),
        hostname: name.to_owned(),
        ..PodConfig::default()
    }
}

/// A handler that passes some annotations on.
fn annotated() -> (String, RuntimeSettings) {
    let settings = RuntimeSettings {
        shim_binary: Some(shim()),
        pod_annotations: vec!["pod.example/*".parse().unwrap()],
        container_annotations: vec!["container.example/*".parse().unwrap()],
        ..RuntimeSettings::default()
    };
    ("annotated".to_owned(), settings)
}

/// Debian's shim of containerd, with runc.
fn foreign() -> (String, RuntimeSettings) {
    let settings = RuntimeSettings {
        shim_binary: Some("/usr/bin/containerd-shim-runc-v2".into()),
        ..RuntimeSettings::default()
    };
    ("foreign".to_owned(), settings)
}

/// Our shim, beside the test program.
pub(crate) fn shim() -> PathBuf {
    let folder = std::env::var_os("ORLOP_BIN_DIR").map_or_else(
        || {
            let own = std::env::current_exe().unwrap();
            own.parent().and_then(Path::parent).unwrap().to_owned()
        },
        PathBuf::from,
    );
    let shim = folder.join("containerd-shim-orlop-v1");
    assert!(
        shim.exists(),
        "{shim:?} is missing: build orlop-shim, or set ORLOP_BIN_DIR"
    );
    shim
}

/// What a program says; empty if it fails.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    if !output.status.success() {
        return String::new();
    }
    String::from_utf8(output.stdout).unwrap()
}

/// The names in a folder; none if it is not there.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Waits until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

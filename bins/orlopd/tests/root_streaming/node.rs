//! A daemon on scratch folders, and containers in it.

use std::path::Path;
use std::time::{Duration, Instant};

use orlop_api::Any;
use orlop_api::containerd::services::containers::v1 as containers;
use orlop_api::containerd::services::tasks::v1 as tasks;
use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::runtime_service_client::RuntimeServiceClient;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::support::{Daemon, PATIENCE};

const NAMESPACE: &str = "k8s.io";
const SIGKILL: u32 = 9;

/// How a container's streams are set up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Streams<'a> {
    pub(crate) stdin: &'a str,
    pub(crate) output: &'a str,
    pub(crate) terminal: bool,
}

pub(crate) struct Node {
    daemon: Daemon,
    containers: Vec<String>,
    /// The networks' configuration and addresses.
    networks: Option<tempfile::TempDir>,
}

impl Node {
    pub(crate) fn start(settings: &[&str]) -> Self {
        let daemon = Daemon::start(settings);
        make_rootfs(&daemon.folder().join("rootfs"));
        Self {
            daemon,
            containers: Vec::new(),
            networks: None,
        }
    }

    /// With a network for pods: pairs of devices without a bridge, which go with their pods.
    pub(crate) fn start_networked() -> Self {
        let networks = tempfile::tempdir().unwrap();
        let list = json!({"cniVersion": "1.0.0", "name": "streaming", "plugins": [{"type": "ptp", "ipam": {
            "type": "host-local", "dataDir": networks.path().join("ipam"), "ranges": [[{"subnet": "10.233.91.0/28"}]],
        }}]});
        let folder = networks.path().join("net.d");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("10.conflist"), list.to_string()).unwrap();
        let setting = format!("runtime.cni_conf_dir={}", folder.display());
        let mut node = Self::start(&[&setting]);
        node.networks = Some(networks);
        node
    }

    /// Ends the daemon as a crash does, and starts another.
    pub(crate) fn crash_and_restart(&mut self) {
        self.daemon.crash_and_restart();
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.pid()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.daemon.folder()
    }

    /// A running container; its id.
    pub(crate) fn container(&mut self, args: &[&str], streams: Streams<'_>) -> String {
        self.container_with(args, streams, |_| {})
    }

    /// As [`Node::container`], with its OCI spec changed.
    pub(crate) fn container_with(
        &mut self,
        args: &[&str],
        streams: Streams<'_>,
        change: impl FnOnce(&mut Value),
    ) -> String {
        let id = format!("{:064x}", self.containers.len() + 1);
        let mut spec = spec(
            &self.daemon.folder().join("rootfs"),
            &id,
            args,
            streams.terminal,
        );
        change(&mut spec);
        self.containers.push(id.clone());
        let container = containers::Container {
            id: id.clone(),
            runtime: Some(containers::container::Runtime {
                name: "io.containerd.orlop.v1".to_owned(),
                options: None,
            }),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
                value: spec.to_string().into_bytes(),
            }),
            ..Default::default()
        };
        let create = tasks::CreateTaskRequest {
            container_id: id.clone(),
            stdin: streams.stdin.to_owned(),
            stdout: streams.output.to_owned(),
            stderr: if streams.terminal { "" } else { streams.output }.to_owned(),
            terminal: streams.terminal,
            ..Default::default()
        };
        self.block_on(async {
            let channel = self.daemon.channel().await;
            let mut store = containers::containers_client::ContainersClient::new(channel.clone());
            let request = containers::CreateContainerRequest {
                container: Some(container),
            };
            store.create(within(request)).await.unwrap();
            let mut client = tasks::tasks_client::TasksClient::new(channel);
            client.create(within(create)).await.unwrap();
            let start = tasks::StartRequest {
                container_id: id.clone(),
                ..Default::default()
            };
            client.start(within(start)).await.unwrap();
        });
        id
    }

    pub(crate) fn pause(&self, id: &str) {
        let request = tasks::PauseTaskRequest {
            container_id: id.to_owned(),
        };
        self.block_on(async {
            let mut client = tasks::tasks_client::TasksClient::new(self.daemon.channel().await);
            client.pause(within(request)).await.unwrap();
        });
    }

    pub(crate) fn resume(&self, id: &str) {
        let request = tasks::ResumeTaskRequest {
            container_id: id.to_owned(),
        };
        self.block_on(async {
            let mut client = tasks::tasks_client::TasksClient::new(self.daemon.channel().await);
            client.resume(within(request)).await.unwrap();
        });
    }

    pub(crate) fn kill(&self, id: &str) {
        let request = tasks::KillRequest {
            container_id: id.to_owned(),
            signal: SIGKILL,
            ..Default::default()
        };
        self.block_on(async {
            let mut client = tasks::tasks_client::TasksClient::new(self.daemon.channel().await);
            client.kill(within(request)).await.unwrap();
            let wait = tasks::WaitRequest {
                container_id: id.to_owned(),
                ..Default::default()
            };
            client.wait(within(wait)).await.unwrap();
        });
    }

    /// The URL for a command.
    pub(crate) fn exec_url(
        &self,
        id: &str,
        args: &[&str],
        wanted: Wanted,
    ) -> Result<String, Status> {
        let request = cri::ExecRequest {
            container_id: id.to_owned(),
            cmd: args.iter().map(|arg| (*arg).to_owned()).collect(),
            tty: wanted.terminal,
            stdin: wanted.stdin,
            stdout: true,
            stderr: !wanted.terminal,
        };
        self.block_on(async {
            let answer = self.cri().await.exec(request).await?;
            Ok(answer.into_inner().url)
        })
    }

    /// The URL of a container's own streams.
    pub(crate) fn attach_url(&self, id: &str, wanted: Wanted) -> String {
        let request = cri::AttachRequest {
            container_id: id.to_owned(),
            tty: wanted.terminal,
            stdin: wanted.stdin,
            stdout: true,
            stderr: !wanted.terminal,
        };
        self.block_on(async {
            self.cri()
                .await
                .attach(request)
                .await
                .unwrap()
                .into_inner()
                .url
        })
    }

    pub(crate) fn exec_sync(
        &self,
        id: &str,
        args: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: args.iter().map(|arg| (*arg).to_owned()).collect(),
            timeout,
        };
        self.block_on(async {
            let client = self.cri().await;
            let mut client = client.max_decoding_message_size(16 << 20);
            client
                .exec_sync(request)
                .await
                .map(tonic::Response::into_inner)
        })
    }

    /// A pod in the host's network.
    pub(crate) fn host_pod(&self) -> String {
        self.pod_in(cri::NamespaceMode::Node)
    }

    /// A pod with a network of its own.
    pub(crate) fn own_pod(&self) -> String {
        self.pod_in(cri::NamespaceMode::Pod)
    }

    pub(crate) fn remove_pod(&self, pod: &str) {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.block_on(async {
            self.cri().await.remove_pod_sandbox(request).await.unwrap();
        });
    }

    fn pod_in(&self, network: cri::NamespaceMode) -> String {
        let namespaces = cri::NamespaceOption {
            network: network.into(),
            ..Default::default()
        };
        let security = cri::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces),
            ..Default::default()
        };
        let metadata = cri::PodSandboxMetadata {
            name: "pod".to_owned(),
            uid: "uid".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let config = cri::PodSandboxConfig {
            metadata: Some(metadata),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        self.block_on(async {
            let answer = self.cri().await.run_pod_sandbox(request).await.unwrap();
            answer.into_inner().pod_sandbox_id
        })
    }

    pub(crate) fn port_forward_url(&self, pod: &str) -> String {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: pod.to_owned(),
            port: Vec::new(),
        };
        self.block_on(async {
            self.cri()
                .await
                .port_forward(request)
                .await
                .unwrap()
                .into_inner()
                .url
        })
    }

    pub(crate) fn reopen_log(&self, id: &str) {
        let request = cri::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        self.block_on(async {
            self.cri()
                .await
                .reopen_container_log(request)
                .await
                .unwrap();
        });
    }

    /// How many processes of the container have this in their command line.
    pub(crate) fn processes_with(&self, id: &str, text: &str) -> usize {
        let request = tasks::ListPidsRequest {
            container_id: id.to_owned(),
        };
        let pids = self.block_on(async {
            let mut client = tasks::tasks_client::TasksClient::new(self.daemon.channel().await);
            client
                .list_pids(within(request))
                .await
                .unwrap()
                .into_inner()
        });
        let lines = pids.processes.iter().filter_map(|process| {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        lines.filter(|line| line.contains(text)).count()
    }

    /// Names in the container's bundle.
    pub(crate) fn bundle(&self, id: &str) -> Vec<String> {
        let folder = self.folder().join("state/tasks").join(NAMESPACE).join(id);
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.daemon.block_on(work)
    }

    async fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.daemon.channel().await)
    }

    fn remove(&self, id: &str) {
        self.block_on(async {
            let channel = self.daemon.channel().await;
            let mut client = tasks::tasks_client::TasksClient::new(channel.clone());
            let kill = tasks::KillRequest {
                container_id: id.to_owned(),
                signal: SIGKILL,
                all: true,
                ..Default::default()
            };
            // One that has ended, or was removed by its test, is as it should be.
            if client.kill(within(kill)).await.is_ok() {
                let wait = tasks::WaitRequest {
                    container_id: id.to_owned(),
                    ..Default::default()
                };
                client.wait(within(wait)).await.ok();
            }
            let delete = tasks::DeleteTaskRequest {
                container_id: id.to_owned(),
            };
            client.delete(within(delete)).await.ok();
        });
    }
}

/// Its containers go before the daemon does.
impl Drop for Node {
    fn drop(&mut self) {
        for id in &self.containers {
            self.remove(id);
        }
    }
}

/// What a client wants beside output.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) terminal: bool,
}

/// Waits for something to become true.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = NAMESPACE.parse().unwrap();
    request
        .metadata_mut()
        .insert("containerd-namespace", namespace);
    request
}

fn make_rootfs(rootfs: &Path) {
    let bin = rootfs.join("bin");
    for folder in ["bin", "proc", "dev", "tmp"] {
        std::fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
    for name in [
        "sh", "cat", "sleep", "echo", "stty", "head", "id", "wc", "nc", "pwd", "env", "trap",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
    }
}

fn spec(rootfs: &Path, id: &str, args: &[&str], terminal: bool) -> Value {
    // One of its own for every run.
    let cgroup = format!("/orlop-streaming-{}-{}", std::process::id(), &id[60..]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/tmp",
            "env": ["PATH=/bin", "MARK=here"], "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        },
        "root": {"path": rootfs},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        ],
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
    })
}

//! How a container ended and who ended it: in its status, in the events and in the metrics, also if nobody watched.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::ContainerState;
use orlop_e2e::kubelet::container_config;
use orlop_e2e::node::eventually;
use orlop_e2e::{Kubelet, Node};
use orlop_sys::fs::{Dir, Mode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const MEMORY_BYTES: i64 = 16 << 20;

const EATING: &str = "x=a; while :; do x=$x$x$x; done";
const SLEEPING: &str = "while :; do sleep 1; done";

/// What ends a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Its own limit.
    OwnLimit,
    /// That of the pod's group.
    PodLimit,
    /// A signal of somebody who is not the engine.
    Stranger,
    /// Itself, with the code of a kill.
    Itself,
}

const CAUSES: [Cause; 4] = [
    Cause::OwnLimit,
    Cause::PodLimit,
    Cause::Stranger,
    Cause::Itself,
];

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::OwnLimit => "own",
            Self::PodLimit => "pods",
            Self::Stranger => "stranger",
            Self::Itself => "itself",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::OwnLimit | Self::PodLimit => EATING,
            Self::Stranger => SLEEPING,
            Self::Itself => "exit 137",
        }
    }

    /// The engine's word for it, in events and metrics.
    fn word(self) -> &'static str {
        match self {
            Self::OwnLimit => "workload_oom",
            Self::PodLimit => "ancestor_oom",
            Self::Stranger => "killed_by_other",
            Self::Itself => "exited",
        }
    }

    /// The reason in the status, and a part of its message.
    fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::OwnLimit => ("OOMKilled", "the container's memory limit"),
            Self::PodLimit => ("OOMKilled", "above the container's memory limit"),
            Self::Stranger => ("Error", "SIGKILL, which this engine did not send"),
            Self::Itself => ("Error", "ended by itself with code 137"),
        }
    }

    fn is_memory(self) -> bool {
        matches!(self, Self::OwnLimit | Self::PodLimit)
    }
}

/// A node with metrics.
struct Scene {
    // First: it takes the pods of a test that failed away, and needs the daemon for that.
    kubelet: Kubelet,
    node: Node,
    metrics: String,
    limited: LimitedGroup,
}

impl Scene {
    fn new() -> Self {
        let metrics = free_address();
        let setting = format!("telemetry.metrics_address={metrics}");
        let node = Node::start_with(&[&setting]).unwrap();
        let socket = node.engine().unwrap().socket().to_owned();
        let kubelet = Kubelet::new(node.scratch(), &socket).unwrap();
        kubelet.pull(node.image()).unwrap();
        let limited = LimitedGroup::new(&node.scratch().name());
        Self {
            node,
            kubelet,
            metrics,
            limited,
        }
    }

    /// A running container in a pod of its own; both ids.
    fn run(&self, cause: Cause) -> (String, String) {
        let mut config = self.kubelet.pod_config(cause.name());
        if cause == Cause::PodLimit {
            config.linux.as_mut().unwrap().cgroup_parent = self.limited.parent();
        }
        let pod = self.kubelet.run_pod(&config).unwrap();
        // Not before the test says so: it has to end the daemon first, on a machine that may be slow.
        let script = format!(
            "while [ ! -e /go/now ]; do sleep 0.1; done; {}",
            cause.script()
        );
        let mut asked = container_config(cause.name(), self.node.image(), &script);
        asked.mounts = vec![cri::Mount {
            container_path: "/go".to_owned(),
            host_path: self.go().display().to_string(),
            ..cri::Mount::default()
        }];
        if cause == Cause::OwnLimit {
            asked.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
                memory_limit_in_bytes: MEMORY_BYTES,
                ..cri::LinuxContainerResources::default()
            });
        }
        let container = self.kubelet.run(&pod, &asked, &config).unwrap();
        (pod, container)
    }

    /// The folder in which a file tells containers to go on.
    fn go(&self) -> PathBuf {
        self.node.scratch().folder("go").unwrap()
    }

    /// The container's first process on the host.
    fn process(&self, container: &str) -> Pid {
        let group = Path::new("/sys/fs/cgroup")
            .join(memory_hierarchy())
            .join(self.node.scratch().name())
            .join(container);
        let processes = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let first = processes.lines().next().unwrap().parse().unwrap();
        Pid::from_raw(first).unwrap()
    }

    /// Events of pods and their containers, oldest first.
    fn events(&self) -> Vec<Value> {
        let all = [
            "--output",
            "json",
            "events",
            "--all-namespaces",
            "--since",
            "1",
        ];
        let text = self.node.caller().orlop(&all).unwrap().success().unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn metric(&self, line: &str) -> Option<u64> {
        let mut socket = TcpStream::connect(&self.metrics).unwrap();
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: metrics\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let value = text.lines().find_map(|one| one.strip_prefix(line))?;
        value.trim().parse().ok()
    }

    /// What status, events and metrics say of an end.
    fn check(&self, cause: Cause, container: &str, what: &str) {
        let ended = eventually(&format!("{what}: it has ended"), || {
            let status = self.kubelet.container(container)?;
            Ok((status.state() == ContainerState::ContainerExited).then_some(status))
        })
        .unwrap();
        let (reason, message) = cause.told();
        assert_eq!(
            (ended.exit_code, &*ended.reason),
            (137, reason),
            "{what}: {ended:?}"
        );
        assert!(ended.message.contains(message), "{what}: {ended:?}");
        let of = |topic: &str| {
            self.events().into_iter().find(|event| {
                event["topic"] == topic && event["event"]["container_id"] == container
            })
        };
        let exit = eventually(&format!("{what}: its end is an event"), || {
            Ok(of("/tasks/exit"))
        });
        let exit = exit.unwrap_or_else(|error| panic!("{error:#}: {:#?}", self.events()));
        assert_eq!(exit["event"]["cause"], cause.word(), "{what}: {exit}");
        if cause.is_memory() {
            eventually(
                &format!("{what}: that memory was short is an event"),
                || Ok(of("/tasks/oom")),
            )
            .unwrap();
        }
        let line = format!("orlop_container_ends_total{{cause=\"{}\"}}", cause.word());
        eventually(&format!("{what}: it is counted"), || {
            Ok(self.metric(&line).filter(|count| *count > 0))
        })
        .unwrap();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Where memory is accounted, below `/sys/fs/cgroup`: version 1 has a hierarchy for it.
fn memory_hierarchy() -> &'static str {
    let version_1 = Path::new("/sys/fs/cgroup/memory").is_dir();
    if version_1 { "memory" } else { "" }
}

/// A group with a memory limit, as the kubelet makes one for a pod.
struct LimitedGroup {
    above: String,
}

impl LimitedGroup {
    fn new(above: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup").join(memory_hierarchy());
        let path = root.join(above).join("limited");
        Dir::create_all(&path, Mode::from_raw_mode(0o755)).unwrap();
        let write = |path: PathBuf, text: &str| {
            let mut file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        if memory_hierarchy().is_empty() {
            for folder in [root.clone(), root.join(above)] {
                write(folder.join("cgroup.subtree_control"), "+memory");
            }
            write(path.join("memory.max"), &MEMORY_BYTES.to_string());
        } else {
            let limit = path.join("memory.limit_in_bytes");
            write(limit, &MEMORY_BYTES.to_string());
        }
        Self {
            above: above.to_owned(),
        }
    }

    fn parent(&self) -> String {
        format!("/{}/limited", self.above)
    }

    /// The kubelet removes its groups; so do we, in every hierarchy.
    fn remove(&self) {
        let unified = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(unified).unwrap().flatten();
        let paths = hierarchies.map(|entry| entry.path());
        for hierarchy in paths.chain([unified.to_owned()]) {
            let group = hierarchy.join(&self.above).join("limited");
            if group.is_dir() {
                std::fs::remove_dir(&group).unwrap();
            }
        }
    }
}

#[test]
fn who_ended_a_container_is_told_also_if_nobody_watched() {
    let mut scene = Scene::new();
    for is_watched in [true, false] {
        let running: Vec<_> = CAUSES
            .iter()
            .map(|cause| (*cause, scene.run(*cause)))
            .collect();
        let victim = running.iter().find(|(cause, _)| *cause == Cause::Stranger);
        let victim = scene.process(&victim.unwrap().1.1);
        if !is_watched {
            scene.node.kill_daemon().unwrap();
        }
        let now = scene.go().join("now");
        std::fs::File::create(&now).unwrap();
        kill_process(victim, Signal::KILL).unwrap();
        if !is_watched {
            std::thread::sleep(Duration::from_millis(3000));
            scene.node.start_daemon().unwrap();
        }
        for (cause, (pod, container)) in running {
            let what = format!("{cause:?}, watched: {is_watched}");
            scene.check(cause, &container, &what);
            scene.kubelet.take_away(&pod).unwrap();
        }
        std::fs::remove_file(&now).unwrap();
    }
    scene.limited.remove();
    close(scene);
}

#[test]
fn a_container_that_was_stopped_says_so() {
    let scene = Scene::new();
    let config = scene.kubelet.pod_config("web");
    let pod = scene.kubelet.run_pod(&config).unwrap();
    for (name, grace, code, signal) in [("deaf", 0, 137, "SIGKILL"), ("polite", 10, 143, "SIGTERM")]
    {
        let mut asked = container_config(name, scene.node.image(), "");
        // Without handlers of its own the first process of a namespace does not hear.
        asked.command = [
            "sh",
            "-c",
            "trap 'trap - TERM; kill -TERM $$; exit 143' TERM; while :; do sleep 0.1; done",
        ]
        .map(str::to_owned)
        .to_vec();
        let container = scene.kubelet.run(&pod, &asked, &config).unwrap();
        scene.kubelet.exec(&container, &["sleep", "0.5"]).unwrap();
        scene.kubelet.stop(&container, grace).unwrap();
        let ended = scene.kubelet.container(&container).unwrap();
        assert_eq!(
            (ended.exit_code, &*ended.reason),
            (code, "Error"),
            "{ended:?}"
        );
        if code == 137 {
            let told = format!("ended by {signal} from this engine");
            assert!(ended.message.contains(&told), "{ended:?}");
        }
    }
    scene.kubelet.take_away(&pod).unwrap();
    scene.limited.remove();
    close(scene);
}

fn close(scene: Scene) {
    let Scene { node, kubelet, .. } = scene;
    eventually("nothing of the pods is left", || {
        Ok(kubelet.leftovers().is_empty().then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", kubelet.leftovers()));
    node.close().unwrap();
}

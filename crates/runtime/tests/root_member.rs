//! Containers of pods with the real kernel, our shim and runc.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test drives programs, writes into its own folder, and may panic"
)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orlop_api::Message;
use orlop_api::containerd::task::v3::StartRequest;
use orlop_meta::{Backends, CommitOptions, SnapshotOptions};
use orlop_runtime::member::{
    GroupPolicy, Member, MemberConfig, MemberDevice, MemberEnd, MemberImage, MemberMount,
    MemberProcesses, MemberState, NewMember, Profile, Propagation, RunAs,
};
use orlop_runtime::pod::{PodConfig, ProcessNamespace};
use orlop_runtime::spec::{ImageDefaults, Limits};
use orlop_runtime::{CreateTask, ErrorKind, Streams};
use orlop_ttrpc::client::Client;
use orlop_types::{ContainerId, Labels, SandboxId, SnapshotKey, SnapshotterName};
use support::{Life, Node, config, eventually, names, namespace, output};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 20] = [
    "sh", "cat", "dd", "echo", "false", "grep", "hostname", "id", "kill", "ls", "mkdir", "mount",
    "ps", "sleep", "stat", "touch", "true", "unshare", "wc", "pwd",
];

/// One pod on the host's network, with an image to make containers from.
struct Pod {
    node: Node,
    life: Life,
    id: SandboxId,
}

fn begin(node: &Node) -> Life {
    node.begin_with(Backends::open(node.folder()).unwrap())
}

fn snapshotter() -> SnapshotterName {
    SnapshotterName::new("overlayfs").unwrap()
}

fn image() -> SnapshotKey {
    SnapshotKey::new("image").unwrap()
}

/// Commits a snapshot with BusyBox and two accounts.
fn make_image(life: &Life) {
    let namespace = namespace();
    let view = life.db.namespace(&namespace);
    let snapshots = view.snapshots(&snapshotter());
    let key = SnapshotKey::new("image-active").unwrap();
    let kept: Labels = [("containerd.io/gc.root".to_owned(), "now".to_owned())]
        .into_iter()
        .fold(Labels::new(), |mut labels, (name, value)| {
            labels.insert(name, value).unwrap();
            labels
        });
    let options = SnapshotOptions {
        parent: None,
        labels: kept.clone(),
    };
    let mounts = snapshots.prepare(&key, &options).unwrap();
    let root = PathBuf::from(&mounts[0].source);
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "srv"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nextra:x:50000:web\n").unwrap();
    std::fs::write(root.join("etc/secret"), "secret\n").unwrap();
    let options = CommitOptions {
        labels: kept,
        ..CommitOptions::default()
    };
    snapshots.commit(&image(), &key, &options).unwrap();
}

fn pod_config(name: &str) -> PodConfig {
    let mut asked = config(name);
    asked.namespaces.host_network = true;
    asked
}

impl Pod {
    async fn new(subnet: u8, change: impl FnOnce(&mut PodConfig)) -> Self {
        let node = Node::new(subnet);
        let life = begin(&node);
        life.runtime.recover().await.unwrap();
        make_image(&life);
        let mut asked = pod_config("web");
        asked.log_folder = node.folder().join("podlogs");
        change(&mut asked);
        let id = life.run(asked).await;
        Self { node, life, id }
    }

    /// Makes a container that runs `script`.
    async fn create(&self, config: MemberConfig) -> Result<ContainerId, orlop_runtime::Error> {
        let new = new_member(&self.id, config);
        self.life.runtime.create_member(&namespace(), new).await
    }

    async fn start(&self, config: MemberConfig) -> ContainerId {
        let id = self.create(config).await.unwrap();
        let started = self.life.runtime.start_member(&namespace(), &id).await;
        started.unwrap_or_else(|error| panic!("{}", orlop_types::chain(&error)));
        id
    }

    async fn member(&self, id: &ContainerId) -> Member {
        self.life.runtime.member(&namespace(), id).await.unwrap()
    }

    async fn end(&self, id: &ContainerId) -> MemberEnd {
        let mut end = None;
        eventually("the container has ended", async || {
            end = match self.member(id).await.state {
                MemberState::Exited(end) => Some(end),
                MemberState::Created | MemberState::Running | MemberState::Unknown(_) => None,
            };
            end.is_some()
        })
        .await;
        end.unwrap()
    }

    /// Runs a container to its end; what it said, without time stamps.
    async fn said(&self, config: MemberConfig) -> String {
        let id = self.start(config).await;
        let end = self.end(&id).await;
        let log = self.log(&id).await;
        assert_eq!(end.code, 0, "{end:?}\n{log}");
        log
    }

    async fn log(&self, id: &ContainerId) -> String {
        let path = self.member(id).await.log_path.unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Waits until its script says so: a shell that has not set its traps yet ignores signals, being the first process.
    async fn ready(&self, id: &ContainerId) {
        eventually("the script is ready", async || {
            self.log(id).await.contains("ready")
        })
        .await;
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) {
        let namespace = namespace();
        let stopped = self.life.runtime.stop_member(&namespace, id, grace);
        stopped.await.unwrap();
    }

    /// Removes everything and compares with what there was before.
    async fn close(self) {
        self.life.remove(&self.id).await;
        let namespace = namespace();
        let view = self.life.db.namespace(&namespace);
        assert!(view.containers().list(&[]).unwrap().is_empty());
        assert!(view.tasks().list().unwrap().is_empty());
        assert!(view.leases().list(&[]).unwrap().is_empty());
        let snapshots = view.snapshots(&snapshotter()).list(&[]).unwrap();
        assert_eq!(snapshots.len(), 1, "{snapshots:?}");
        assert!(self.node.traces().is_empty(), "{:?}", self.node.traces());
        assert!(names(&self.node.folder().join("tasks/k8s.io")).is_empty());
        let folder = self.node.folder().to_string_lossy().into_owned();
        let left = output("pgrep", &["-af", &format!("shim.*{folder}")]);
        assert_eq!(left, "");
        self.life.end().await;
    }
}

fn new_member(pod: &SandboxId, config: MemberConfig) -> NewMember {
    NewMember {
        pod: pod.clone(),
        config,
        image: MemberImage {
            requested: "busybox".into(),
            ..MemberImage::default()
        },
        image_defaults: ImageDefaults {
            env: vec!["PATH=/bin".into()],
            ..ImageDefaults::default()
        },
        image_snapshot: image(),
        snapshotter: snapshotter(),
        mounted_images: Vec::new(),
    }
}

/// A container of this name that runs a script.
fn script(name: &str, script: &str) -> MemberConfig {
    MemberConfig {
        name: name.to_owned(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}/0.log"),
        ..MemberConfig::default()
    }
}

const WHO: &str =
    "id -u; id -g; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status";

#[tokio::test(flavor = "multi_thread")]
async fn users_groups_and_capabilities_are_those_asked_for() {
    let pod = Pod::new(40, |_| {}).await;
    let mut merged = script("merged", WHO);
    merged.security.run_as = RunAs::Uid(1000);
    merged.security.supplemental_groups = vec![1234];
    merged.security.capabilities_dropped = vec!["ALL".into()];
    merged.security.capabilities_added = vec!["NET_BIND_SERVICE".into()];
    merged.security.no_new_privileges = true;
    merged.security.seccomp = Profile::RuntimeDefault;
    let said = pod.said(merged).await;
    let expected = "1000\n1000\n1000 1234 50000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2";
    assert_eq!(said, expected);
    let mut strict = script("strict", WHO);
    strict.security.run_as = RunAs::Name("web".into());
    strict.security.run_as_group = Some(7);
    strict.security.group_policy = GroupPolicy::Strict;
    let said = pod.said(strict).await;
    assert!(said.starts_with("1000\n7\n7\n"), "{said}");
    assert!(said.ends_with("NoNewPrivs:\t0\nSeccomp:\t0"), "{said}");
    let mut ambient = script("ambient", "grep CapEff /proc/self/status");
    ambient.security.run_as = RunAs::Uid(1000);
    ambient.security.capabilities_ambient = vec!["NET_ADMIN".into()];
    assert_eq!(pod.said(ambient).await, "CapEff:\t0000000000001000");
    let mut nobody = script("nobody", "true");
    nobody.security.run_as = RunAs::Name("nobody".into());
    let refused = pod.create(nobody).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_masks_and_privileges_are_in_force() {
    let pod = Pod::new(41, |asked| asked.privileged = true).await;
    let tries = "unshare -U true 2>/dev/null && echo free || echo refused; cat /etc/secret; touch /srv/x 2>/dev/null \
                 && echo written || echo read-only; touch /sys/x 2>&1 | grep -o 'Read-only'; ls /dev | wc -l";
    let mut confined = script("confined", tries);
    confined.security.seccomp = Profile::RuntimeDefault;
    confined.security.masked_paths = vec!["/etc/secret".into()];
    confined.security.read_only_paths = vec!["/srv".into()];
    let said = pod.said(confined).await;
    assert!(
        said.starts_with("refused\nread-only\nRead-only\n"),
        "{said}"
    );
    let count: usize = said.lines().last().unwrap().parse().unwrap();
    let mut free = script("free", tries);
    free.security.read_only_root = true;
    let said = pod.said(free).await;
    assert!(said.starts_with("free\nsecret\nread-only\n"), "{said}");
    let mut all = script("all", &format!("{tries}; {WHO}"));
    all.security.privileged = true;
    all.security.seccomp = Profile::RuntimeDefault;
    all.security.masked_paths = vec!["/etc/secret".into()];
    let said = pod.said(all).await;
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..3], ["free", "secret", "written"]);
    let devices: usize = lines[3].parse().unwrap_or_else(|_| panic!("{said}"));
    assert!(devices > count, "{devices} of {count}");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find(|line| line.starts_with("CapBnd")).unwrap();
    assert!(
        lines.contains(&bounding) && lines.contains(&"Seccomp:\t0"),
        "{said}"
    );
    let profile = pod.node.folder().join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&profile, text).unwrap();
    let mut own = script(
        "own",
        "mkdir /tmp/x 2>/dev/null && echo made || echo refused",
    );
    own.security.seccomp = Profile::Localhost(profile.to_string_lossy().into_owned());
    assert_eq!(pod.said(own).await, "refused");
    pod.close().await;
}

/// containerd's own shim for runc has neither logs for the kubelet nor anything to attach to: a program of ours beside it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_of_another_make_logs_and_can_be_attached_to() {
    let pod = Pod::new(55, |asked| asked.handler = "foreign".into()).await;
    let id = pod
        .start(script(
            "web",
            "echo first; echo fault >&2; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done",
        ))
        .await;
    eventually("both outputs are logged", async || {
        let log = pod.log(&id).await;
        log.contains("first") && log.contains("fault") && log.contains("line 3")
    })
    .await;
    let namespace = namespace();
    let wanted = orlop_runtime::attach::AttachStreams {
        stdout: true,
        ..Default::default()
    };
    let attached = pod.life.runtime.attach(&namespace, &id, wanted).await;
    let mut attached = attached.unwrap();
    let event = attached.output.next().await.unwrap();
    let orlop_runtime::attach::AttachEvent::Stdout(bytes) = event else {
        panic!("{event:?}");
    };
    assert!(bytes.starts_with(b"line "), "{bytes:?}");
    let path = pod.member(&id).await.log_path.unwrap();
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    pod.life.runtime.reopen_log(&namespace, &id).await.unwrap();
    eventually("the new log goes on", async || {
        pod.log(&id).await.contains("line ")
    })
    .await;
    pod.stop(&id, Duration::ZERO).await;
    let end = pod.end(&id).await;
    assert_eq!(end.code, 137, "{end:?}");
    // It ends after it has answered that it will.
    let shim = format!("containerd-shim-runc-v2.*{id}");
    eventually("its shim has ended", async || {
        output("pgrep", &["-af", &shim]).is_empty()
    })
    .await;
    let mut fed = script("fed", "cat");
    fed.stdin = true;
    let refused = pod.create(fed).await.unwrap_err();
    assert_eq!(refused.code(), "ORL-E6605", "{refused}");
    pod.close().await;
}

/// A hook of the OCI runtime is told them: that is what annotations in a spec are for.
#[tokio::test(flavor = "multi_thread")]
async fn annotations_that_a_handler_names_reach_the_oci_runtime() {
    let pod = Pod::new(54, |asked| {
        asked.handler = "annotated".into();
        for name in ["pod.example/a", "container.example/a", "other/a"] {
            asked.annotations.insert(name.into(), "of the pod".into());
        }
    })
    .await;
    let mut config = script("web", "sleep 600");
    for name in ["pod.example/b", "container.example/b", "other/b"] {
        let value = "of the container".to_owned();
        config.annotations.insert(name.into(), value);
    }
    let id = pod.start(config).await;
    let bundle = pod.node.folder().join("tasks/k8s.io").join(id.as_str());
    let text = std::fs::read_to_string(bundle.join("config.json")).unwrap();
    let spec: serde_json::Value = serde_json::from_str(&text).unwrap();
    let annotations = spec["annotations"].as_object().unwrap().keys();
    let passed: Vec<_> = annotations.filter(|name| name.contains('/')).collect();
    assert_eq!(passed, ["container.example/b", "pod.example/a"]);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_by_name_bring_nodes_mounts_variables_groups_and_hooks() {
    let pod = Pod::new(53, |_| {}).await;
    let folder = pod.node.folder().to_owned();
    std::fs::create_dir(folder.join("cdi")).unwrap();
    let hooked = folder.join("hooked");
    let seen = folder.join("seen");
    std::fs::create_dir(&seen).unwrap();
    std::fs::write(seen.join("file"), "from the host\n").unwrap();
    let vendor = format!(
        "cdiVersion: 0.7.0\nkind: v.com/gpu\ncontainerEdits:\n  env: [VENDOR=v]\ndevices:\n- name: 'a'\n  containerEdits:\n    \
         env: [A=1]\n    additionalGids: [4321]\n    deviceNodes:\n    - {{path: /dev/gpu-a, hostPath: /dev/zero, fileMode: 0640}}\n    \
         mounts:\n    - {{hostPath: {}, containerPath: /gpu, options: [ro, rbind]}}\n    hooks:\n    \
         - {{hookName: createRuntime, path: /bin/busybox, args: [busybox, touch, {}]}}\n- name: b\n  containerEdits:\n    env: [B=1]\n",
        seen.display(),
        hooked.display()
    );
    std::fs::write(folder.join("cdi/v.yaml"), vendor).unwrap();
    let mut config = script(
        "gpu",
        "echo $VENDOR$A$B; id -G; stat -c '%a %u %t,%T' /dev/gpu-a; cat /gpu/file; dd if=/dev/gpu-a bs=4 count=1 2>/dev/null \
         | wc -c; touch /gpu/x 2>&1 | grep -o Read-only",
    );
    config.cdi_devices = vec!["v.com/gpu=a".into()];
    config.annotations =
        BTreeMap::from([("cdi.k8s.io/x".into(), "v.com/gpu=b,v.com/gpu=a".into())]);
    config.security.run_as = RunAs::Uid(1000);
    let said = pod.said(config.clone()).await;
    assert_eq!(
        said,
        "v11\n1000 4321 50000\n640 1000 1,5\nfrom the host\n4\nRead-only"
    );
    assert!(hooked.exists());
    config.cdi_devices = vec!["v.com/gpu=gone".into()];
    config.name = "gone".into();
    let refused = pod.create(config).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    let text = orlop_types::chain(&refused);
    assert!(
        text.contains("v.com/gpu=gone") && text.contains("cdi.run"),
        "{text}"
    );
    pod.close().await;
}

#[allow(clippy::too_many_lines, reason = "a table with one row per case")]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_may_not_have_is_refused_and_leaves_nothing() {
    let pod = Pod::new(42, |_| {}).await;
    let change = |change: fn(&mut MemberConfig)| {
        let mut config = script("bad", "true");
        change(&mut config);
        config
    };
    let table: [(MemberConfig, ErrorKind, &str); 11] = [
        (
            change(|c| c.name.clear()),
            ErrorKind::InvalidArgument,
            "name",
        ),
        (
            change(|c| c.log_path = "../x".into()),
            ErrorKind::InvalidArgument,
            "log folder",
        ),
        (
            change(|c| c.log_path = "/x".into()),
            ErrorKind::InvalidArgument,
            "log folder",
        ),
        (
            change(|c| c.security.privileged = true),
            ErrorKind::InvalidArgument,
            "pod is not privileged",
        ),
        (
            change(|c| c.security.run_as_group = Some(1)),
            ErrorKind::InvalidArgument,
            "with a user",
        ),
        (
            change(|c| c.security.processes = MemberProcesses::Host),
            ErrorKind::InvalidArgument,
            "processes",
        ),
        (
            change(|c| c.stop_signal = "SIGNAL".into()),
            ErrorKind::InvalidArgument,
            "no signal",
        ),
        (
            change(|c| c.security.apparmor = Profile::Localhost("x".into())),
            ErrorKind::FailedPrecondition,
            "AppArmor",
        ),
        (
            change(|c| c.security.selinux_label = Some("a:b:c:d".into())),
            ErrorKind::FailedPrecondition,
            "SELinux",
        ),
        (
            change(|c| c.security.capabilities_added = vec!["CAP_ANY".into()]),
            ErrorKind::InvalidArgument,
            "CAP_ANY",
        ),
        (
            change(|c| {
                c.mounts = vec![MemberMount {
                    container_path: "/x/../y".into(),
                    host_path: "/tmp".into(),
                    ..MemberMount::default()
                }];
            }),
            ErrorKind::InvalidArgument,
            "..",
        ),
    ];
    for (config, kind, word) in table {
        let error = pod.create(config).await.unwrap_err();
        let text = orlop_types::chain(&error);
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.contains(word), "{text}");
    }
    let foreign = new_member(&SandboxId::new("other").unwrap(), script("x", "true"));
    let error = pod.life.runtime.create_member(&namespace(), foreign).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_an_end_is_its_cause() {
    let pod = Pod::new(43, |_| {}).await;
    for (name, text, code, reason) in [
        ("zero", "exit 0", 0, "Completed"),
        ("three", "exit 3", 3, "Error"),
        ("like-a-kill", "exit 137", 137, "Error"),
    ] {
        let id = pod.start(script(name, text)).await;
        let end = pod.end(&id).await;
        assert_eq!((end.code, end.reason), (code, reason), "{end:?}");
        let member = pod.member(&id).await;
        assert!(
            member.started_at.unwrap() >= member.created_at && end.at >= member.started_at.unwrap()
        );
    }
    let mut hungry = script("hungry", "exec dd if=/dev/zero of=/dev/null bs=40M");
    hungry.limits.memory_bytes_max = Some(15 << 20);
    let id = pod.start(hungry).await;
    let end = pod.end(&id).await;
    assert_eq!((end.code, end.reason), (137, "OOMKilled"), "{end:?}");
    assert!(end.message.contains("15"), "{}", end.message);
    let mut child = script("child", "dd if=/dev/zero of=/dev/null bs=40M; exit $?");
    child.limits.memory_bytes_max = Some(15 << 20);
    let id = pod.start(child).await;
    let end = pod.end(&id).await;
    assert_eq!((end.code, end.reason), (137, "OOMKilled"), "{end:?}");
    let id = pod.start(script("victim", "exec sleep 1000")).await;
    let pid = pod.member(&id).await.pid.unwrap();
    output("kill", &["-9", &pid.to_string()]);
    let end = pod.end(&id).await;
    assert_eq!((end.code, end.reason), (137, "Error"));
    assert!(end.message.contains("did not send"), "{}", end.message);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_an_end_with_its_reason() {
    let pod = Pod::new(44, |_| {}).await;
    let mut missing = script("missing", "");
    missing.command = vec!["/no/such/program".into()];
    let id = pod.create(missing).await.unwrap();
    let started = pod.life.runtime.start_member(&namespace(), &id).await;
    assert!(started.is_err());
    let end = pod.end(&id).await;
    assert_eq!((end.code, end.reason), (128, "StartError"));
    assert!(end.message.contains("/no/such/program"), "{}", end.message);
    let again = pod.life.runtime.start_member(&namespace(), &id).await;
    let again = again.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::FailedPrecondition);
    assert!(again.to_string().contains("exited"), "{again}");
    let view = pod.life.db.namespace(&namespace());
    assert!(view.tasks().list().unwrap().is_empty());
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_gives_time_and_takes_it() {
    let pod = Pod::new(45, |_| {}).await;
    let polite = "trap 'exit 7' USR1; echo ready; while true; do sleep 0.05; done";
    let mut config = script("polite", polite);
    config.stop_signal = "SIGUSR1".into();
    let id = pod.start(config).await;
    pod.ready(&id).await;
    pod.stop(&id, Duration::from_secs(60)).await;
    assert_eq!(pod.end(&id).await.code, 7);
    pod.stop(&id, Duration::ZERO).await;
    let stubborn = "trap '' TERM; echo ready; while true; do sleep 0.05; done";
    let id = pod.start(script("stubborn", stubborn)).await;
    pod.ready(&id).await;
    let began = Instant::now();
    let grace = Duration::from_secs(2);
    let kubernetes = namespace();
    let (first, second) = tokio::join!(
        pod.life.runtime.stop_member(&kubernetes, &id, grace),
        pod.life.runtime.stop_member(&kubernetes, &id, grace),
    );
    for stopped in [first, second] {
        stopped.unwrap_or_else(|error| panic!("{}", orlop_types::chain(&error)));
    }
    let took = began.elapsed();
    let end = pod.end(&id).await;
    assert!(took >= grace, "{took:?} {end:?}");
    assert_eq!((end.code, end.reason), (137, "Error"));
    assert!(
        end.message
            .contains("SIGKILL from this engine, as was asked for"),
        "{}",
        end.message
    );
    let id = pod.start(script("frozen", "exec sleep 1000")).await;
    pod.life.runtime.pause(&namespace(), &id).await.unwrap();
    pod.stop(&id, Duration::ZERO).await;
    assert_eq!(pod.end(&id).await.code, 137);
    let created = pod.create(script("created", "true")).await.unwrap();
    pod.stop(&created, Duration::ZERO).await;
    assert_eq!(pod.member(&created).await.state, MemberState::Created);
    let unknown = ContainerId::new("unknown").unwrap();
    pod.stop(&unknown, Duration::ZERO).await;
    let removed = pod.life.runtime.remove_member(&namespace(), &unknown).await;
    assert!(removed.is_ok());
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_until_its_container_is_removed() {
    let pod = Pod::new(46, |_| {}).await;
    let id = pod.start(script("web", "exec sleep 1000")).await;
    let taken = pod.create(script("web", "true")).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let text = taken.to_string();
    assert!(
        text.contains(id.as_str()) && text.contains("running"),
        "{text}"
    );
    let mut next = script("web", "true");
    next.attempt = 1;
    next.log_path = "web/1.log".into();
    let next = pod.create(next).await.unwrap();
    let members = pod.life.runtime.members(&namespace(), Some(&pod.id)).await;
    assert_eq!(members.unwrap().len(), 2);
    let kubernetes = namespace();
    let (a, b, c) = tokio::join!(
        pod.life.runtime.remove_member(&kubernetes, &id),
        pod.life.runtime.remove_member(&kubernetes, &id),
        pod.life.runtime.remove_member(&kubernetes, &next),
    );
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    let gone = pod
        .life
        .runtime
        .member(&namespace(), &id)
        .await
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    pod.create(script("web", "true")).await.unwrap();
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_what_its_pod_and_its_mounts_give() {
    let pod = Pod::new(47, |_| {}).await;
    let host = pod.node.folder().join("host");
    std::fs::create_dir_all(host.join("real/deep")).unwrap();
    std::fs::write(host.join("real/file"), "from the host\n").unwrap();
    symlink(host.join("real"), host.join("link")).unwrap();
    let mount = |host_path: &str, container_path: &str, read_only| MemberMount {
        container_path: container_path.into(),
        host_path: host.join(host_path).to_string_lossy().into_owned(),
        read_only,
        ..MemberMount::default()
    };
    let mut first = script(
        "first",
        "cat /data/file; touch /data/x 2>/dev/null || echo read-only; touch /data/deep/y && echo written; \
         cat /etc/hosts >/dev/null && echo hosts; touch /dev/shm/shared; pwd; echo $HOSTNAME; cat /dev/nil; \
         stat -c %t:%T /dev/nil",
    );
    first.working_dir = "/made/for/me".into();
    // Given in the wrong order on purpose.
    first.mounts = vec![
        mount("new", "/data/deep", false),
        mount("link", "/data", true),
    ];
    first.devices = vec![MemberDevice {
        container_path: "/dev/nil".into(),
        host_path: "/dev/null".into(),
        permissions: "r".into(),
    }];
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let said = pod.said(first).await;
    let name = said.lines().nth(5).unwrap().to_owned();
    let expected = format!("from the host\nread-only\nwritten\nhosts\n/made/for/me\n{name}\n1:3");
    assert_eq!(said, expected);
    assert!(name == "web" || name == host_name.trim(), "{name}");
    assert!(host.join("new/y").exists());
    let second = script("second", "ls /dev/shm");
    assert_eq!(pod.said(second).await, "shared");
    let mut shared = script("shared", "true");
    shared.mounts = vec![MemberMount {
        propagation: Propagation::Bidirectional,
        ..mount("real", "/data", false)
    }];
    let private = host.join("private");
    std::fs::create_dir(&private).unwrap();
    output("mount", &["-t", "tmpfs", "none", private.to_str().unwrap()]);
    output("mount", &["--make-private", private.to_str().unwrap()]);
    let mut refused = shared.clone();
    refused.mounts[0].host_path = private.to_string_lossy().into_owned();
    let error = pod.create(refused).await.unwrap_err();
    assert_eq!(error.code(), "ORL-E6607", "{error}");
    output("mount", &["--make-shared", private.to_str().unwrap()]);
    shared.mounts[0].host_path = private.to_string_lossy().into_owned();
    shared.command[2] = "mkdir /data/sub && mount -t tmpfs none /data/sub && sleep 1000".into();
    shared.security.capabilities_added = vec!["SYS_ADMIN".into()];
    let id = pod.start(shared).await;
    let table = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let sub = private.join("sub").to_string_lossy().into_owned();
    eventually("the mount is seen on the host", async || {
        table().contains(&sub)
    })
    .await;
    pod.stop(&id, Duration::ZERO).await;
    output("umount", &["-l", &sub]);
    output("umount", &["-l", private.to_str().unwrap()]);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_share_processes_as_asked() {
    let pod = Pod::new(48, |asked| {
        asked.namespaces.processes = ProcessNamespace::Pod
    })
    .await;
    let sleeper = pod.start(script("sleeper", "exec sleep 4321")).await;
    let seen = pod
        .said(script("seeing", "ps | grep -c '[s]leep 4321'"))
        .await;
    assert_eq!(seen, "1");
    let mut alone = script("alone", "ps | grep -c '[s]leep 4321' || true");
    alone.security.processes = MemberProcesses::Own;
    assert_eq!(pod.said(alone).await, "0");
    let mut hidden = script("hidden", "exec sleep 5432");
    hidden.security.processes = MemberProcesses::Own;
    let hidden = pod.start(hidden).await;
    let mut debugger = script("debugger", "ps | grep -c '[s]leep 5432'");
    debugger.security.processes = MemberProcesses::Of(hidden.clone());
    assert_eq!(pod.said(debugger).await, "1");
    // A shared namespace outlives each container, and takes none of its processes along.
    let orphan = pod.start(script("orphan", "sleep 6543 & exit 0")).await;
    assert_eq!(pod.end(&orphan).await.code, 0);
    let left = pod
        .said(script("looking", "ps | grep -c '[s]leep 6543' || true"))
        .await;
    assert_eq!(left, "0");
    pod.stop(&sleeper, Duration::ZERO).await;
    pod.stop(&hidden, Duration::ZERO).await;
    pod.close().await;
}

/// A file of the memory controller for a process.
fn memory_file(pid: u32, version_1: &str, version_2: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |line: &str| {
        line.splitn(3, ':')
            .nth(2)
            .unwrap()
            .trim_start_matches('/')
            .to_owned()
    };
    let v1 = text.lines().find(|line| line.contains(":memory:"));
    let file = match v1 {
        Some(line) => Path::new("/sys/fs/cgroup/memory")
            .join(path(line))
            .join(version_1),
        None => Path::new("/sys/fs/cgroup")
            .join(path(text.lines().next().unwrap()))
            .join(version_2),
    };
    std::fs::read_to_string(file)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_a_container_runs() {
    let pod = Pod::new(49, |_| {}).await;
    let mut config = script(
        "web",
        "x=$(dd if=/dev/zero bs=1M count=20 2>/dev/null | busybox tr '\\0' a); echo ready; while true; do sleep 1; done",
    );
    config.limits = Limits {
        memory_bytes_max: Some(256 << 20),
        cpu_shares: Some(512),
        ..Limits::default()
    };
    let id = pod.start(config).await;
    let pid = pod.member(&id).await.pid.unwrap();
    let limit = || memory_file(pid, "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit(), 256 << 20);
    let update = |limits| {
        let runtime = pod.life.runtime.clone();
        let id = id.clone();
        async move { runtime.update_member(&namespace(), &id, limits).await }
    };
    let memory = |bytes| Limits {
        memory_bytes_max: Some(bytes),
        ..Limits::default()
    };
    update(memory(512 << 20)).await.unwrap();
    assert_eq!(limit(), 512 << 20);
    let limits = pod.member(&id).await.limits;
    assert_eq!(
        (limits.memory_bytes_max, limits.cpu_shares),
        (Some(512 << 20), Some(512))
    );
    pod.ready(&id).await;
    let error = update(memory(8 << 20)).await.unwrap_err();
    assert_eq!(error.code(), "ORL-E6610", "{}", orlop_types::chain(&error));
    assert_eq!((limit(), pod.member(&id).await.limits), (512 << 20, limits));
    let unified = Limits {
        unified: BTreeMap::from([("memory.high".to_owned(), "max".to_owned())]),
        ..Limits::default()
    };
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        update(unified).await.unwrap();
    } else {
        assert_eq!(
            update(unified).await.unwrap_err().kind(),
            ErrorKind::FailedPrecondition
        );
    }
    pod.stop(&id, Duration::ZERO).await;
    let created = pod.create(script("later", "sleep 1000")).await.unwrap();
    let runtime = &pod.life.runtime;
    runtime
        .update_member(&namespace(), &created, memory(99 << 20))
        .await
        .unwrap();
    runtime.start_member(&namespace(), &created).await.unwrap();
    let pid = pod.member(&created).await.pid.unwrap();
    assert_eq!(
        memory_file(pid, "memory.limit_in_bytes", "memory.max"),
        99 << 20
    );
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_shim_is_not_ended_while_it_gets_the_next_container() {
    let pod = Pod::new(52, |_| {}).await;
    for number in 0..12 {
        let id = pod.start(script(&format!("c{number}"), "exit 0")).await;
        assert_eq!(pod.end(&id).await.code, 0);
    }
    pod.close().await;
}

/// Asks a container's shim to start it, as a daemon does.
async fn start_by_shim(node: &Node, id: &ContainerId) {
    let bundle = node.folder().join("tasks").join(namespace().as_str());
    let address = std::fs::read_to_string(bundle.join(id.as_str()).join("address")).unwrap();
    let socket = address.trim().strip_prefix("unix://").unwrap();
    let (client, driver) = Client::connect(Path::new(socket)).await.unwrap();
    let connection = tokio::spawn(driver.run());
    let request = StartRequest {
        id: id.to_string(),
        exec_id: String::new(),
    };
    let service = "containerd.task.v3.Task";
    let asked = client.call(service, "Start", request.encode_to_vec(), None, Vec::new());
    asked.await.unwrap();
    connection.abort();
}

/// The daemon dies between the creation of a member's task and its start, whose call reaches the shim all the same if
/// `is_late`.
async fn cut_a_start_off(subnet: u8, is_late: bool) {
    let pod = Pod::new(subnet, |_| {}).await;
    let first_time = if is_late {
        "touch /srv/again; sleep 1000"
    } else {
        "true"
    };
    let told = format!("test -e /srv/again || {{ {first_time}; }}; exit 3");
    let id = pod.create(script("web", &told)).await.unwrap();
    let half = CreateTask {
        container: id.clone(),
        rootfs: Vec::new(),
        streams: Streams::default(),
        checkpoint: String::new(),
        options: None,
        shim_path: String::new(),
    };
    pod.life.runtime.create(&namespace(), half).await.unwrap();
    let Pod {
        node,
        life,
        id: in_pod,
    } = pod;
    life.end().await;
    if is_late {
        start_by_shim(&node, &id).await;
    }
    let life = begin(&node);
    life.runtime.recover().await.unwrap();
    let pod = Pod {
        node,
        life,
        id: in_pod,
    };
    let view = pod.life.db.namespace(&namespace());
    assert!(view.tasks().list().unwrap().is_empty());
    assert_eq!(pod.member(&id).await.state, MemberState::Created);
    let started = pod.life.runtime.start_member(&namespace(), &id).await;
    started.unwrap();
    assert_eq!(pod.end(&id).await.code, 3);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_cut_off_begins_anew() {
    cut_a_start_off(51, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_call_reached_the_shim_late_begins_anew() {
    cut_a_start_off(56, true).await;
}

/// The folder of the node on which the test program is to be a daemon.
const NODE: &str = "ORLOP_TEST_NODE";

/// The life of a daemon that makes containers, says so, and waits to be killed.
async fn be_daemon(folder: &Path) {
    let node = Node::of(folder);
    let life = begin(&node);
    life.runtime.recover().await.unwrap();
    make_image(&life);
    let mut asked = pod_config("web");
    asked.log_folder = node.folder().join("podlogs");
    let id = life.run(asked).await;
    let pod = Pod { node, life, id };
    let running = pod.start(script("running", "exec sleep 1000")).await;
    let gate = pod.node.folder().join("gate");
    let mut ending = script(
        "ending",
        "while ! test -e /gate/open; do sleep 0.05; done; exit 5",
    );
    std::fs::create_dir(&gate).unwrap();
    ending.mounts = vec![MemberMount {
        container_path: "/gate".into(),
        host_path: gate.to_string_lossy().into_owned(),
        ..MemberMount::default()
    }];
    let ending = pod.start(ending).await;
    // Containers of one pod share a shim, so what is to lose its shim is in another one.
    let other = pod.life.run(pod_config("other")).await;
    let new = new_member(&other, script("unseen", "exec sleep 1000"));
    let runtime = &pod.life.runtime;
    let unseen = runtime.create_member(&namespace(), new).await.unwrap();
    runtime.start_member(&namespace(), &unseen).await.unwrap();
    let created = pod.create(script("created", "true")).await.unwrap();
    let words = [
        pod.id.to_string(),
        running.to_string(),
        ending.to_string(),
        unseen.to_string(),
        created.to_string(),
        pod.life
            .runtime
            .shim_pid(&namespace(), &unseen)
            .await
            .unwrap()
            .to_string(),
        pod.member(&unseen).await.pid.unwrap().to_string(),
        pod.member(&running).await.pid.unwrap().to_string(),
        other.to_string(),
    ];
    let mut out = std::io::stdout();
    writeln!(out, "\n>{}", words.join(" ")).unwrap();
    out.flush().unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_killed_daemon_every_end_is_told_as_it_was() {
    // The program runs this test again in a process of its own, to be killed.
    if let Some(folder) = std::env::var_os(NODE) {
        return be_daemon(Path::new(&folder)).await;
    }
    let node = Node::new(50);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "after_a_killed_daemon_every_end_is_told_as_it_was",
            "--nocapture",
        ])
        .env(NODE, node.folder())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.find_map(|line| Some(line.unwrap().strip_prefix('>')?.to_owned()));
    child.kill().unwrap();
    child.wait().unwrap();
    let said = said.expect("the daemon ended before it had made its containers");
    let words: Vec<&str> = said.split(' ').collect();
    let id = |index: usize| ContainerId::new(words[index]).unwrap();
    std::fs::write(node.folder().join("gate/open"), "").unwrap();
    // The shim first, so that nobody sees the end of its container.
    output("kill", &["-9", words[5]]);
    output("kill", &["-9", words[6]]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let life = begin(&node);
    life.runtime.recover().await.unwrap();
    let pod = Pod {
        node,
        life,
        id: SandboxId::new(words[0]).unwrap(),
    };
    let running = pod.member(&id(1)).await;
    assert_eq!(running.state, MemberState::Running);
    assert_eq!(running.pid.unwrap().to_string(), words[7]);
    let end = pod.end(&id(2)).await;
    assert_eq!((end.code, end.reason), (5, "Error"), "{end:?}");
    let end = pod.end(&id(3)).await;
    assert!(
        ["ContainerStatusUnknown", "Error"].contains(&end.reason),
        "{end:?}"
    );
    assert!(end.message.contains("shim died"), "{}", end.message);
    assert_eq!(pod.member(&id(4)).await.state, MemberState::Created);
    pod.life
        .runtime
        .start_member(&namespace(), &id(4))
        .await
        .unwrap();
    assert_eq!(pod.end(&id(4)).await.code, 0);
    pod.stop(&id(1), Duration::ZERO).await;
    pod.life.remove(&SandboxId::new(words[8]).unwrap()).await;
    pod.close().await;
}

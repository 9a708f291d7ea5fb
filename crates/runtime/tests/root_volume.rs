//! Images whose files containers of a pod see, with the real kernel, our shim and runc.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test drives programs, writes into its own folder, and may panic"
)]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use orlop_meta::gc::{Collector, Resource, RootReason, Verdict};
use orlop_meta::{Backends, CommitOptions, SnapshotOptions, View};
use orlop_runtime::member::{
    MemberConfig, MemberImage, MemberMount, MemberState, MountedImage, NewMember, Propagation,
};
use orlop_runtime::pod::{IdMaps, IdRange, PodConfig, VolumeImage};
use orlop_runtime::spec::ImageDefaults;
use orlop_types::{ContainerId, Labels, LeaseId, SandboxId, SnapshotKey, SnapshotterName};
use support::child::{self, run_until, say};
use support::{Life, Node, config, eventually, namespace, output};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 5] = ["sh", "cat", "sleep", "stat", "touch"];

/// Moments at which the daemon is killed.
const MOMENTS: u32 = 16;

fn begin(node: &Node) -> Life {
    node.begin_with(Backends::open(node.folder()).unwrap())
}

fn overlayfs() -> SnapshotterName {
    SnapshotterName::new("overlayfs").unwrap()
}

fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

fn view(life: &Life) -> View {
    life.db.namespace(&namespace())
}

/// Commits a snapshot whose files `write` makes.
fn layer(view: &View, name: &str, parent: Option<&str>, write: impl FnOnce(&Path)) {
    let snapshots = view.snapshots(&overlayfs());
    let draft = key(&format!("{name}-draft"));
    let options = SnapshotOptions::default();
    snapshots.prepare(&draft, &options).unwrap();
    write(&snapshots.apply_target(&draft).unwrap().root);
    let options = CommitOptions {
        parent: parent.map(key),
        labels: Labels::new(),
    };
    snapshots.commit(&key(name), &draft, &options).unwrap();
}

/// An image to run, and one of two layers to mount, which a lease holds.
fn make_images(life: &Life) {
    let plain = view(life);
    layer(&plain, "base", None, |root| {
        for folder in ["bin", "proc", "sys", "dev", "vol"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    });
    let lease = LeaseId::new("held").unwrap();
    plain.leases().create(&lease, &Labels::new()).unwrap();
    let leased = plain.under(lease);
    layer(&leased, "below", None, |root| {
        std::fs::create_dir(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/inner"), "inner\n").unwrap();
        symlink("/etc", root.join("out")).unwrap();
    });
    layer(&leased, "files", Some("below"), |root| {
        std::fs::write(root.join("a"), "text\n").unwrap();
        std::fs::write(root.join("program"), "#!/bin/sh\necho ran\n").unwrap();
        let runs = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.join("program"), runs).unwrap();
    });
}

fn pod_config() -> PodConfig {
    let mut asked = config("web");
    asked.namespaces.host_network = true;
    asked
}

fn volume(sub_path: &str) -> MemberMount {
    MemberMount {
        container_path: "/vol".into(),
        read_only: true,
        image: Some(MountedImage {
            reference: "r.example/files".into(),
            sub_path: sub_path.into(),
        }),
        ..MemberMount::default()
    }
}

fn new_member(pod: &SandboxId, name: &str, script: &str, mount: MemberMount) -> NewMember {
    NewMember {
        pod: pod.clone(),
        config: MemberConfig {
            name: name.to_owned(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            mounts: vec![mount],
            ..MemberConfig::default()
        },
        image: MemberImage::default(),
        image_defaults: ImageDefaults {
            env: vec!["PATH=/bin".into()],
            ..ImageDefaults::default()
        },
        image_snapshot: key("base"),
        snapshotter: overlayfs(),
        mounted_images: vec![VolumeImage {
            reference: "r.example/files".into(),
            manifest: format!("sha256:{:0<64}", "ab").parse().unwrap(),
            snapshot: key("files"),
            snapshotter: overlayfs(),
        }],
    }
}

/// One pod on the host's network.
struct Pod {
    node: Node,
    life: Life,
    id: SandboxId,
}

impl Pod {
    async fn new(subnet: u8) -> Self {
        Self::with(subnet, pod_config()).await
    }

    async fn with(subnet: u8, mut asked: PodConfig) -> Self {
        let node = Node::new(subnet);
        let life = begin(&node);
        life.runtime.recover().await.unwrap();
        make_images(&life);
        asked.log_folder = node.folder().join("podlogs");
        let id = life.run(asked).await;
        Self { node, life, id }
    }

    async fn create(&self, name: &str, script: &str, mount: MemberMount) -> ContainerId {
        let new = new_member(&self.id, name, script, mount);
        let made = self.life.runtime.create_member(&namespace(), new).await;
        made.unwrap_or_else(|error| panic!("{}", orlop_types::chain(&error)))
    }

    async fn start(&self, id: &ContainerId) {
        let started = self.life.runtime.start_member(&namespace(), id).await;
        started.unwrap_or_else(|error| panic!("{}", orlop_types::chain(&error)));
    }

    /// What a container says until it ends.
    async fn said(&self, id: &ContainerId) -> String {
        self.start(id).await;
        eventually("the container has ended", async || {
            let member = self.life.runtime.member(&namespace(), id).await.unwrap();
            matches!(member.state, MemberState::Exited(_))
        })
        .await;
        let member = self.life.runtime.member(&namespace(), id).await.unwrap();
        let text = std::fs::read_to_string(member.log_path.unwrap()).unwrap();
        let lines = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.collect::<Vec<_>>().join("\n")
    }

    async fn remove(&self, id: &ContainerId) {
        self.life
            .runtime
            .remove_member(&namespace(), id)
            .await
            .unwrap();
    }

    async fn close(self) {
        self.close_after(|| {}).await;
    }

    async fn close_after(self, look: impl FnOnce()) {
        self.life.remove(&self.id).await;
        look();
        assert_eq!(volumes(&self.life), Vec::<String>::new());
        assert!(self.node.traces().is_empty(), "{:?}", self.node.traces());
        self.life.end().await;
    }
}

/// Mount points of volumes, with their options.
fn mounted(node: &Node) -> Vec<(String, String)> {
    let folder = node.folder().join("pods").to_string_lossy().into_owned();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = table
        .lines()
        .filter(|line| line.contains(&folder) && line.contains("/volumes/"));
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let place = words.nth(4).unwrap().to_owned();
            (place, words.next().unwrap().to_owned())
        })
        .collect()
}

/// Snapshots that volumes have.
fn volumes(life: &Life) -> Vec<String> {
    let listed = view(life).snapshots(&overlayfs()).list(&[]).unwrap();
    let keys = listed.into_iter().map(|snapshot| snapshot.key.to_string());
    keys.filter(|key| key.starts_with("volume-")).collect()
}

fn collect(life: &Life) {
    let collector = Collector::new(life.db.clone());
    collector.run_once(life.db.clock().wall()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_share_one_mount_that_is_only_to_be_read_and_outlives_the_images_name() {
    let pod = Pod::new(60).await;
    let script = "cat /vol/a; touch /vol/x 2>/dev/null || echo kept; /vol/program 2>/dev/null || echo refused";
    let first = pod.create("first", script, volume("")).await;
    let second = pod.create("second", "cat /vol/a", volume("")).await;
    let third = pod.create("third", "cat /vol/inner", volume("sub")).await;
    let all = mounted(&pod.node);
    assert_eq!(all.len(), 1, "{all:?}");
    let options: BTreeSet<_> = all[0].1.split(',').collect();
    assert!(
        ["ro", "nosuid", "nodev", "noexec"]
            .iter()
            .all(|option| options.contains(option)),
        "{options:?}"
    );
    assert_eq!(pod.said(&first).await, "text\nkept\nrefused");
    // As when the image is removed: nothing but the pod holds its files now.
    let lease = LeaseId::new("held").unwrap();
    view(&pod.life).leases().delete(&lease).unwrap();
    collect(&pod.life);
    let why = pod.life.db.why(&namespace(), "files", None).unwrap();
    let Verdict::Held(held) = &why[0].verdict else {
        panic!("{why:?}");
    };
    assert_eq!(held.root, RootReason::Sandbox);
    let names_pod = |resource: &Resource| format!("{resource:?}").contains(pod.id.as_str());
    assert!(names_pod(&held.path[0].resource), "{held:?}");
    assert_eq!(pod.said(&second).await, "text");
    assert_eq!(pod.said(&third).await, "inner");
    pod.remove(&first).await;
    pod.remove(&second).await;
    assert_eq!(mounted(&pod.node).len(), 1, "the third one uses it");
    pod.remove(&third).await;
    assert!(mounted(&pod.node).is_empty() && volumes(&pod.life).is_empty());
    collect(&pod.life);
    let gone = view(&pod.life).snapshots(&overlayfs()).stat(&key("files"));
    assert!(gone.is_err(), "nothing holds the image any more");
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_releases_what_containers_use_and_what_was_unmounted_is_mounted_again() {
    let pod = Pod::new(61).await;
    let id = pod.create("one", "cat /vol/a; sleep 600", volume("")).await;
    let place = mounted(&pod.node)[0].0.clone();
    output("umount", &["-l", &place]);
    assert!(mounted(&pod.node).is_empty());
    pod.start(&id).await;
    assert_eq!(mounted(&pod.node).len(), 1);
    let stopped = pod.life.runtime.stop_pod(&namespace(), &pod.id).await;
    stopped.unwrap();
    assert!(mounted(&pod.node).is_empty() && volumes(&pod.life).is_empty());
    let row = view(&pod.life).sandboxes().find(&pod.id).unwrap();
    assert!(
        !row.labels.iter().any(|(label, _)| label.contains("gc.ref")),
        "{:?}",
        row.labels
    );
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_user_namespace_the_files_are_its_superusers_and_stay_the_hosts_on_disk() {
    let range = IdRange {
        inside: 0,
        outside: 1_000_000,
        count: 65_536,
    };
    let maps = IdMaps {
        uids: vec![range],
        gids: vec![range],
    };
    let mut asked = config("mapped");
    asked.namespaces.user = Some(maps.clone());
    let pod = Pod::with(65, asked).await;
    let layers = pod.node.folder().join("overlayfs");
    let owners = || {
        output(
            "find",
            &[
                layers.to_str().unwrap(),
                "-path",
                "*/sub/inner",
                "-printf",
                "%u",
            ],
        )
    };
    assert_eq!(owners(), "root");
    let mut new = new_member(
        &pod.id,
        "one",
        "stat -c %u:%g /vol/a /vol/sub/inner",
        volume(""),
    );
    new.config.security.user_namespace = Some(maps);
    let made = pod.life.runtime.create_member(&namespace(), new).await;
    let id = made.unwrap_or_else(|error| panic!("{}", orlop_types::chain(&error)));
    assert_eq!(mounted(&pod.node).len(), 1);
    assert_eq!(pod.said(&id).await, "0:0\n0:0");
    pod.close_after(|| assert_eq!(owners(), "root")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_say_why_and_leave_nothing() {
    type Spoil = fn(&mut NewMember);
    let pod = Pod::new(62).await;
    let table: [(&str, Spoil); 8] = [
        ("path of the host", |new| {
            new.config.mounts[0].host_path = "/etc".into()
        }),
        ("read-only", |new| new.config.mounts[0].read_only = false),
        ("pass mounts on", |new| {
            new.config.mounts[0].propagation = Propagation::Bidirectional
        }),
        ("does not exist", |new| {
            new.config.mounts[0] = volume("nothing")
        }),
        ("is no folder", |new| new.config.mounts[0] = volume("a")),
        ("leads out", |new| new.config.mounts[0] = volume("out")),
        ("\"..\"", |new| new.config.mounts[0] = volume("sub/../..")),
        ("\"gone\"", |new| {
            new.mounted_images[0].snapshot = key("gone")
        }),
    ];
    let before = (
        pod.node.traces(),
        volumes(&pod.life),
        view(&pod.life).sandboxes().find(&pod.id).unwrap(),
    );
    for (fault, spoil) in table {
        let mut new = new_member(&pod.id, "bad", "true", volume(""));
        spoil(&mut new);
        let made = pod.life.runtime.create_member(&namespace(), new).await;
        let error = orlop_types::chain(&made.unwrap_err());
        assert!(
            error.starts_with("ImageVolumeMountFailed: ") && error.contains(fault),
            "{error}"
        );
        let row = view(&pod.life).sandboxes().find(&pod.id).unwrap();
        let now = (pod.node.traces(), volumes(&pod.life), row);
        assert_eq!((&now.0, &now.1), (&before.0, &before.1), "{fault}");
        assert_eq!(
            (&now.2.labels, &now.2.extensions),
            (&before.2.labels, &before.2.extensions),
            "{fault}"
        );
    }
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_snapshotter_in_between_leaves_nothing_behind() {
    let pod = Pod::new(63).await;
    pod.create("one", "true", volume("")).await;
    let Pod { node, life, id } = pod;
    life.end().await;
    let mut backends = Backends::open(node.folder()).unwrap();
    backends.snapshotters.remove(&overlayfs());
    let life = node.begin_with(backends);
    life.runtime.recover().await.unwrap();
    assert_eq!(mounted(&node).len(), 1, "its container is there");
    life.runtime.stop_pod(&namespace(), &id).await.unwrap();
    assert!(mounted(&node).is_empty() && volumes(&life).is_empty());
    life.end().await;
    let life = begin(&node);
    life.runtime.recover().await.unwrap();
    collect(&life);
    Pod { node, life, id }.close().await;
}

/// The life of a daemon that makes a pod and containers with volumes and takes all away. Run by the other test.
#[tokio::test(flavor = "multi_thread")]
async fn daemon() {
    let Some(node) = child::node() else {
        return;
    };
    let life = begin(&node);
    life.runtime.recover().await.unwrap();
    let id = life.run(pod_config()).await;
    say("begin");
    let runtime = &life.runtime;
    for (name, sub_path) in [("one", ""), ("two", "sub")] {
        let new = new_member(&id, name, "true", volume(sub_path));
        let member = runtime.create_member(&namespace(), new).await.unwrap();
        runtime.remove_member(&namespace(), &member).await.unwrap();
    }
    let new = new_member(&id, "three", "true", volume(""));
    runtime.create_member(&namespace(), new).await.unwrap();
    runtime.stop_pod(&namespace(), &id).await.unwrap();
    life.remove(&id).await;
    say("removed");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_any_moment_leaves_no_volume_that_nobody_uses() {
    let node = Node::new(64);
    let life = begin(&node);
    make_images(&life);
    life.end().await;
    let whole = run_until(&node, &[], "removed", Duration::ZERO).took;
    let mut seen = BTreeSet::new();
    for moment in 0..MOMENTS {
        run_until(&node, &[], "begin", whole * moment / MOMENTS);
        let life = begin(&node);
        seen.insert((mounted(&node).len(), volumes(&life).len()));
        life.runtime.recover().await.unwrap();
        for pod in life.pods().await.iter().filter(|pod| pod.is_ready()) {
            let row = view(&life).sandboxes().find(&pod.id).unwrap();
            let members = view(&life).containers().list(&[]).unwrap().len();
            let is_used = row.extensions.contains_key("orlop.dev/pod-volumes");
            assert_eq!(is_used, members > 0, "{row:?}");
            assert_eq!(mounted(&node).len(), usize::from(is_used));
        }
        eventually("every pod is settled and can be removed", async || {
            for pod in life.pods().await {
                drop(life.runtime.remove_pod(&namespace(), &pod.id).await);
            }
            life.pods().await.is_empty()
        })
        .await;
        assert_eq!(volumes(&life), Vec::<String>::new());
        assert!(mounted(&node).is_empty());
        eventually("nothing is left", async || node.traces().is_empty()).await;
        life.end().await;
    }
    assert!(seen.len() >= 2, "the moments were all the same: {seen:?}");
}

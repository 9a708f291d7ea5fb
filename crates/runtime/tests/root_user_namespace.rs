//! Pods with a user namespace, with the real kernel, our shim and runc.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test drives programs, writes into its own folder, and may panic"
)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use orlop_meta::{Backends, CommitOptions, SnapshotOptions};
use orlop_runtime::ErrorKind;
use orlop_runtime::member::{MemberConfig, MemberImage, MemberMount, MemberState, NewMember};
use orlop_runtime::pod::{IdMaps, IdRange, PodConfig, ProcessNamespace};
use orlop_runtime::spec::ImageDefaults;
use orlop_types::{ContainerId, Labels, SandboxId, SnapshotKey, SnapshotterName};
use support::{Life, Node, config, eventually, names, namespace, output};

const APPLETS: [&str; 9] = [
    "sh", "cat", "chown", "echo", "id", "rm", "sleep", "stat", "touch",
];

/// The superuser apart from the others, groups elsewhere than users.
fn maps() -> IdMaps {
    let range = |inside, outside, count| IdRange {
        inside,
        outside,
        count,
    };
    IdMaps {
        uids: vec![range(0, 200_000, 1), range(1, 300_000, 65_535)],
        gids: vec![range(0, 400_000, 65_536)],
    }
}

fn snapshotter() -> SnapshotterName {
    SnapshotterName::new("overlayfs").unwrap()
}

fn begin(node: &Node) -> Life {
    node.begin_with(Backends::open(node.folder()).unwrap())
}

/// Commits a snapshot with BusyBox and a file of another owner. Returns its folder.
fn make_image(life: &Life) -> PathBuf {
    let namespace = namespace();
    let view = life.db.namespace(&namespace);
    let snapshots = view.snapshots(&snapshotter());
    let key = SnapshotKey::new("image-active").unwrap();
    let mut labels = Labels::new();
    labels.insert("containerd.io/gc.root", "now").unwrap();
    let options = SnapshotOptions {
        parent: None,
        labels: labels.clone(),
    };
    let root = PathBuf::from(&snapshots.prepare(&key, &options).unwrap()[0].source);
    for folder in ["bin", "etc", "proc", "sys", "dev", "srv"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/app"), "app").unwrap();
    chown(root.join("etc/app"), Some(1000), Some(1000)).unwrap();
    let options = CommitOptions {
        labels,
        ..CommitOptions::default()
    };
    let image = SnapshotKey::new("image").unwrap();
    snapshots.commit(&image, &key, &options).unwrap();
    root
}

/// Every path below a folder with its owner, mode, size and time of change.
fn print_of(root: &Path) -> String {
    let root = root.to_str().unwrap();
    let print = output("find", &[root, "-printf", "%p %U %G %m %s %C@\n"]);
    assert!(print.lines().count() > APPLETS.len());
    print
}

struct Pod {
    node: Node,
    life: Life,
    id: SandboxId,
    image: PathBuf,
    /// What the image was like before.
    print: String,
}

fn asked(node: &Node, change: impl FnOnce(&mut PodConfig)) -> PodConfig {
    let mut asked = config("mapped");
    asked.log_folder = node.folder().join("podlogs");
    asked.namespaces.user = Some(maps());
    change(&mut asked);
    asked
}

impl Pod {
    async fn new(subnet: u8, change: impl FnOnce(&mut PodConfig)) -> Self {
        let node = Node::new(subnet);
        // What a container's superuser has to pass is passable on a real node.
        std::fs::set_permissions(node.folder(), PermissionsExt::from_mode(0o711)).unwrap();
        let life = begin(&node);
        life.runtime.recover().await.unwrap();
        let image = make_image(&life);
        let print = print_of(&image);
        let id = life.run(asked(&node, change)).await;
        Self {
            node,
            life,
            id,
            image,
            print,
        }
    }

    async fn create(&self, config: MemberConfig) -> Result<ContainerId, orlop_runtime::Error> {
        let new = NewMember {
            pod: self.id.clone(),
            config,
            image: MemberImage::default(),
            image_defaults: ImageDefaults {
                env: vec!["PATH=/bin".into()],
                ..ImageDefaults::default()
            },
            image_snapshot: SnapshotKey::new("image").unwrap(),
            snapshotter: snapshotter(),
            mounted_images: Vec::new(),
        };
        self.life.runtime.create_member(&namespace(), new).await
    }

    async fn start(&self, config: MemberConfig) -> ContainerId {
        let id = self.create(config).await.unwrap();
        let started = self.life.runtime.start_member(&namespace(), &id).await;
        started.unwrap_or_else(|error| panic!("{}", orlop_types::chain(&error)));
        id
    }

    /// What a container has said when it has ended, both streams.
    async fn said(&self, id: &ContainerId) -> String {
        let scope = namespace();
        eventually("the container has ended", async || {
            let member = self.life.runtime.member(&scope, id).await.unwrap();
            matches!(member.state, MemberState::Exited(_))
        })
        .await;
        let member = self.life.runtime.member(&scope, id).await.unwrap();
        let text = std::fs::read_to_string(member.log_path.unwrap()).unwrap();
        let lines = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Removes everything and compares with what there was before.
    async fn close(self) {
        self.life.remove(&self.id).await;
        assert!(self.node.traces().is_empty(), "{:?}", self.node.traces());
        assert!(names(&self.node.folder().join("tasks/k8s.io")).is_empty());
        let print = print_of(&self.image);
        assert_eq!(print, self.print, "a layer of the image has changed");
        self.life.end().await;
    }
}

/// A container of this name that runs a script and sees `folder` at `/srv`, its owners mapped.
fn script(name: &str, script: &str, folder: &Path) -> MemberConfig {
    let mut config = MemberConfig {
        name: name.to_owned(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        mounts: vec![MemberMount {
            container_path: "/srv".into(),
            host_path: folder.to_string_lossy().into_owned(),
            id_maps: Some(maps()),
            ..MemberMount::default()
        }],
        ..MemberConfig::default()
    };
    config.security.user_namespace = Some(maps());
    config.security.supplemental_groups = vec![1234];
    config
}

fn volume(node: &Node) -> PathBuf {
    let volume = node.folder().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("old"), "old").unwrap();
    chown(volume.join("old"), Some(7), Some(8)).unwrap();
    volume
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

const LOOK: &str = "id -u; id -G; cat /proc/sys/kernel/shm_rmid_forced; \
    stat -c '%n %u %g' / /etc/app /etc/hosts /etc/resolv.conf /dev/shm /srv /srv/old; \
    touch /srv/new /written; chown 5:6 /written; rm /etc/app; echo complaint >/dev/stderr";

const SEEN: &str = "0\n0 1234\n1\n/ 0 0\n/etc/app 1000 1000\n/etc/hosts 0 0\n/etc/resolv.conf 0 0\n/dev/shm 0 0\n\
    /srv 0 0\n/srv/old 7 8\ncomplaint";

async fn look_around(subnet: u8, processes: ProcessNamespace) {
    let pod = Pod::new(subnet, |asked| {
        asked.namespaces.processes = processes;
        asked
            .sysctls
            .insert("kernel.shm_rmid_forced".into(), "1".into());
    })
    .await;
    let volume = volume(&pod.node);
    let id = pod.start(script("look", LOOK, &volume)).await;
    assert_eq!(pod.said(&id).await, SEEN);
    assert_eq!(owner(&volume.join("new")), (0, 0));
    // <snapshots>/<number>/fs
    let snapshots = pod.image.ancestors().nth(2).unwrap();
    let written: Vec<_> = names(snapshots)
        .into_iter()
        .map(|name| snapshots.join(name).join("fs/written"))
        .filter(|path| path.exists())
        .collect();
    assert_eq!(written.len(), 1);
    assert_eq!(owner(&written[0]), (5, 6));
    let running = pod.start(script("sleep", "sleep 600", &volume)).await;
    let member = pod.life.runtime.member(&namespace(), &running).await;
    let pid = member.unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t200000\t200000\t200000\t200000\n"));
    assert!(status.contains("Groups:\t400000 401234"), "{status}");
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_its_own_superuser_and_changes_nothing_of_its_image() {
    look_around(60, ProcessNamespace::Container).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_where_processes_are_shared() {
    look_around(61, ProcessNamespace::Pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mapped_is_named_and_leaves_nothing_mounted() {
    let pod = Pod::new(62, |_| {}).await;
    let mut config = script("proc", "true", Path::new("/proc"));
    let id = pod.create(config.clone()).await.unwrap();
    let before = pod.node.traces();
    let error = pod.life.runtime.start_member(&namespace(), &id).await;
    let error = error.unwrap_err();
    let told = orlop_types::chain(&error);
    assert_eq!(error.code(), "ORL-E6019");
    assert!(told.contains("/proc") && told.contains("id map"), "{told}");
    assert_eq!(pod.node.traces(), before);
    config.name = "other".into();
    config.mounts[0].id_maps.as_mut().unwrap().gids[0].outside = 9;
    let error = pod.create(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    pod.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_hosts_is_refused_to_a_pod_with_a_user_namespace() {
    let node = Node::new(63);
    let life = begin(&node);
    let change: [fn(&mut PodConfig); 4] = [
        |asked| asked.namespaces.host_network = true,
        |asked| asked.namespaces.host_ipc = true,
        |asked| asked.namespaces.processes = ProcessNamespace::Host,
        |asked| asked.privileged = true,
    ];
    for change in change {
        let refused = life
            .runtime
            .run_pod(&namespace(), asked(&node, change))
            .await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    life.end().await;
}

//! containerd's mounts service, as a client of containerd 2.2 and later asks it: kept, held, collected, and mended after
//! kill -9.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use orlop_api::FieldMask;
use orlop_api::containerd::services::leases::v1::leases_client::LeasesClient;
use orlop_api::containerd::services::leases::v1::{
    CreateRequest, DeleteRequest, ListResourcesRequest,
};
use orlop_api::containerd::services::mounts::v1::mounts_client::MountsClient;
use orlop_api::containerd::services::mounts::v1::{
    ActivateRequest, DeactivateRequest, InfoRequest, ListRequest, UpdateRequest,
};
use orlop_api::containerd::types::{ActivationInfo, Mount};
use orlop_api::orlop::v1::GcRunRequest;
use orlop_api::orlop::v1::collection_client::CollectionClient;
use tonic::{Code, Request, Status};

use crate::server::{NAMESPACE, Server};
use crate::support::PATIENCE;

const LEASE: &str = "looking";

/// A daemon whose collections come when they are asked for, and a folder to be mounted.
struct World {
    server: Server,
    lower: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let lower = tempfile::tempdir().unwrap();
        std::fs::write(lower.path().join("file"), "content").unwrap();
        Self {
            server: Server::start_without_collection(),
            lower,
        }
    }

    /// A new file system in a file beneath the engine's root, and an overlay with its changes there.
    fn stack(&self) -> Vec<Mount> {
        let disk = self.server.folder().join("root/disk.img");
        let lower = self.lower.path().display();
        vec![
            mount(
                "mkfs/loop",
                disk.to_str().unwrap(),
                &["X-containerd.mkfs.size=16MiB"],
            ),
            mount("format/ext4", "{{ mount 0 }}", &[]),
            mount(
                "format/mkdir/overlay",
                "overlay",
                &[
                    "X-containerd.mkdir.path={{ mount 1 }}/upper:0755",
                    "X-containerd.mkdir.path={{ mount 1 }}/work",
                    &format!("lowerdir={lower}"),
                    "upperdir={{ mount 1 }}/upper",
                    "workdir={{ mount 1 }}/work",
                ],
            ),
        ]
    }

    fn activate(
        &self,
        lease: Option<&str>,
        wanted: ActivateRequest,
    ) -> Result<ActivationInfo, Status> {
        self.server.block_on(async {
            let mut client = MountsClient::new(self.server.channel().await);
            let answer = client.activate(request(lease, wanted)).await?;
            Ok(answer.into_inner().info.unwrap())
        })
    }

    fn info(&self, name: &str) -> Result<ActivationInfo, Status> {
        let name = name.to_owned();
        self.server.block_on(async {
            let mut client = MountsClient::new(self.server.channel().await);
            let answer = client.info(request(None, InfoRequest { name })).await?;
            Ok(answer.into_inner().info.unwrap())
        })
    }

    fn list(&self, filter: &str) -> Vec<String> {
        let filters = vec![filter.to_owned()];
        self.server.block_on(async {
            let mut client = MountsClient::new(self.server.channel().await);
            let listed = client.list(request(None, ListRequest { filters })).await;
            let mut listed = listed.unwrap().into_inner();
            let mut names = Vec::new();
            while let Some(message) = listed.message().await.unwrap() {
                names.push(message.info.unwrap().name);
            }
            names
        })
    }

    fn deactivate(&self, name: &str) -> Result<(), Status> {
        let name = name.to_owned();
        self.server.block_on(async {
            let mut client = MountsClient::new(self.server.channel().await);
            let wanted = request(None, DeactivateRequest { name });
            client.deactivate(wanted).await.map(drop)
        })
    }

    fn collect(&self) {
        self.server.block_on(async {
            let mut client = CollectionClient::new(self.server.channel().await);
            let wanted = request(None, GcRunRequest::default());
            client.run(wanted).await.unwrap();
        });
    }

    /// What is mounted beneath the daemon's state.
    fn mounted(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let points = points.map(PathBuf::from);
        points
            .filter(|point| point.starts_with(self.mounts()))
            .collect()
    }

    fn mounts(&self) -> PathBuf {
        self.server.folder().join("state/mounts")
    }
}

/// Nothing that a failing test has mounted stays.
impl Drop for World {
    fn drop(&mut self) {
        for point in self.mounted().iter().rev() {
            shell("umount", &["--lazy", point.to_str().unwrap()]);
        }
    }
}

fn request<T>(lease: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("containerd-namespace", NAMESPACE.parse().unwrap());
    if let Some(lease) = lease {
        headers.insert("containerd-lease", lease.parse().unwrap());
    }
    request
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        r#type: kind.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

fn wanted(name: &str, mounts: Vec<Mount>, temporary: bool) -> ActivateRequest {
    ActivateRequest {
        name: name.to_owned(),
        mounts,
        temporary,
        labels: [("team".to_owned(), "a".to_owned())].into(),
    }
}

fn shell(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).status().unwrap();
    assert!(ended.success(), "{program} {arguments:?}");
}

#[test]
fn mounts_are_made_told_listed_relabelled_and_taken_down() {
    let world = World::new();
    let made = world
        .activate(None, wanted("web", world.stack(), true))
        .unwrap();
    assert_eq!((made.active.len(), made.system.len()), (3, 1));
    assert!(made.active[0].data["device"].starts_with("/dev/loop"));
    assert!(made.active.iter().all(|mount| mount.mounted_at.is_some()));
    let top = Path::new(&made.system[0].source);
    assert_eq!(
        std::fs::read_to_string(top.join("file")).unwrap(),
        "content"
    );
    assert_eq!(world.info("web").unwrap(), made);
    let again = world.activate(None, wanted("web", world.stack(), true));
    assert_eq!(again.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(world.list("labels.team==a"), ["web"]);
    world.server.block_on(async {
        let mut client = MountsClient::new(world.server.channel().await);
        let mut update = UpdateRequest {
            info: Some(ActivationInfo {
                name: "web".to_owned(),
                labels: [("team".to_owned(), "b".to_owned())].into(),
                ..ActivationInfo::default()
            }),
            update_mask: Some(FieldMask {
                paths: vec!["labels.team".to_owned()],
            }),
        };
        client.update(request(None, update.clone())).await.unwrap();
        update.update_mask.as_mut().unwrap().paths = vec!["active".to_owned()];
        let refused = client.update(request(None, update)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
    assert!(world.list("labels.team==a").is_empty());
    world.deactivate("web").unwrap();
    assert!(world.mounted().is_empty());
    assert_eq!(world.info("web").unwrap_err().code(), Code::NotFound);
    assert_eq!(world.deactivate("web").unwrap_err().code(), Code::NotFound);
}

#[test]
fn what_needs_no_help_is_left_to_the_client_and_what_cannot_be_is_refused_with_its_id() {
    let world = World::new();
    let overlay = || vec![mount("overlay", "overlay", &["lowerdir=/a:/b"])];
    let alone = world.activate(None, wanted("a", overlay(), false));
    assert_eq!(alone.unwrap_err().code(), Code::Unimplemented);
    let table = [
        (vec![], Code::InvalidArgument, "ORL-E7001"),
        (
            vec![mount("format/bind", "{{ mount 7 }}", &[])],
            Code::InvalidArgument,
            "ORL-E2201",
        ),
        (
            vec![mount("mkfs/loop", "/etc/x", &["X-containerd.mkfs.size=1m"])],
            Code::Unimplemented,
            "ORL-E2202",
        ),
        (
            vec![mount("loop", "/nowhere", &[])],
            Code::NotFound,
            "ORL-E2204",
        ),
        (overlay(), Code::FailedPrecondition, "ORL-E2203"),
    ];
    for (mounts, code, id) in table {
        let refused = world.activate(None, wanted("a", mounts, true)).unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(id), "{refused:?}");
    }
    assert_eq!(world.info("a").unwrap_err().code(), Code::NotFound);
    assert!(world.mounted().is_empty());
    assert!(world.list("").is_empty());
}

#[test]
fn mounts_of_a_lease_go_with_it() {
    let world = World::new();
    world.server.block_on(async {
        let mut client = LeasesClient::new(world.server.channel().await);
        let wanted = CreateRequest {
            id: LEASE.to_owned(),
            ..CreateRequest::default()
        };
        client.create(request(None, wanted)).await.unwrap();
    });
    world
        .activate(Some(LEASE), wanted("web", world.stack(), false))
        .unwrap();
    world.collect();
    assert_eq!(world.mounted().len(), 1);
    world.server.block_on(async {
        let mut client = LeasesClient::new(world.server.channel().await);
        let id = LEASE.to_owned();
        let held = client.list_resources(request(None, ListResourcesRequest { id }));
        let held = held.await.unwrap().into_inner().resources;
        assert_eq!(
            (held[0].r#type.as_str(), held[0].id.as_str()),
            ("mounts", "web")
        );
        let wanted = DeleteRequest {
            id: LEASE.to_owned(),
            sync: true,
        };
        client.delete(request(None, wanted)).await.unwrap();
    });
    assert!(world.mounted().is_empty());
    assert_eq!(world.info("web").unwrap_err().code(), Code::NotFound);
}

#[test]
fn mounts_in_use_are_taken_down_when_nobody_uses_them() {
    let world = World::new();
    let made = world
        .activate(None, wanted("web", world.stack(), true))
        .unwrap();
    let held = std::fs::File::open(Path::new(&made.system[0].source).join("file")).unwrap();
    let busy = world.deactivate("web").unwrap_err();
    assert_eq!(busy.code(), Code::FailedPrecondition);
    assert!(busy.message().contains("ORL-E2206"), "{busy:?}");
    assert_eq!(world.info("web").unwrap_err().code(), Code::NotFound);
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    while !world.mounted().is_empty() {
        assert!(Instant::now() < deadline, "the mounts stay");
        world.collect();
    }
}

#[test]
fn after_kill_9_rows_and_mounts_agree() {
    let mut world = World::new();
    let kept = world
        .activate(None, wanted("kept", world.stack(), true))
        .unwrap();
    let bind = vec![mount(
        "bind",
        world.lower.path().to_str().unwrap(),
        &["rbind"],
    )];
    let lost = world.activate(None, wanted("lost", bind, true)).unwrap();
    world.server.kill();
    // What a reboot or an operator does to one, and what a daemon killed in the middle leaves of another.
    shell("umount", &[&lost.system[0].source]);
    let unnamed = world.mounts().join("99/000");
    std::fs::create_dir_all(&unnamed).unwrap();
    shell("mount", &["-t", "tmpfs", "none", unnamed.to_str().unwrap()]);
    world.server.restart();
    assert_eq!(world.info("kept").unwrap(), kept);
    assert_eq!(world.info("lost").unwrap_err().code(), Code::NotFound);
    assert!(!world.mounts().join("99").exists());
    assert_eq!(world.mounted().len(), 2, "{:?}", world.mounted());
    world.deactivate("kept").unwrap();
    assert!(world.mounted().is_empty());
}

//! containerd's transfer service, as a client of containerd 2 asks it to pull.

use orlop_api::any;
use orlop_api::containerd::services::content::v1::InfoRequest;
use orlop_api::containerd::services::content::v1::content_client::ContentClient;
use orlop_api::containerd::services::images::v1::images_client::ImagesClient;
use orlop_api::containerd::services::images::v1::{Image, ListImagesRequest};
use orlop_api::containerd::services::snapshots::v1::ListSnapshotsRequest;
use orlop_api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use orlop_api::containerd::services::transfer::v1::TransferRequest;
use orlop_api::containerd::services::transfer::v1::transfer_client::TransferClient;
use orlop_api::containerd::types::Platform;
use orlop_api::containerd::types::transfer::{
    ImageReference, ImageStore, OciRegistry, UnpackConfiguration,
};
use orlop_testkit::registry::{FakeRegistry, ImageParts, Layer};
use orlop_types::Digest;
use tonic::{Code, Request, Status};

use crate::server::{NAMESPACE, Server};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A daemon, and a registry with an image for two kinds of machines.
struct World {
    server: Server,
    registry: FakeRegistry,
    mine: ImageParts,
    other: ImageParts,
}

impl World {
    fn new() -> Self {
        let registry = FakeRegistry::start();
        let image = |content: &[u8]| {
            registry.put_untagged_image("app", &[Layer::with_files(&[("file", content)])])
        };
        let (other, mine) = (image(b"other"), image(b"mine"));
        let entry = |image: &ImageParts, platform: &Platform| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": image.manifest.to_string(),
                "size": image.manifest_bytes.len(),
                "platform": {"os": platform.os, "architecture": platform.architecture},
            })
        };
        let entries = [entry(&other, &foreign()), entry(&mine, &host())];
        let index =
            serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        registry.put_manifest("app", Some("1"), INDEX, index.to_string());
        Self {
            server: Server::start_without_collection(),
            registry,
            mine,
            other,
        }
    }

    fn pull(&self, target: ImageStore) -> Result<(), Status> {
        let source = OciRegistry {
            reference: self.registry.reference("app", "1"),
            resolver: None,
        };
        let request = TransferRequest {
            source: Some(any::pack(&source)),
            destination: Some(any::pack(&target)),
            options: None,
        };
        self.server.block_on(async {
            let mut client = TransferClient::new(self.server.channel().await);
            client.transfer(of(request)).await.map(drop)
        })
    }

    fn has(&self, digest: &Digest) -> bool {
        let digest = digest.to_string();
        self.server.block_on(async {
            let mut client = ContentClient::new(self.server.channel().await);
            client.info(of(InfoRequest { digest })).await.is_ok()
        })
    }

    fn images(&self) -> Vec<Image> {
        self.server.block_on(async {
            let mut client = ImagesClient::new(self.server.channel().await);
            let listed = client.list(of(ListImagesRequest::default())).await;
            listed.unwrap().into_inner().images
        })
    }

    fn snapshots(&self) -> usize {
        let request = ListSnapshotsRequest {
            snapshotter: "overlayfs".to_owned(),
            filters: Vec::new(),
        };
        self.server.block_on(async {
            let mut client = SnapshotsClient::new(self.server.channel().await);
            let mut listed = client.list(of(request)).await.unwrap().into_inner();
            let mut count = 0;
            while let Some(page) = listed.message().await.unwrap() {
                count += page.info.len();
            }
            count
        })
    }
}

fn of<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("containerd-namespace", NAMESPACE.parse().unwrap());
    request
}

fn platform(architecture: &str) -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        ..Platform::default()
    }
}

fn host() -> Platform {
    platform(orlop_types::Platform::host().architecture())
}

fn foreign() -> Platform {
    platform("s390x")
}

#[test]
fn a_pull_as_containerds_client_asks_for_it_brings_one_image_and_the_metadata_of_all() {
    let world = World::new();
    let target = ImageStore {
        name: "app:mine".to_owned(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        platforms: vec![host()],
        all_metadata: true,
        extra_references: vec![ImageReference {
            name: "app".to_owned(),
            is_prefix: true,
            add_digest: true,
            ..ImageReference::default()
        }],
        unpacks: vec![UnpackConfiguration {
            platform: Some(host()),
            snapshotter: String::new(),
        }],
        ..ImageStore::default()
    };
    world.pull(target).unwrap();
    assert!(world.has(&world.mine.layers[0]));
    assert!(world.has(&world.other.manifest) && world.has(&world.other.config));
    assert!(!world.has(&world.other.layers[0]));
    assert_eq!(world.snapshots(), 1);
    let images = world.images();
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    let digest = &images[0].target.as_ref().unwrap().digest;
    assert!(names.contains(&"app:mine"), "{names:?}");
    assert!(
        names.contains(&format!("app@{digest}").as_str()),
        "{names:?}"
    );
    assert!(images.iter().all(|image| image.labels["team"] == "a"));
}

#[test]
fn a_limit_of_manifests_is_kept_and_no_unpacking_is_done_unasked() {
    let world = World::new();
    let target = ImageStore {
        name: "app:1".to_owned(),
        platforms: vec![host(), foreign()],
        manifest_limit: 1,
        ..ImageStore::default()
    };
    world.pull(target.clone()).unwrap();
    assert!(world.has(&world.mine.layers[0]));
    assert!(!world.has(&world.other.manifest));
    assert_eq!(world.snapshots(), 0);
    let both = ImageStore {
        manifest_limit: 0,
        ..target
    };
    world.pull(both).unwrap();
    assert!(world.has(&world.other.layers[0]));
}

#[test]
fn images_for_several_platforms_are_unpacked_each() {
    let world = World::new();
    let unpack = |platform| UnpackConfiguration {
        platform: Some(platform),
        snapshotter: "overlayfs".to_owned(),
    };
    let target = ImageStore {
        name: "app:1".to_owned(),
        platforms: vec![host(), foreign()],
        unpacks: vec![unpack(host()), unpack(foreign())],
        ..ImageStore::default()
    };
    world.pull(target).unwrap();
    assert_eq!(world.snapshots(), 2);
}

#[test]
fn a_pull_without_a_name_or_for_a_platform_that_is_not_there_names_nothing() {
    let world = World::new();
    let nameless = world.pull(ImageStore::default()).unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument);
    let target = ImageStore {
        name: "app:1".to_owned(),
        platforms: vec![platform("ppc64le")],
        ..ImageStore::default()
    };
    let refused = world.pull(target).unwrap_err();
    assert!(refused.message().contains("linux/s390x"), "{refused:?}");
    assert!(world.images().is_empty());
}

//! Pulls of a part of what an index lists, as clients of containerd's transfer service ask for them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use orlop_image::images::{Beside, Error, NoProgress, PullRequest, Pulled, Selection};
use orlop_meta::Image;
use orlop_testkit::registry::{FakeRegistry, ImageParts, Layer};
use orlop_types::{Descriptor, Labels, Platform};

use super::support::{Engine, name, request, scope};

/// An index of three images: one for another machine, one for this, and an attestation.
struct World {
    registry: FakeRegistry,
    engine: Engine,
    other: ImageParts,
    mine: ImageParts,
    attestation: ImageParts,
}

impl World {
    fn new() -> Self {
        let (registry, engine) = (FakeRegistry::start(), Engine::new());
        let image = |content: &[u8]| {
            registry.put_untagged_image("app", &[Layer::with_files(&[("file", content)])])
        };
        let (other, mine, attestation) = (image(b"other"), image(b"mine"), image(b"proof"));
        let host = Platform::host();
        let entry = |image: &ImageParts, os: &str, architecture: &str| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": image.manifest.to_string(),
                "size": image.manifest_bytes.len(),
                "platform": {"os": os, "architecture": architecture},
            })
        };
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [
                entry(&other, "linux", "s390x"),
                entry(&mine, host.os(), host.architecture()),
                entry(&attestation, "unknown", "unknown"),
            ],
        });
        let media_type = "application/vnd.oci.image.index.v1+json";
        registry.put_manifest("app", Some("multi"), media_type, index.to_string());
        Self {
            registry,
            engine,
            other,
            mine,
            attestation,
        }
    }

    async fn pull(&self, selection: Selection, unpack: bool) -> Result<Pulled, Error> {
        let request = PullRequest {
            beside: Beside::Selected(selection),
            skip_unpack: !unpack,
            ..request(&self.registry.reference("app", "multi"))
        };
        let images = &self.engine.images;
        images
            .pull(&scope("test"), request, Arc::new(NoProgress))
            .await
    }

    /// What of the three images there is: their initials, for manifest, config and layer each.
    fn stored(&self) -> String {
        let view = self.engine.view("test");
        let has = |digest| match view.content().info(digest) {
            Ok(_) => 'x',
            Err(_) => '-',
        };
        let images = [&self.other, &self.mine, &self.attestation];
        let parts = images.map(|image| {
            let parts = [&image.manifest, &image.config, &image.layers[0]];
            parts.map(has).iter().collect::<String>()
        });
        parts.join(" ")
    }
}

fn platforms(names: &[&str]) -> Vec<Platform> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_all_comes_with_the_layers_of_one() {
    let world = World::new();
    let selection = Selection {
        platforms: vec![Platform::host()],
        metadata: true,
        manifests_max: None,
    };
    let pulled = world.pull(selection, true).await.unwrap();
    assert!(pulled.chain_id.is_some());
    assert_eq!(world.stored(), "xx- xxx xx-");
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_bring_their_own_images_and_no_others() {
    let world = World::new();
    let selection = Selection {
        platforms: platforms(&["linux/s390x"]),
        ..Selection::default()
    };
    let pulled = world.pull(selection, false).await.unwrap();
    assert!(pulled.chain_id.is_none());
    assert_eq!(world.stored(), "xxx --- ---");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_platforms_all_there_is_comes_and_a_limit_keeps_the_first() {
    let world = World::new();
    let limited = Selection {
        manifests_max: NonZeroUsize::new(1),
        ..Selection::default()
    };
    world.pull(limited, false).await.unwrap();
    assert_eq!(world.stored(), "xxx --- ---");
    world.pull(Selection::default(), false).await.unwrap();
    assert_eq!(world.stored(), "xxx xxx xxx");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_keeps_the_platform_s_own_image_before_others_metadata() {
    let world = World::new();
    let selection = Selection {
        platforms: vec![Platform::host()],
        metadata: true,
        manifests_max: NonZeroUsize::new(1),
    };
    world.pull(selection, true).await.unwrap();
    assert_eq!(world.stored(), "--- xxx ---");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_not_there_is_told_with_those_that_are() {
    let world = World::new();
    let selection = Selection {
        platforms: platforms(&["linux/ppc64le"]),
        ..Selection::default()
    };
    let error = world.pull(selection, false).await.unwrap_err();
    let text = orlop_types::chain(&error);
    assert!(text.contains("linux/ppc64le"), "{text}");
    assert!(text.contains("linux/s390x"), "{text}");
    world.engine.assert_nothing_left(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_gets_all_the_names_it_is_given_or_the_pull_fails() {
    let world = World::new();
    let pull = |names: &'static [&'static str]| {
        let naming = move |target: &Descriptor| {
            let images = names.iter();
            let image = |text: &&str| Image::new(name(text), target.clone(), Labels::new());
            Ok(images.map(image).collect())
        };
        let request = request(&world.registry.reference("app", "multi"));
        let (images, scope) = (world.engine.images.clone(), scope("test"));
        async move {
            let progress = Arc::new(NoProgress);
            images
                .pull_as(&scope, request, progress, Box::new(naming))
                .await
        }
    };
    let error = pull(&[]).await.unwrap_err();
    assert!(error.to_string().contains("no name"), "{error}");
    let pulled = pull(&["a", "b"]).await.unwrap();
    assert_eq!(pulled.image.name.as_str(), "a");
    assert_eq!(pulled.further[0].name.as_str(), "b");
    assert_eq!(
        world.engine.view("test").images().list(&[]).unwrap().len(),
        2
    );
}

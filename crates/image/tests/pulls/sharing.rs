//! Several who want the same.

use std::sync::Arc;
use std::time::Duration;

use orlop_image::images::{NoProgress, PullRequest};
use orlop_testkit::registry::{Action, FakeRegistry, Fault, Layer};

use super::support::{Engine, layers, noise, overlayfs, request, scope};

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_one_image_at_the_same_time_download_each_blob_once() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let parts = registry.put_image("app", "1", &layers());
    registry.fault(Fault::on(
        "/blobs/",
        Action::Delay(Duration::from_millis(200)),
    ));
    let reference = registry.reference("app", "1");
    let (one, two) = tokio::join!(engine.pull(&reference), engine.pull(&reference));
    assert_eq!(one.unwrap().chain_id, two.unwrap().chain_id);
    for layer in &parts.layers {
        assert_eq!(registry.count("GET", &layer.to_string()), 1, "of {layer}");
    }
    assert_eq!(engine.view("test").leases().list(&[]).unwrap(), []);
    assert_eq!(
        engine
            .view("test")
            .snapshots(&overlayfs())
            .list(&[])
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_namespace_gets_blobs_and_snapshots_without_a_download() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let parts = registry.put_image("app", "1", &layers());
    let reference = registry.reference("app", "1");
    engine.pull(&reference).await.unwrap();
    let before: usize = parts
        .layers
        .iter()
        .map(|layer| registry.count("GET", &layer.to_string()))
        .sum();
    let other = engine
        .images
        .pull(&scope("other"), request(&reference), Arc::new(NoProgress))
        .await
        .unwrap();
    let after: usize = parts
        .layers
        .iter()
        .map(|layer| registry.count("GET", &layer.to_string()))
        .sum();
    assert_eq!((before, after), (3, 3));
    assert_eq!(other.bytes_fetched, 0);
    let (ours, theirs) = (engine.view("test"), engine.view("other"));
    for layer in &parts.layers {
        assert!(theirs.content().info(layer).is_ok(), "{layer}");
    }
    let numbers = |view: &orlop_meta::View| -> Vec<_> {
        let list = view.snapshots(&overlayfs()).list(&[]).unwrap();
        list.iter().map(|snapshot| snapshot.number).collect()
    };
    assert_eq!(numbers(&ours), numbers(&theirs), "the same folders");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_does_not_take_the_download_with_it() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let parts = registry.put_image(
        "app",
        "1",
        &[Layer::with_files(&[("big", &noise(2 << 20, 1))])],
    );
    registry.fault(Fault::on(
        parts.layers[0].to_string(),
        Action::Rate(1 << 20),
    ));
    let reference = registry.reference("app", "1");
    let fetch = |namespace: &str| {
        let request = PullRequest {
            skip_unpack: true,
            ..request(&reference)
        };
        let (images, scope) = (engine.images.clone(), scope(namespace));
        async move { images.pull(&scope, request, Arc::new(NoProgress)).await }
    };
    let leader = tokio::time::timeout(Duration::from_millis(800), fetch("test"));
    let follower = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fetch("other").await
    };
    let (leader, follower) = tokio::join!(leader, follower);
    assert!(leader.is_err(), "the leader was too fast to go away");
    follower.unwrap();
    assert_eq!(registry.count("GET", &parts.layers[0].to_string()), 1);
    assert!(
        engine
            .view("other")
            .content()
            .info(&parts.layers[0])
            .is_ok()
    );
}

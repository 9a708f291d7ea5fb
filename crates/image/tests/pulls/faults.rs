//! Registries and images that are not what they should be.

use std::sync::Arc;

use orlop_image::images::{Error, ErrorKind, NoProgress};
use orlop_testkit::registry::{Action, FakeRegistry, Fault, ImageParts, Layer, digest_of};
use orlop_types::Digest;

use super::support::{Engine, layers, noise, overlayfs, request, scope};

async fn refused(engine: &Engine, registry: &FakeRegistry) -> Error {
    let error = engine
        .pull(&registry.reference("app", "1"))
        .await
        .unwrap_err();
    engine.assert_nothing_left(0);
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_layer_is_not_stored_and_leaves_no_snapshot() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let parts = registry.put_image(
        "app",
        "1",
        &[Layer::with_files(&[("a", &noise(100_000, 1))])],
    );
    registry.fault(Fault::on(
        parts.layers[0].to_string(),
        Action::Corrupt(50_000),
    ));
    let error = refused(&engine, &registry).await;
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    let view = engine.view("test");
    assert!(view.content().info(&parts.layers[0]).is_err());
    assert_eq!(view.snapshots(&overlayfs()).list(&[]).unwrap(), []);
    assert_eq!(view.content().ingests(&[]).unwrap(), []);
    registry.heal();
    engine.pull(&registry.reference("app", "1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_damaged_bytes_is_passed_over_and_not_asked_for_them_again() {
    pass_over_a_mirror_that_damages(|parts| parts.layers[0], 50_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_a_damaged_config_is_passed_over_too() {
    pass_over_a_mirror_that_damages(|parts| parts.config, 7).await;
}

/// The mirror turns a byte of one blob over; the image comes all the same.
async fn pass_over_a_mirror_that_damages(which: fn(&ImageParts) -> Digest, at_byte: u64) {
    let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let image = [Layer::with_files(&[("a", &noise(100_000, 1))])];
    let parts = registry.put_image("app", "1", &image);
    mirror.put_image("app", "1", &image);
    let damaged = which(&parts).to_string();
    mirror.fault(Fault::on(damaged.clone(), Action::Corrupt(at_byte)));
    let (engine, hosts) = (Engine::new(), tempfile::tempdir().unwrap());
    let folder = hosts.path().join(registry.host());
    std::fs::create_dir(&folder).unwrap();
    let text = format!(
        "server = \"{}\"\n[host.\"{}\"]\n",
        registry.url(),
        mirror.url()
    );
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
    let mut request = request(&registry.reference("app", "1"));
    request.registry.hosts_folder = Some(hosts.path().to_owned());
    let progress = Arc::new(NoProgress);
    engine
        .images
        .pull(&scope("test"), request, progress)
        .await
        .unwrap();
    assert_eq!(mirror.count("GET", &damaged), 1);
    assert_eq!(registry.count("GET", &damaged), 1);
    let info = engine.view("test").content().info(&which(&parts));
    assert!(info.is_ok(), "{info:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_something_else_than_the_config_says_is_refused() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let mut stored = layers();
    stored[1].diff_id = digest_of(b"something else");
    registry.put_image("app", "1", &stored);
    let error = refused(&engine, &registry).await;
    assert_eq!(error.code(), "ORL-E5202", "{error}");
    let snapshots = engine
        .view("test")
        .snapshots(&overlayfs())
        .list(&[])
        .unwrap();
    assert!(
        snapshots.len() <= 1,
        "only the layer below may be there: {snapshots:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_a_hundred_megabytes_is_not_read() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    registry.put_image("app", "1", &layers());
    registry.fault(Fault::on("/manifests/", Action::Endless(100 << 20)));
    let error = refused(&engine, &registry).await;
    assert!(error.to_string().contains("most that is read"), "{error}");
    assert_eq!(engine.view("test").content().list(&[]).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_within_indexes_come_to_an_end() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let media_type = "application/vnd.oci.image.index.v1+json";
    let inner = registry.put_untagged_image("app", &layers());
    let (mut digest, mut size) = (inner.manifest, inner.manifest_bytes.len());
    let mut kind = "application/vnd.oci.image.manifest.v1+json";
    for _ in 0..8 {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": kind, "digest": digest.to_string(), "size": size}]});
        let bytes = index.to_string();
        size = bytes.len();
        digest = registry.put_manifest("app", Some("1"), media_type, bytes);
        kind = media_type;
    }
    let error = refused(&engine, &registry).await;
    assert_eq!(error.code(), "ORL-E5410", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_layer_is_refused_before_anything_is_downloaded() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let mut stored = layers();
    stored[2].media_type =
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".to_owned();
    registry.put_image("app", "1", &stored);
    let error = refused(&engine, &registry).await;
    assert_eq!(error.code(), "ORL-E5406", "{error}");
    assert_eq!(registry.count("GET", "/blobs/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_with_a_gzip_stream_cut_short_is_refused_though_its_digest_matches() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let mut stored = layers();
    stored[0].blob = stored[0].blob.slice(..stored[0].blob.len() - 9);
    registry.put_image("app", "1", &stored);
    let error = refused(&engine, &registry).await;
    assert!(matches!(error, Error::Unpack { .. }), "{error}");
    assert_eq!(
        engine
            .view("test")
            .snapshots(&overlayfs())
            .list(&[])
            .unwrap(),
        []
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_machine_and_one_that_is_not_there_are_named_so() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let error = refused(&engine, &registry).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    registry.put_image("app", "1", &layers());
    let mut request = super::support::request(&registry.reference("app", "1"));
    request.platform = Some("linux/s390x".parse().unwrap());
    let progress = std::sync::Arc::new(orlop_image::images::NoProgress);
    let pulled = engine
        .images
        .pull(&super::support::scope("test"), request, progress)
        .await;
    let error = pulled.unwrap_err();
    assert_eq!(error.code(), "ORL-E5411", "{error}");
    engine.assert_nothing_left(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_breaks_off_keeps_what_came_under_one_lease() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let parts = registry.put_image("app", "1", &layers());
    let last = parts.layers[2].to_string();
    registry.fault(Fault::on(last.clone(), Action::status(500)));
    for _ in 0..2 {
        let error = engine
            .pull(&registry.reference("app", "1"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        engine.assert_nothing_left(1);
    }
    registry.heal();
    let pulled = engine.pull(&registry.reference("app", "1")).await.unwrap();
    let size = engine
        .view("test")
        .content()
        .info(&parts.layers[2])
        .unwrap()
        .size;
    assert_eq!(
        pulled.bytes_fetched, size,
        "only the last layer was missing"
    );
    assert_eq!(engine.view("test").leases().list(&[]).unwrap(), []);
}

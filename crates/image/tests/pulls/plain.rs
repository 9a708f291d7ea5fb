//! A pull that goes well.

use std::sync::{Arc, Mutex};

use orlop_image::images::NoProgress;
use orlop_image::images::{Beside, BlobState, Event, PullRequest, UnpackRequest, UnpackState};
use orlop_sys::mount::{Unmount, mount_all, unmount_all};
use orlop_testkit::registry::{FakeRegistry, Layer};
use orlop_types::{SnapshotKey, SnapshotterName};

use super::support::{Engine, layers, name, overlayfs, request, scope};

/// The tree that a committed snapshot shows, mounted for a moment.
pub(crate) fn tree(
    engine: &Engine,
    snapshotter: &SnapshotterName,
    chain: &str,
) -> Vec<(String, String)> {
    let key = SnapshotKey::new(chain).unwrap();
    let mounts = engine
        .view("test")
        .snapshots(snapshotter)
        .mounts(&key)
        .unwrap();
    let target = tempfile::tempdir().unwrap();
    mount_all(&mounts, target.path()).unwrap();
    let listed = super::support::shell(
        target.path(),
        "find . -type f | sort | while read f; do echo \"$f $(cat $f)\"; done",
    );
    let how = Unmount {
        detach: true,
        recursive: true,
    };
    unmount_all(target.path(), how).unwrap();
    listed
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect()
}

fn expected() -> Vec<(String, String)> {
    [
        ("./bin/c", "three"),
        ("./etc/a", "changed"),
        ("./usr/d", "four"),
    ]
    .map(|(path, content)| (path.to_owned(), content.to_owned()))
    .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_stored_unpacked_and_named_and_nothing_else_is_left() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let parts = registry.put_image("app", "1", &layers());
    let reference = registry.reference("app", "1");
    let pulled = engine.pull(&reference).await.unwrap();
    assert_eq!(pulled.image.name.as_str(), reference);
    assert_eq!(pulled.image.target.digest, parts.manifest);
    let top = pulled.chain_id.unwrap().digest().to_string();
    assert_eq!(tree(&engine, &overlayfs(), &top), expected());
    let view = engine.view("test");
    assert_eq!(view.leases().list(&[]).unwrap(), []);
    assert_eq!(view.content().ingests(&[]).unwrap(), []);
    assert_eq!(view.snapshots(&overlayfs()).list(&[]).unwrap().len(), 3);
    let details = engine
        .images
        .config_of(&scope("test"), name(&reference), None)
        .await
        .unwrap();
    assert_eq!(details.config_digest, parts.config);
    assert_eq!(details.config.config.cmd, ["/bin/sh"]);
    let usage = engine
        .images
        .usage(&scope("test"), name(&reference), None)
        .await
        .unwrap();
    assert_eq!(usage.blobs, 5);
    assert!(usage.snapshot_inodes >= 5, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_carry_the_labels_by_which_containerd_s_clients_find_their_way() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let stored = layers();
    let parts = registry.put_image("team/app", "1", &stored);
    let pulled = engine
        .pull(&registry.reference("team/app", "1"))
        .await
        .unwrap();
    let view = engine.view("test");
    let label = |digest, key: &str| {
        let blob = view.content().info(digest).unwrap();
        blob.labels.value(key).map(str::to_owned)
    };
    let of = |digest: &orlop_types::Digest| Some(digest.to_string());
    assert_eq!(
        label(&parts.manifest, "containerd.io/gc.ref.content.config"),
        of(&parts.config)
    );
    assert_eq!(
        label(&parts.manifest, "containerd.io/gc.ref.content.l.2"),
        of(&parts.layers[2])
    );
    let top = pulled.chain_id.unwrap();
    assert_eq!(
        label(&parts.config, "containerd.io/gc.ref.snapshot.overlayfs"),
        of(top.digest())
    );
    let source = format!("containerd.io/distribution.source.{}", registry.host());
    for digest in [&parts.manifest, &parts.config, &parts.layers[0]] {
        assert_eq!(
            label(digest, &source).as_deref(),
            Some("team/app"),
            "of {digest}"
        );
    }
    assert_eq!(
        label(&parts.layers[0], "containerd.io/uncompressed"),
        of(&stored[0].diff_id)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshotter_that_copies_its_parents_gives_the_same_tree() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    registry.put_image("app", "1", &layers());
    let native = SnapshotterName::new("native").unwrap();
    let request = PullRequest {
        snapshotter: Some(native.clone()),
        ..request(&registry.reference("app", "1"))
    };
    let pulled = engine
        .images
        .pull(&scope("test"), request, Arc::new(NoProgress))
        .await
        .unwrap();
    let top = pulled.chain_id.unwrap().digest().to_string();
    assert_eq!(tree(&engine, &native, &top), expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pull_brings_nothing_and_an_image_on_top_only_what_is_new() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let mut stored = layers();
    registry.put_image("app", "1", &stored);
    engine.pull(&registry.reference("app", "1")).await.unwrap();
    let again = engine.pull(&registry.reference("app", "1")).await.unwrap();
    assert_eq!(again.bytes_fetched, 0);
    stored.push(Layer::with_files(&[("etc/e", b"five")]));
    registry.put_image("app", "2", &stored);
    let next = engine.pull(&registry.reference("app", "2")).await.unwrap();
    assert_eq!(next.bytes_fetched, stored[3].blob.len() as u64);
    assert_eq!(
        engine
            .view("test")
            .snapshots(&overlayfs())
            .list(&[])
            .unwrap()
            .len(),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_fetched_without_unpacking_is_unpacked_later() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    registry.put_image("app", "1", &layers());
    let reference = registry.reference("app", "1");
    let request = PullRequest {
        skip_unpack: true,
        ..request(&reference)
    };
    let pulled = engine
        .images
        .pull(&scope("test"), request, Arc::new(NoProgress))
        .await
        .unwrap();
    assert!(pulled.chain_id.is_none());
    assert_eq!(
        engine
            .view("test")
            .snapshots(&overlayfs())
            .list(&[])
            .unwrap(),
        []
    );
    let wanted = UnpackRequest {
        image: name(&reference),
        platform: None,
        snapshotter: None,
    };
    let unpacked = engine
        .images
        .unpack(&scope("test"), wanted, Arc::new(NoProgress))
        .await
        .unwrap();
    let top = unpacked.chain_id.unwrap().digest().to_string();
    assert_eq!(tree(&engine, &overlayfs(), &top), expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entry_for_this_machine_is_taken_and_attestations_never() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let mine = registry.put_untagged_image("app", &layers());
    let other = registry.put_untagged_image("app", &[Layer::with_files(&[("x", b"other")])]);
    let platform = orlop_types::Platform::host();
    let entry = |digest: &orlop_types::Digest, size: usize, os: &str, architecture: &str| {
        serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.to_string(), "size": size,
            "platform": {"os": os, "architecture": architecture}})
    };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        entry(&other.manifest, other.manifest_bytes.len(), "unknown", "unknown"),
        entry(&other.manifest, other.manifest_bytes.len(), "linux", "s390x"),
        entry(&mine.manifest, mine.manifest_bytes.len(), "linux", platform.architecture()),
    ]});
    registry.put_manifest(
        "app",
        Some("multi"),
        "application/vnd.oci.image.index.v1+json",
        index.to_string(),
    );
    let reference = registry.reference("app", "multi");
    engine.pull(&reference).await.unwrap();
    let view = engine.view("test");
    assert!(view.content().info(&mine.manifest).is_ok());
    assert!(view.content().info(&other.manifest).is_err());
    let request = PullRequest {
        beside: Beside::Images,
        ..request(&reference)
    };
    engine
        .images
        .pull(&scope("test"), request, Arc::new(NoProgress))
        .await
        .unwrap();
    assert!(view.content().info(&other.layers[0]).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_ends_with_every_blob_stored_and_every_layer_unpacked() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    registry.put_image("app", "1", &layers());
    let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
    let listener = {
        let heard = Arc::clone(&heard);
        move |event| heard.lock().unwrap().push(event)
    };
    let request = request(&registry.reference("app", "1"));
    engine
        .images
        .pull(&scope("test"), request, Arc::new(listener))
        .await
        .unwrap();
    let heard = heard.lock().unwrap();
    assert!(matches!(heard[0], Event::Resolved { .. }), "{:?}", heard[0]);
    let mut last = std::collections::BTreeMap::new();
    for event in heard.iter() {
        if let Event::Blob(blob) = event {
            last.insert(blob.descriptor.digest.to_string(), blob.clone());
        }
    }
    assert_eq!(last.len(), 3);
    for blob in last.values() {
        assert_eq!(
            (blob.state, blob.unpack),
            (BlobState::Stored, UnpackState::Unpacked)
        );
        assert_eq!(blob.bytes_done, blob.descriptor.size);
        assert_eq!(blob.host, registry.host());
        assert!(blob.bytes_unpacked > 0);
    }
}

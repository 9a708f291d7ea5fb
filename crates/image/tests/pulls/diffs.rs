//! The diff primitives on an image's snapshots.

use std::sync::Arc;

use orlop_image::images::{ApplyDiffRequest, CreateDiffRequest, NoProgress};
use orlop_meta::SnapshotOptions;
use orlop_testkit::registry::FakeRegistry;
use orlop_types::{Mount, SnapshotKey};

use super::support::{Engine, layers, overlayfs, request, scope, shell};

fn active(engine: &Engine, key: &str, parent: &str) -> Vec<Mount> {
    let options = SnapshotOptions {
        parent: Some(SnapshotKey::new(parent).unwrap()),
        ..SnapshotOptions::default()
    };
    let key = SnapshotKey::new(key).unwrap();
    engine
        .view("test")
        .snapshots(&overlayfs())
        .prepare(&key, &options)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_in_a_snapshot_becomes_a_layer_that_makes_the_same_changes_elsewhere() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    registry.put_image("app", "1", &layers());
    let request = request(&registry.reference("app", "1"));
    let pulled = engine
        .images
        .pull(&scope("test"), request, Arc::new(NoProgress))
        .await
        .unwrap();
    let top = pulled.chain_id.unwrap().digest().to_string();
    let changed = active(&engine, "changed", &top);
    let upper = changed[0].option("upperdir").unwrap().to_owned();
    shell(
        std::path::Path::new(&upper),
        "mkdir etc; echo hello > etc/new; mknod etc/a c 0 0",
    );
    let lower = engine
        .view("test")
        .snapshots(&overlayfs())
        .mounts(&SnapshotKey::new(&top).unwrap())
        .unwrap();
    let wanted = CreateDiffRequest {
        lower,
        upper: changed,
        ..CreateDiffRequest::default()
    };
    let layer = engine
        .images
        .create_diff(&scope("test"), wanted)
        .await
        .unwrap();
    let blob = engine.view("test").content().info(&layer.digest).unwrap();
    let uncompressed = blob
        .labels
        .value("containerd.io/uncompressed")
        .unwrap()
        .to_owned();

    let target = active(&engine, "target", &top);
    let upper = target[0].option("upperdir").unwrap().to_owned();
    let wanted = ApplyDiffRequest {
        layer,
        mounts: target,
    };
    let applied = engine
        .images
        .apply_diff(&scope("test"), wanted)
        .await
        .unwrap();
    assert_eq!(applied.applied.digest.to_string(), uncompressed);
    assert_eq!(
        shell(
            std::path::Path::new(&upper),
            "cat etc/new; stat -c '%F %t,%T' etc/a"
        ),
        "hello\ncharacter special file 0,0"
    );
}

//! Pulls and collection at the same time, and what a pull that ended badly leaves for collection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orlop_meta::fsck::{Check, FsckOptions};
use orlop_meta::gc::Collector;
use orlop_testkit::registry::{Action, FakeRegistry, Fault, Layer};

use super::support::{Engine, layers, name, noise, overlayfs, scope};

/// Collects, and says what then is at odds.
pub(crate) fn collect(engine: &Engine) -> Vec<String> {
    let collector = Collector::new(engine.db.clone());
    collector.run_once(engine.db.clock().wall()).unwrap();
    let mut findings = Vec::new();
    engine
        .db
        .fsck(&FsckOptions::default(), &mut |finding| {
            findings.push(format!("{finding:?}"));
        })
        .unwrap();
    findings
}

/// What the daemon does before anything else after an unclean stop. Only work cut short may be found.
pub(crate) fn mend(engine: &Engine) {
    let options = FsckOptions {
        repair: true,
        at_start: true,
        ..FsckOptions::default()
    };
    let summary = engine.db.fsck(&options, &mut |finding| {
        let cut_short = [
            Check::BlobUnknown,
            Check::IngestMissing,
            Check::SnapshotUnknown,
            Check::SnapshotHalfCommitted,
            Check::SweepGone,
        ];
        assert!(cut_short.contains(&finding.check), "{finding:?}");
    });
    assert!(summary.unwrap().is_clean());
}

fn files_beneath(engine: &Engine, folder: &str) -> usize {
    let beneath = engine.folder().join(folder);
    let count = super::support::shell(&beneath, "find . -type f | wc -l");
    count.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn collecting_all_the_time_takes_nothing_from_a_pull() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let stored: Vec<Layer> = (0..6)
        .map(|number| Layer::with_files(&[(&format!("file{number}"), &noise(300_000, number))]))
        .collect();
    let parts = registry.put_image("app", "1", &stored);
    registry.fault(Fault::on("/blobs/", Action::Rate(1 << 20)));
    let is_over = Arc::new(AtomicBool::new(false));
    let collecting = {
        let (over, db) = (Arc::clone(&is_over), engine.db.clone());
        std::thread::spawn(move || {
            let collector = Collector::new(db.clone());
            let mut passes = 0;
            while !over.load(Ordering::Relaxed) {
                collector.run_once(db.clock().wall()).unwrap();
                passes += 1;
            }
            passes
        })
    };
    let pulled = engine.pull(&registry.reference("app", "1")).await;
    is_over.store(true, Ordering::Relaxed);
    let passes = collecting.join().unwrap();
    pulled.unwrap();
    assert!(
        passes > 5,
        "only {passes} passes: the pull was not disturbed"
    );
    assert_eq!(collect(&engine), Vec::<String>::new());
    let view = engine.view("test");
    for layer in &parts.layers {
        assert!(view.content().info(layer).is_ok(), "{layer} was collected");
    }
    let snapshots = view.snapshots(&overlayfs()).list(&[]).unwrap();
    assert_eq!(snapshots.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_image_and_a_refused_one_give_every_byte_back() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    registry.put_image("app", "1", &layers());
    let reference = registry.reference("app", "1");
    engine.pull(&reference).await.unwrap();
    assert_eq!(collect(&engine), Vec::<String>::new());
    assert!(files_beneath(&engine, "content/blobs") == 5);
    engine
        .images
        .delete(&scope("test"), name(&reference))
        .await
        .unwrap();
    let mut wrong = layers();
    wrong[2].diff_id = wrong[1].diff_id;
    registry.put_image("app", "2", &wrong);
    engine
        .pull(&registry.reference("app", "2"))
        .await
        .unwrap_err();
    assert_eq!(collect(&engine), Vec::<String>::new());
    assert_eq!(files_beneath(&engine, "content/blobs"), 0);
    assert_eq!(files_beneath(&engine, "content/ingest"), 0);
    assert_eq!(files_beneath(&engine, "overlayfs"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_keeps_blobs_and_ingests_through_a_collection_and_no_unfinished_snapshot()
{
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let small = Layer::with_files(&[("small", b"small")]);
    let big = Layer::with_files(&[("big", &noise(2 << 20, 1))]);
    let parts = registry.put_image("app", "1", &[small, big]);
    registry.fault(Fault::on(
        parts.layers[1].to_string(),
        Action::Rate(1 << 20),
    ));
    let reference = registry.reference("app", "1");
    let cut = tokio::time::timeout(Duration::from_millis(1500), engine.pull(&reference)).await;
    assert!(cut.is_err(), "too fast to be cut");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(collect(&engine), Vec::<String>::new());
    let view = engine.view("test");
    assert!(view.content().info(&parts.layers[0]).is_ok());
    assert_eq!(view.content().ingests(&[]).unwrap().len(), 1);
    engine.assert_nothing_left(1);
}

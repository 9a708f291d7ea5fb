//! Pulls that end in the middle.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use orlop_image::images::{NoProgress, PullRequest};
use orlop_testkit::registry::{Action, FakeRegistry, Fault, Layer};

use super::collection::{collect, mend};
use super::support::{Engine, noise, overlayfs, request, scope};

const CHILD: &str = "ORLOP_TEST_PULL";

/// Waits until something is true; a test that waits half a minute has failed.
async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_true() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not happen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_keeps_its_bytes_and_the_next_downloads_only_the_rest() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let layer = Layer::with_files(&[("big", &noise(3 << 20, 1))]);
    let size = layer.blob.len() as u64;
    let parts = registry.put_image("app", "1", &[layer]);
    let reference = registry.reference("app", "1");
    registry.fault(Fault::on(
        parts.layers[0].to_string(),
        Action::Rate(1 << 20),
    ));
    let view = engine.view("test");
    let arrived = || {
        view.content()
            .ingests(&[])
            .unwrap()
            .iter()
            .any(|ingest| ingest.offset > 1 << 20)
    };
    tokio::select! {
        pulled = engine.pull(&reference) => panic!("too fast: {pulled:?}"),
        () = until("a megabyte", arrived) => {}
    }
    let no_drafts = || view.snapshots(&overlayfs()).list(&[]).unwrap().is_empty();
    until("the end of the unpacking", no_drafts).await;
    engine.assert_nothing_left(1);
    registry.heal();
    let pulled = engine.pull(&reference).await.unwrap();
    assert!(
        pulled.bytes_fetched < size - (1 << 20),
        "{} of {size}",
        pulled.bytes_fetched
    );
    assert_eq!(view.leases().list(&[]).unwrap(), []);
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_pulls() {
    let Ok(arguments) = std::env::var(CHILD) else {
        return;
    };
    let (folder, reference) = arguments.split_once(' ').unwrap();
    Engine::at(Path::new(folder)).pull(reference).await.unwrap();
}

fn start_child(folder: &Path, reference: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pulls::resume::child_that_pulls"])
        .env(CHILD, format!("{} {reference}", folder.display()))
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_killed_in_the_middle_resumes_and_leaves_no_unfinished_snapshot_held() {
    let registry = FakeRegistry::start();
    let small = Layer::with_files(&[("small", b"small")]);
    let big = Layer::with_files(&[("big", &noise(4 << 20, 1))]);
    let (small_size, big_size) = (small.blob.len() as u64, big.blob.len() as u64);
    let parts = registry.put_image("app", "1", &[small, big]);
    let reference = registry.reference("app", "1");
    registry.fault(Fault::on(
        parts.layers[1].to_string(),
        Action::Rate(1 << 20),
    ));
    let folder = tempfile::tempdir().unwrap();
    let mut child = start_child(folder.path(), &reference);
    let half = || registry.count("GET", &parts.layers[1].to_string()) > 0;
    until("the big layer's download", half).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    registry.heal();
    let engine = Engine::at(folder.path());
    let view = engine.view("test");
    assert_eq!(view.images().list(&[]).unwrap(), []);
    let pulled = engine.pull(&reference).await.unwrap();
    assert!(
        pulled.bytes_fetched <= big_size,
        "the small layer ({small_size}) was stored"
    );
    assert_eq!(
        view.leases().list(&[]).unwrap(),
        [],
        "the killed pull's lease was taken over"
    );
    assert!(pulled.chain_id.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kills_at_any_moment_records_and_disk_agree_and_the_pull_succeeds() {
    const KILLS: u64 = 25;
    let registry = FakeRegistry::start();
    let layers: Vec<Layer> = (0..5)
        .map(|number| Layer::with_files(&[(&format!("file{number}"), &noise(200_000, number))]))
        .collect();
    registry.put_image("app", "1", &layers);
    let reference = registry.reference("app", "1");
    let folder = tempfile::tempdir().unwrap();
    let mut finished = 0;
    for kill in 0..KILLS {
        let mut child = start_child(folder.path(), &reference);
        // A pull takes some 300 ms here; the golden ratio spreads the moments evenly over them.
        let moment = 30 + kill * 618 % 400;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        child.kill().unwrap();
        finished += u64::from(child.wait().unwrap().success());
        let engine = Engine::at(folder.path());
        mend(&engine);
        assert_eq!(collect(&engine), Vec::<String>::new(), "after {moment} ms");
        let images = engine.view("test").images().list(&[]).unwrap();
        if let [image] = &images[..] {
            engine
                .images
                .delete(&scope("test"), image.name.clone())
                .await
                .unwrap();
        }
    }
    assert!(finished < KILLS, "every pull was over before it was killed");
    let engine = Engine::at(folder.path());
    engine.pull(&reference).await.unwrap();
    assert_eq!(collect(&engine), Vec::<String>::new());
    assert_eq!(engine.view("test").leases().list(&[]).unwrap(), []);
    assert_eq!(
        engine
            .view("test")
            .snapshots(&overlayfs())
            .list(&[])
            .unwrap()
            .len(),
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_s_lease_is_used_and_stays() {
    let (registry, engine) = (FakeRegistry::start(), Engine::new());
    let parts = registry.put_image("app", "1", &[Layer::with_files(&[("a", b"a")])]);
    let lease = orlop_types::LeaseId::new("mine").unwrap();
    let view = engine.view("test");
    view.leases()
        .create(&lease, &orlop_types::Labels::new())
        .unwrap();
    let mut scope = scope("test");
    scope.lease = Some(lease.clone());
    let request = PullRequest {
        skip_unpack: true,
        ..request(&registry.reference("app", "1"))
    };
    engine
        .images
        .pull(&scope, request, Arc::new(NoProgress))
        .await
        .unwrap();
    let held = view.leases().resources(&lease).unwrap();
    assert!(
        held.contains(&orlop_meta::LeaseResource::Content(parts.manifest)),
        "{held:?}"
    );
}

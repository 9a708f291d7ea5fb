//! Collection through the public views: containerd's rules one by one, the sweep, and collecting while others write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use orlop_base::clock::Clock;
use orlop_content::Expected;
use orlop_meta::gc::{Collector, Report, Verdict};
use orlop_meta::{
    CommitOptions, Event, Image, IngestOptions, LeaseResource, Opened, Runtime, Sandbox,
    SnapshotOptions, View,
};
use orlop_types::{
    ContainerId, Descriptor, Digest, ImageName, IngestRef, Labels, LeaseId, SandboxId,
};

use super::common::{Fixture, container, key, labels};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A node on which things are made by name, and asked by name whether they are still there.
pub(crate) struct World {
    pub(crate) fixture: Fixture,
    pub(crate) view: View,
    pub(crate) collector: Collector,
    digests: Mutex<BTreeMap<String, Digest>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let fixture = Fixture::new();
        let collector = Collector::new(fixture.db.clone());
        let view = fixture.view("n");
        Self {
            fixture,
            view,
            collector,
            digests: Mutex::default(),
        }
    }

    /// A blob whose bytes are its name. A label value `@NAME` stands for the digest of another.
    pub(crate) fn blob(&self, name: &str, entries: &[(&str, &str)]) -> Digest {
        self.blob_in(&self.view, name, entries)
    }

    pub(crate) fn blob_in(&self, view: &View, name: &str, entries: &[(&str, &str)]) -> Digest {
        let digest = write_blob(view, name, &self.resolve(entries)).unwrap();
        self.digests.lock().unwrap().insert(name.to_owned(), digest);
        digest
    }

    pub(crate) fn digest(&self, name: &str) -> Digest {
        self.digests.lock().unwrap()[name]
    }

    fn resolve(&self, entries: &[(&str, &str)]) -> Labels {
        let mut resolved = Labels::new();
        for (label, value) in entries {
            match value.strip_prefix('@') {
                Some(name) => resolved.insert(*label, self.digest(name).to_string()),
                None => resolved.insert(*label, *value),
            }
            .unwrap();
        }
        resolved
    }

    /// A committed snapshot.
    pub(crate) fn snapshot(&self, name: &str, parent: Option<&str>, entries: &[(&str, &str)]) {
        let snapshots = self.view.snapshots(&self.fixture.fake.name);
        let active = key(&format!("active {name}"));
        let options = SnapshotOptions {
            parent: parent.map(key),
            labels: Labels::new(),
        };
        snapshots.prepare(&active, &options).unwrap();
        let options = CommitOptions {
            parent: None,
            labels: self.resolve(entries),
        };
        snapshots.commit(&key(name), &active, &options).unwrap();
    }

    pub(crate) fn image(&self, name: &str, blob: &str, entries: &[(&str, &str)]) {
        let target = Descriptor::new("text/plain", self.digest(blob), 7);
        let labels = self.resolve(entries);
        let image = Image::new(ImageName::new(name).unwrap(), target, labels);
        self.view.images().create(&image).unwrap();
    }

    pub(crate) fn container(&self, id: &str, snapshot: &str, entries: &[(&str, &str)]) {
        let mut container = container(id);
        container.labels = self.resolve(entries);
        if !snapshot.is_empty() {
            container.snapshotter = "fake".to_owned();
            container.snapshot_key = snapshot.to_owned();
        }
        self.view.containers().create(&container).unwrap();
    }

    pub(crate) fn sandbox(&self, id: &str, entries: &[(&str, &str)]) {
        let runtime = Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: None,
        };
        let mut sandbox = Sandbox::new(SandboxId::new(id).unwrap(), runtime);
        sandbox.labels = self.resolve(entries);
        self.view.sandboxes().create(&sandbox).unwrap();
    }

    /// A lease on resources spelled `content/NAME`, `snapshots/fake/KEY`, `images/NAME` or `ingests/REF`.
    pub(crate) fn lease(&self, id: &str, entries: &[(&str, &str)], resources: &[&str]) {
        let id = LeaseId::new(id).unwrap();
        self.view.leases().create(&id, &labels(entries)).unwrap();
        for resource in resources {
            let (kind, name) = resource.rsplit_once('/').unwrap();
            let name = match kind {
                "content" => self.digest(name).to_string(),
                _ => name.to_owned(),
            };
            let resource = LeaseResource::parse(kind, &name).unwrap();
            self.view.leases().add_resource(&id, &resource).unwrap();
        }
    }

    /// Everything that has a record, by name.
    pub(crate) fn kept(&self) -> BTreeSet<String> {
        let names: BTreeMap<Digest, String> = self
            .digests
            .lock()
            .unwrap()
            .iter()
            .map(|(name, digest)| (*digest, name.clone()))
            .collect();
        let view = &self.view;
        let snapshots = view.snapshots(&self.fixture.fake.name);
        let blobs = view.content().list(&[]).unwrap();
        let mut kept: BTreeSet<String> = blobs
            .iter()
            .map(|blob| names[&blob.digest].clone())
            .collect();
        kept.extend(
            snapshots
                .list(&[])
                .unwrap()
                .iter()
                .map(|found| found.key.to_string()),
        );
        kept.extend(
            view.images()
                .list(&[])
                .unwrap()
                .iter()
                .map(|image| image.name.to_string()),
        );
        kept.extend(
            view.leases()
                .list(&[])
                .unwrap()
                .iter()
                .map(|lease| lease.id.to_string()),
        );
        kept.extend(
            view.content()
                .ingests(&[])
                .unwrap()
                .iter()
                .map(|found| found.reference.to_string()),
        );
        kept
    }

    pub(crate) fn collect(&self) -> Report {
        self.collector.run_once(self.fixture.clock.wall()).unwrap()
    }

    pub(crate) fn collect_after(&self, duration: Duration) -> Report {
        self.fixture.clock.advance(duration);
        self.collect()
    }

    /// Where the file of a blob is.
    pub(crate) fn file_of(&self, name: &str) -> std::path::PathBuf {
        let digest = self.digest(name);
        self.fixture
            .folder
            .path()
            .join("content/blobs/sha256")
            .join(digest.hex())
    }
}

pub(crate) fn write_blob(
    view: &View,
    bytes: &str,
    labels: &Labels,
) -> Result<Digest, orlop_meta::Error> {
    let reference = IngestRef::new(format!("write {bytes}")).unwrap();
    let opened = view
        .content()
        .ingest(&reference, &IngestOptions::default())?;
    let Opened::Ingest(ingest) = opened else {
        panic!("nothing was expected, so nothing exists");
    };
    ingest.writer().unwrap().append(bytes.as_bytes()).unwrap();
    Ok(ingest.commit(Expected::default(), labels)?.digest)
}

const ROOT: &str = "containerd.io/gc.root";
const EXPIRE: &str = "containerd.io/gc.expire";
const PAST: &str = "2020-01-01T00:00:00Z";

#[test]
fn an_ingest_is_kept_by_its_lease_or_for_a_day() {
    let world = World::new();
    let leased = world.fixture.leased("n", "l");
    for (view, name) in [(&world.view, "loose"), (&leased, "leased")] {
        let reference = IngestRef::new(name).unwrap();
        let opened = view.content().ingest(&reference, &IngestOptions::default());
        let Opened::Ingest(ingest) = opened.unwrap() else {
            panic!("nothing exists");
        };
        ingest.writer().unwrap().append(b"12345").unwrap();
    }
    world.collect_after(DAY);
    assert_eq!(
        world.kept(),
        ["l", "leased", "loose"].map(String::from).into()
    );
    let report = world.collect_after(Duration::from_nanos(1));
    assert_eq!(world.kept(), ["l", "leased"].map(String::from).into());
    assert_eq!((report.removed.ingests, report.swept.ingests), (1, 1));
    assert_eq!(report.bytes_freed, 5);
    assert_eq!(world.fixture.store.statuses().unwrap().len(), 1);
}

#[test]
fn every_removal_is_told_and_gives_its_bytes_back() {
    let world = World::new();
    world.blob("a", &[]);
    world.snapshot("s", None, &[]);
    world.lease("l", &[(EXPIRE, PAST)], &["content/a"]);
    world.image("img", "a", &[(EXPIRE, PAST)]);
    let before = world.fixture.db.last_event().unwrap();
    let report = world.collect_after(DAY * 2);
    assert_eq!(report.removed.total(), 4);
    assert_eq!((report.swept.content, report.swept.snapshots), (1, 1));
    // Four KiB of the snapshot are what its commit said, the blob's what the disk says.
    assert!(report.bytes_freed > 4096, "{report:?}");
    assert!(!world.file_of("a").exists());
    assert!(world.fixture.fake.kept.lock().unwrap().is_empty());
    let page = world.fixture.db.events_since(before, 100).unwrap();
    let mut topics: Vec<_> = page
        .events
        .iter()
        .map(|envelope| envelope.event.topic().to_owned())
        .collect();
    topics.sort_unstable();
    let expected = [
        "/collect/removed",
        "/collect/removed",
        "/content/delete",
        "/images/delete",
        "/leases/delete",
        "/snapshot/remove",
    ];
    assert_eq!(topics, expected);
    let is_expiry = |event: &Event| matches!(event, Event::LeaseDelete { expired: true, .. });
    assert!(
        page.events
            .iter()
            .any(|envelope| is_expiry(&envelope.event))
    );
    let totals = world.collector.totals();
    assert_eq!((totals.passes, totals.bytes_freed), (1, report.bytes_freed));
}

#[test]
fn a_blob_goes_with_its_last_namespace() {
    let world = World::new();
    let other = world.fixture.view("other");
    world.blob("a", &[]);
    world.blob_in(&other, "a", &[(ROOT, "x")]);
    let report = world.collect();
    assert_eq!((report.removed.content, report.swept.content), (1, 0));
    assert!(world.file_of("a").exists());
    other.content().delete(&world.digest("a")).unwrap();
    let report = world.collector.sweep(world.fixture.clock.wall()).unwrap();
    assert_eq!(report.swept.content, 1);
    assert!(!world.file_of("a").exists());
}

#[test]
fn a_blob_written_again_while_it_waits_for_the_sweep_stays() {
    let world = World::new();
    world.blob("a", &[]);
    world.view.content().delete(&world.digest("a")).unwrap();
    assert_eq!(world.collector.queue(10).unwrap().items, 1);
    world.blob("a", &[(ROOT, "x")]);
    let report = world.collect();
    assert_eq!((report.removed.total(), report.swept.content), (0, 0));
    assert!(world.file_of("a").exists());
    assert_eq!(world.collector.queue(10).unwrap().items, 0);
}

#[test]
fn one_failure_stops_no_other_and_is_tried_again_later_and_later() {
    let world = World::new();
    for name in ["s1", "s2", "s3"] {
        world.snapshot(name, None, &[]);
    }
    let stuck = world
        .view
        .snapshots(&world.fixture.fake.name)
        .stat(&key("s2"))
        .unwrap()
        .number;
    world.fixture.fake.stuck.lock().unwrap().insert(stuck);
    let report = world.collect_after(DAY * 2);
    assert_eq!((report.removed.snapshots, report.swept.snapshots), (3, 2));
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].key, format!("fake/{stuck}"));
    let mut waited = Duration::ZERO;
    for attempts in 1..12 {
        let queue = world.collector.queue(10).unwrap();
        assert_eq!(
            (queue.items, queue.failing, queue.first[0].attempts),
            (1, 1, attempts)
        );
        assert!(
            queue.first[0]
                .last_error
                .as_ref()
                .unwrap()
                .contains("under way")
        );
        // Before its time it is left alone.
        assert_eq!(world.collect().failures, []);
        let next = world.collector.timers().unwrap().next_retry.unwrap();
        let wait = next.duration_since(world.fixture.clock.wall()).unwrap();
        let ceiling = Duration::from_secs(1 << (attempts - 1)).min(Duration::from_secs(3600));
        assert!(
            wait >= ceiling / 2 && wait <= ceiling,
            "{attempts}: {wait:?}"
        );
        waited += wait;
        let report = world.collect_after(wait);
        assert_eq!(report.failures[0].attempts, attempts + 1);
    }
    assert!(waited > Duration::from_secs(600));
    world.fixture.fake.stuck.lock().unwrap().clear();
    let report = world.collect_after(Duration::from_secs(3600));
    assert_eq!((report.swept.snapshots, report.failures.len()), (1, 0));
    assert_eq!(world.collector.queue(10).unwrap().items, 0);
    let page = world.fixture.db.events_since(0, 1000).unwrap();
    let failed = page
        .events
        .iter()
        .filter(|envelope| matches!(envelope.event, Event::CollectFailed { .. }));
    assert_eq!(failed.count(), 12);
}

#[test]
fn a_lease_on_an_idle_node_is_a_timer() {
    let world = World::new();
    world.blob("a", &[]);
    assert_eq!(world.collector.timers().unwrap().next_expiry, None);
    world.lease("l", &[(EXPIRE, "2026-01-01T01:00:00Z")], &["content/a"]);
    world.collect();
    let next = world.collector.timers().unwrap().next_expiry.unwrap();
    let wait = next.duration_since(world.fixture.clock.wall()).unwrap();
    assert_eq!(wait, Duration::from_secs(3600) + Duration::from_nanos(1));
    assert_eq!(
        world
            .collect_after(wait - Duration::from_nanos(1))
            .removed
            .total(),
        0
    );
    let report = world.collect_after(Duration::from_nanos(1));
    assert_eq!((report.removed.leases, report.removed.content), (1, 1));
    assert_eq!(world.collector.timers().unwrap().next_expiry, None);
}

#[test]
fn what_expired_and_is_held_otherwise_is_no_timer_again() {
    let world = World::new();
    world.snapshot("s", None, &[]);
    world.container("c", "s", &[]);
    world.collect_after(DAY * 2);
    assert_eq!(world.kept(), ["s".to_owned()].into());
    assert_eq!(world.collector.timers().unwrap().next_expiry, None);
}

#[test]
fn a_snapshot_that_is_being_made_is_left_alone() {
    let world = World::new();
    world.snapshot("s", None, &[]);
    let connection = rusqlite::Connection::open(world.fixture.path()).unwrap();
    connection
        .execute("UPDATE snapshots SET state = 0", [])
        .unwrap();
    let report = world.collect_after(DAY * 2);
    assert_eq!((report.removed.total(), report.spared), (0, 1));
}

#[test]
fn damaged_references_stop_the_removal_of_anything() {
    let world = World::new();
    world.blob("a", &[]);
    let connection = rusqlite::Connection::open(world.fixture.path()).unwrap();
    connection
        .execute(
            "INSERT INTO nodes (namespace, kind, scope, key) VALUES (1, 99, '', 'x')",
            [],
        )
        .unwrap();
    let error = world
        .collector
        .run_once(world.fixture.clock.wall())
        .unwrap_err();
    assert_eq!(error.code(), "ORL-E4011");
    assert_eq!(world.kept(), ["a".to_owned()].into());
    assert_eq!(world.collector.totals().passes_failed, 1);
}

#[test]
fn a_collection_ends_without_a_trace_in_the_writer() {
    let world = World::new();
    world.collect();
    world.blob("a", &[(ROOT, "x")]);
    world.collect();
    // A barrier that stayed up would still note what is written; its table is of the writing connection only.
    assert_eq!(
        world
            .fixture
            .number("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"),
        0
    );
}

/// Pullers under leases, taggers, and a collector that never rests: what is tagged or leased is never lost.
#[test]
fn nothing_held_is_lost_while_others_write() {
    let world = World::new();
    let done = AtomicBool::new(false);
    let rounds = 25;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let view = world.view.clone();
                scope.spawn(move || (0..rounds).for_each(|round| pull(&view, worker, round)))
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut removed = 0;
            while !done.load(Ordering::SeqCst) {
                let report = world.collect();
                assert_eq!(
                    report
                        .failures
                        .iter()
                        .filter(|failure| !failure.error.contains("written again"))
                        .count(),
                    0
                );
                removed += report.removed.total();
            }
            removed
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        // Before anything can fail: the collector would never end.
        done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a worker failed");
        assert!(
            collector.join().unwrap() > 0,
            "the collector found nothing to do"
        );
    });
    world.collect_after(Duration::from_secs(7200));
    let blobs = world.view.content().list(&[]).unwrap();
    // Of each worker the last round's image is left, with three blobs; the shared one is one of them.
    assert_eq!(blobs.len(), 3 * 2 + 1);
    assert_eq!(world.fixture.store.walk().unwrap().count(), blobs.len());
    assert_eq!(world.collector.queue(1).unwrap().items, 0);
}

/// Writes config, a layer all workers share, and a manifest that names both; tags it and untags the one before.
fn pull(view: &View, worker: u32, round: u32) {
    let lease = LeaseId::new(format!("lease-{worker}-{round}")).unwrap();
    view.leases().create(&lease, &Labels::new()).unwrap();
    let leased = view.clone().under(lease.clone());
    let config = fetch(&leased, &format!("config {worker} {round}"), &Labels::new());
    let layer = fetch(&leased, "shared layer", &Labels::new());
    let names = labels(&[
        ("containerd.io/gc.ref.content.config", &config.to_string()),
        ("containerd.io/gc.ref.content.l.0", &layer.to_string()),
    ]);
    let manifest = fetch(&leased, &format!("manifest {worker} {round}"), &names);
    for digest in [config, layer, manifest] {
        leased
            .content()
            .open(&digest)
            .unwrap_or_else(|error| panic!("leased and lost: {error}"));
    }
    let name = |round: u32| ImageName::new(format!("img-{worker}-{round}")).unwrap();
    let target = Descriptor::new("text/plain", manifest, 7);
    view.images()
        .create(&Image::new(name(round), target, Labels::new()))
        .unwrap();
    view.leases().delete(&lease).unwrap();
    for digest in [config, layer, manifest] {
        view.content()
            .open(&digest)
            .unwrap_or_else(|error| panic!("tagged and lost: {error}"));
    }
    if round > 0 {
        view.images().delete(&name(round - 1), None).unwrap();
    }
}

fn fetch(view: &View, bytes: &str, labels: &Labels) -> Digest {
    loop {
        match write_blob(view, bytes, labels) {
            Ok(digest) => return digest,
            Err(orlop_meta::Error::AlreadyExists { .. }) => {
                // It was there, and the lease holds it from then on.
                let known = view.content().list(&[]).unwrap();
                let found = known.iter().find(|blob| {
                    let mut text = vec![0; bytes.len()];
                    // Another worker's blob may have been collected since the list was made.
                    let Ok(opened) = view.content().open(&blob.digest) else {
                        return false;
                    };
                    opened.read_at(&mut text, 0).unwrap() == bytes.len()
                        && text == bytes.as_bytes()
                        && blob.size == bytes.len() as u64
                });
                return found.expect("the lease holds it").digest;
            }
            // Another worker is writing the same bytes under the same reference.
            Err(error) if error.kind() == orlop_meta::ErrorKind::Unavailable => thread::yield_now(),
            Err(error) => panic!("{error}: {error:?}"),
        }
    }
}

#[test]
fn a_container_that_is_removed_lets_its_snapshot_go() {
    let world = World::new();
    world.snapshot("s", None, &[]);
    world.container("c", "s", &[]);
    world.collect_after(DAY * 2);
    let why = world
        .fixture
        .db
        .why(world.view.namespace(), "s", None)
        .unwrap();
    assert!(matches!(why[0].verdict, Verdict::Held(_)));
    world
        .view
        .containers()
        .delete(&ContainerId::new("c").unwrap())
        .unwrap();
    assert_eq!(world.collect().removed.snapshots, 1);
}

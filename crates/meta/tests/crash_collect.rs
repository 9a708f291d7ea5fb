//! The crash suite of collection: a child makes, leases, deletes and collects until it is killed; after the next start
//! and collection nothing that was acknowledged is missing, `fsck` finds nothing, and the disk holds what is held.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, thread};

use orlop_base::clock::{Clock, SystemClock};
use orlop_content::Expected;
use orlop_meta::fsck::{Check, FsckOptions};
use orlop_meta::gc::Collector;
use orlop_meta::{
    Backends, CommitOptions, Container, Db, Image, IngestOptions, Opened, Runtime, SnapshotOptions,
    TypedBytes, View,
};
use orlop_snapshot::{Native, Snapshotter};
use orlop_types::{
    ContainerId, Descriptor, Digest, ImageName, IngestRef, Labels, LeaseId, Namespace, SnapshotKey,
    SnapshotterName,
};

const CHILD: &str = "ORLOP_META_COLLECT_FOLDER";
const TEST: &str = "nothing_held_is_lost_and_nothing_unheld_is_left_after_a_kill";

/// How often the child is killed; `ORLOP_CRASH_ROUNDS` asks for more.
const ROUNDS: u64 = 100;

/// By how much the time until a kill is stretched at most.
const SLOWNESS_MAX: u64 = 20;

#[test]
fn nothing_held_is_lost_and_nothing_unheld_is_left_after_a_kill() {
    if let Some(folder) = env::var_os(CHILD) {
        work(Path::new(&folder));
        return;
    }
    let rounds = env::var("ORLOP_CRASH_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut known = Known::default();
    let mut total = 0;
    // On a machine so busy that nothing was done in the time, later rounds get more of it.
    let mut slowness = 1;
    for round in 0..rounds {
        let mut child = start(folder.path(), round);
        let output = child.stdout.take().unwrap();
        let killer = thread::spawn(move || {
            // Spread over the start, where the queue is worked off, and the work after it.
            let moment = 3_000 + round * 7_919 % 150_000;
            thread::sleep(Duration::from_micros(moment * slowness));
            child.kill().unwrap();
            child.wait().unwrap();
        });
        for line in BufReader::new(output).lines() {
            known.read(&line.unwrap());
        }
        killer.join().unwrap();
        let found = known.check(folder.path(), round);
        if found == 0 {
            slowness = (slowness + 1).min(SLOWNESS_MAX);
        }
        total += found;
    }
    assert!(
        total > 100,
        "the child got nowhere: {total} images were looked at"
    );
    println!("{rounds} kills: {total} images found whole, and every byte held");
}

#[allow(
    clippy::disallowed_methods,
    reason = "the child is this very test, and needs its environment"
)]
fn start(folder: &Path, round: u64) -> Child {
    std::process::Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, folder)
        .env("ORLOP_META_CRASH_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The child: two pullers and a collector, until it is killed.
fn work(folder: &Path) {
    let round: u64 = env::var("ORLOP_META_CRASH_ROUND").unwrap().parse().unwrap();
    let db = open(folder);
    db.begin_session().unwrap();
    thread::scope(|scope| {
        for worker in 0..2 {
            let view = db.namespace(&namespace());
            scope.spawn(move || {
                for step in 0.. {
                    pull(&view, &format!("{round}-{worker}-{step}"));
                    if step > 0 {
                        remove(&view, &format!("{round}-{worker}-{}", step - 1));
                    }
                }
            });
        }
        let collector = Collector::new(db.clone());
        loop {
            collector.run_once(SystemClock.wall()).unwrap();
        }
    });
}

/// A manifest with a layer, unpacked, tagged and run, all under a lease until it is.
fn pull(view: &View, name: &str) {
    let lease = LeaseId::new(format!("lease {name}")).unwrap();
    let mut labels = Labels::new();
    // A killed pull's lease is long expired when the next child starts.
    labels
        .insert("containerd.io/gc.expire", "2100-01-01T00:00:00Z")
        .unwrap();
    view.leases().create(&lease, &labels).unwrap();
    let leased = view.clone().under(lease.clone());
    let layer = write(&leased, &format!("layer {name}"), &Labels::new());
    let mut names = Labels::new();
    names
        .insert("containerd.io/gc.ref.content.l.0", layer.to_string())
        .unwrap();
    names
        .insert(
            "containerd.io/gc.ref.snapshot.native",
            format!("layer {name}"),
        )
        .unwrap();
    let snapshots = leased.snapshots(&native());
    let key = |what: &str| SnapshotKey::new(format!("{what} {name}")).unwrap();
    snapshots
        .prepare(&key("unpack"), &SnapshotOptions::default())
        .unwrap();
    snapshots
        .commit(&key("layer"), &key("unpack"), &CommitOptions::default())
        .unwrap();
    let manifest = write(&leased, &format!("manifest {name}"), &names);
    let target = Descriptor::new("text/plain", manifest, 7);
    let image = Image::new(ImageName::new(name).unwrap(), target, Labels::new());
    let options = SnapshotOptions {
        parent: Some(key("layer")),
        labels: Labels::new(),
    };
    snapshots.prepare(&key("run"), &options).unwrap();
    let runtime = Runtime {
        name: "io.containerd.runc.v2".to_owned(),
        options: None,
    };
    let spec = TypedBytes {
        type_url: "spec".to_owned(),
        value: Vec::new(),
    };
    let mut container = Container::new(
        ContainerId::new(format!("c-{name}")).unwrap(),
        runtime,
        spec,
    );
    container.snapshotter = "native".to_owned();
    container.snapshot_key = key("run").to_string();
    view.containers().create(&container).unwrap();
    view.images().create(&image).unwrap();
    say("image", name);
    view.leases().delete(&lease).unwrap();
}

fn remove(view: &View, name: &str) {
    say("removing", name);
    view.containers()
        .delete(&ContainerId::new(format!("c-{name}")).unwrap())
        .unwrap();
    view.images()
        .delete(&ImageName::new(name).unwrap(), None)
        .unwrap();
}

fn write(view: &View, text: &str, labels: &Labels) -> Digest {
    let reference = IngestRef::new(text).unwrap();
    let opened = view
        .content()
        .ingest(&reference, &IngestOptions::default())
        .unwrap();
    let Opened::Ingest(ingest) = opened else {
        panic!("nothing was expected, so nothing exists");
    };
    ingest.writer().unwrap().append(text.as_bytes()).unwrap();
    ingest.commit(Expected::default(), labels).unwrap().digest
}

fn say(what: &str, name: &str) {
    let mut output = std::io::stdout().lock();
    output
        .write_all(format!("{what} {name}\n").as_bytes())
        .unwrap();
    output.flush().unwrap();
}

#[derive(Default)]
struct Known {
    images: BTreeSet<String>,
    /// May be there or not, and may be there in part.
    removing: BTreeSet<String>,
}

impl Known {
    fn read(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("image", name)) => drop(self.images.insert(name.to_owned())),
            Some(("removing", name)) => {
                self.images.remove(name);
                self.removing.insert(name.to_owned());
            }
            _ => {}
        }
    }

    /// Opens what the killed child left, ends its leases, collects, and compares; how many images were found whole.
    fn check(&mut self, folder: &Path, round: u64) -> usize {
        let db = open(folder);
        // A child that was killed before it opened the database has left nothing to mend.
        let was_clean = db.begin_session().unwrap();
        assert!(
            !was_clean || self.images.is_empty(),
            "round {round}: the child was killed"
        );
        mend(&db, round);
        let view = db.namespace(&namespace());
        for lease in view.leases().list(&[]).unwrap() {
            view.leases().delete(&lease.id).unwrap();
        }
        let collector = Collector::new(db.clone());
        let report = collector.run_once(SystemClock.wall()).unwrap();
        assert_eq!(report.failures, [], "round {round}");
        assert_eq!(collector.queue(9).unwrap().first, [], "round {round}");
        let options = FsckOptions {
            verify_content: true,
            at_start: true,
            ..FsckOptions::default()
        };
        let summary = db
            .fsck(&options, &mut |finding| {
                panic!("round {round}: {finding:?}")
            })
            .unwrap();
        assert!(summary.is_clean());
        for name in &self.images {
            whole(&view, name, round);
        }
        let (images, bytes) = held(&view);
        for name in &images {
            assert!(
                self.images.contains(name) || self.removing.contains(name) || is_late(name, round),
                "round {round}: {name}"
            );
        }
        check_disk(&db, &bytes, round);
        // What was being removed may have lost its container, and with it the container's snapshot: nothing says any more
        // that it is whole.
        self.images = images.difference(&self.removing).cloned().collect();
        images.len()
    }
}

/// What the daemon does after an unclean stop. Only work cut short may be found: nothing that was acknowledged.
fn mend(db: &Db, round: u64) {
    let options = FsckOptions {
        repair: true,
        at_start: true,
        ..FsckOptions::default()
    };
    let summary = db
        .fsck(&options, &mut |finding| {
            let cut_short = [
                Check::BlobUnknown,
                Check::IngestMissing,
                Check::SnapshotUnknown,
                Check::SnapshotHalfCommitted,
                Check::SweepGone,
            ];
            assert!(
                cut_short.contains(&finding.check),
                "round {round}: {finding:?}"
            );
        })
        .unwrap();
    assert!(summary.is_clean(), "round {round}: {summary:?}");
}

/// An image or removal that happened and could not be told any more.
fn is_late(name: &str, round: u64) -> bool {
    name.starts_with(&format!("{round}-"))
}

/// An acknowledged image has its manifest, layer, snapshots and container.
fn whole(view: &View, name: &str, round: u64) {
    let missing = |error: orlop_meta::Error| -> ! { panic!("round {round}: {name}: {error}") };
    let image = view
        .images()
        .find(&ImageName::new(name).unwrap())
        .unwrap_or_else(|error| missing(error));
    let manifest = view
        .content()
        .info(&image.target.digest)
        .unwrap_or_else(|error| missing(error));
    let layer = manifest
        .labels
        .value("containerd.io/gc.ref.content.l.0")
        .unwrap();
    let opened = view.content().open(&layer.parse().unwrap());
    drop(opened.unwrap_or_else(|error| missing(error)));
    let snapshots = view.snapshots(&native());
    for what in ["layer", "run"] {
        let key = SnapshotKey::new(format!("{what} {name}")).unwrap();
        snapshots
            .mounts(&key)
            .unwrap_or_else(|error| missing(error));
    }
}

/// What the records hold: images, and the digests and folders that must be on disk.
fn held(view: &View) -> (BTreeSet<String>, (BTreeSet<Digest>, BTreeSet<u64>)) {
    let images = view.images().list(&[]).unwrap();
    let images = images.iter().map(|image| image.name.to_string()).collect();
    let blobs = view.content().list(&[]).unwrap();
    let snapshots = view.snapshots(&native()).list(&[]).unwrap();
    let digests = blobs.iter().map(|blob| blob.digest).collect();
    let numbers = snapshots
        .iter()
        .map(|snapshot| snapshot.number.value())
        .collect();
    (images, (digests, numbers))
}

fn check_disk(db: &Db, (digests, numbers): &(BTreeSet<Digest>, BTreeSet<u64>), round: u64) {
    let store = db.backends().content.as_ref().unwrap();
    let files: BTreeSet<Digest> = store
        .walk()
        .unwrap()
        .map(|info| info.unwrap().digest)
        .collect();
    assert_eq!(&files, digests, "round {round}: blobs");
    assert!(
        store.statuses().unwrap().is_empty(),
        "round {round}: ingests"
    );
    let backend = &db.backends().snapshotters[&native()];
    let folders: BTreeSet<u64> = backend
        .walk()
        .unwrap()
        .map(|found| found.unwrap().number.value())
        .collect();
    assert_eq!(&folders, numbers, "round {round}: folders");
    let left = backend.cleanup(1).unwrap();
    assert_eq!(
        (left.folders, left.more),
        (0, false),
        "round {round}: put aside and left"
    );
}

fn open(folder: &Path) -> Db {
    let store = orlop_content::Store::open(&folder.join("content")).unwrap();
    let backend = Native::open(&folder.join("native")).unwrap();
    let backends = Backends {
        content: Some(Arc::new(store)),
        snapshotters: BTreeMap::from([(native(), Arc::new(backend) as Arc<dyn Snapshotter>)]),
        mounts: None,
    };
    Db::open(&folder.join("meta.db"), SystemClock::shared(), backends).unwrap()
}

fn namespace() -> Namespace {
    Namespace::new("crash").unwrap()
}

fn native() -> SnapshotterName {
    SnapshotterName::new("native").unwrap()
}

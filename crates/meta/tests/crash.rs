//! The crash suite: a child process works and is killed; nothing it was told is done may be missing.
//!
//! The child is this test binary itself, told by a variable what to do. It prints a line after each acknowledged
//! operation; the parent reads the lines, kills it at some point, opens the database and compares.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, thread};

use orlop_base::clock::SystemClock;
use orlop_content::Expected;
use orlop_meta::{
    Backends, CommitOptions, Db, Event, Image, IngestOptions, Opened, SnapshotOptions, View,
};
use orlop_snapshot::{Kind, Native, Snapshotter};
use orlop_types::{
    Descriptor, Digest, ImageName, IngestRef, Labels, LeaseId, Namespace, SnapshotKey,
    SnapshotterName,
};

const CHILD: &str = "ORLOP_META_CRASH_FOLDER";

/// How often the child is killed; `ORLOP_CRASH_ROUNDS` asks for more.
const ROUNDS: u64 = 200;

/// What the database must hold, by what the child was told.
#[derive(Default)]
struct Expectation {
    images: BTreeSet<String>,
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
    /// Announced, and not acknowledged when the child died: may have happened or not.
    open: BTreeSet<String>,
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    if let Some(folder) = env::var_os(CHILD) {
        work(Path::new(&folder));
        return;
    }
    let rounds = env::var("ORLOP_CRASH_ROUNDS");
    let rounds = rounds.map_or(ROUNDS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Expectation::default();
    for round in 0..rounds {
        let mut child = start(folder.path(), round);
        let pid = child.id();
        let output = child.stdout.take().unwrap();
        let mut lines = BufReader::new(output).lines().map(Result::unwrap);
        // So many lines first, that a slow machine gets as far as a fast one; then a moment more.
        let acknowledged = usize::try_from(round % 12).unwrap();
        let mut seen = 0;
        while seen < acknowledged {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("round {round}: the child ended by itself"));
            seen += usize::from(expected.read(&line));
        }
        thread::sleep(Duration::from_micros(round * 7_919 % 20_000));
        child.kill().unwrap();
        for line in lines {
            expected.read(&line);
        }
        assert_eq!(child.wait().unwrap().signal(), Some(9), "round {round}");
        expected.check(folder.path(), &format!("round {round}, process {pid}"));
    }
    let (blobs, layers) = (expected.blobs.len(), expected.layers.len());
    assert!(
        blobs > 50 && layers > 50,
        "the child got nowhere: {blobs} blobs, {layers} layers"
    );
    println!("{rounds} kills: {blobs} blobs and {layers} layers acknowledged, none lost");
}

#[allow(
    clippy::disallowed_methods,
    reason = "the child is this very test, and needs its environment"
)]
fn start(folder: &Path, round: u64) -> Child {
    std::process::Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "nothing_acknowledged_is_lost_when_the_process_is_killed",
            "--nocapture",
        ])
        .env(CHILD, folder)
        .env("ORLOP_META_CRASH_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The child: pulls, tags, untags and unpacks on three threads until it is killed.
fn work(folder: &Path) {
    let round: u64 = env::var("ORLOP_META_CRASH_ROUND").unwrap().parse().unwrap();
    let db = open(folder);
    thread::scope(|scope| {
        for worker in 0..3 {
            let view = db.namespace(&namespace());
            scope.spawn(move || {
                for step in 0.. {
                    let name = format!("{round}-{worker}-{step}");
                    // One pulls, one unpacks, one does both: every kill may hit either.
                    if worker != 0 {
                        unpack(&view, &name);
                    }
                    if worker != 1 {
                        pull(&view, &name);
                    }
                }
            });
        }
    });
}

/// A blob and its image under a lease, as a pull makes them; of three images two are removed again.
fn pull(view: &View, name: &str) {
    let lease = LeaseId::new(format!("lease-{name}")).unwrap();
    view.leases().create(&lease, &Labels::new()).unwrap();
    let leased = view.clone().under(lease.clone());
    let options = IngestOptions::default();
    let reference = IngestRef::new(name).unwrap();
    let Opened::Ingest(ingest) = leased.content().ingest(&reference, &options).unwrap() else {
        panic!("nothing was expected, so nothing exists");
    };
    ingest.writer().unwrap().append(name.as_bytes()).unwrap();
    let blob = ingest.commit(Expected::default(), &Labels::new()).unwrap();
    say("blob", &blob.digest.to_string());
    let target = Descriptor::new("text/plain", blob.digest, blob.size);
    let image = Image::new(ImageName::new(name).unwrap(), target, Labels::new());
    say("trying", name);
    leased.images().create(&image).unwrap();
    say("image", name);
    view.leases().delete(&lease).unwrap();
    if name.bytes().map(u32::from).sum::<u32>() % 3 != 0 {
        say("trying", name);
        view.images().delete(&image.name, None).unwrap();
        say("gone", name);
    }
}

/// Two layers prepared side by side, the second put on the first when it is committed; then a container's snapshot.
fn unpack(view: &View, name: &str) {
    let lease = LeaseId::new(format!("unpack-{name}")).unwrap();
    view.leases().create(&lease, &Labels::new()).unwrap();
    let leased = view.clone().under(lease.clone());
    let snapshots = leased.snapshots(&native());
    let key = |what: &str| SnapshotKey::new(format!("{what} {name}")).unwrap();
    for what in ["extract-1", "extract-2"] {
        snapshots
            .prepare(&key(what), &SnapshotOptions::default())
            .unwrap();
    }
    snapshots
        .commit(&key("one"), &key("extract-1"), &CommitOptions::default())
        .unwrap();
    say("layer", key("one").as_str());
    let rebase = CommitOptions {
        parent: Some(key("one")),
        labels: Labels::new(),
    };
    snapshots
        .commit(&key("two"), &key("extract-2"), &rebase)
        .unwrap();
    say("layer", key("two").as_str());
    let on_top = SnapshotOptions {
        parent: Some(key("two")),
        labels: Labels::new(),
    };
    snapshots.prepare(&key("run"), &on_top).unwrap();
    snapshots.remove(&key("run")).unwrap();
    view.leases().delete(&lease).unwrap();
}

fn say(what: &str, name: &str) {
    let mut output = std::io::stdout().lock();
    // A whole line in one write: what the parent reads was said as a whole.
    output
        .write_all(format!("{what} {name}\n").as_bytes())
        .unwrap();
    output.flush().unwrap();
}

impl Expectation {
    /// Learns from a line of the child; whether it was one of ours and not the test harness's.
    fn read(&mut self, line: &str) -> bool {
        let Some((what, name)) = line.split_once(' ') else {
            return false;
        };
        let name = name.to_owned();
        match what {
            "blob" => drop(self.blobs.insert(name)),
            "layer" => drop(self.layers.insert(name)),
            "trying" => drop(self.open.insert(name)),
            "image" => {
                self.open.remove(&name);
                self.images.insert(name);
            }
            "gone" => {
                self.open.remove(&name);
                self.images.remove(&name);
            }
            _ => return false,
        }
        true
    }

    fn check(&mut self, folder: &Path, context: &str) {
        let db = open(folder);
        let view = db.namespace(&namespace());
        let found: BTreeSet<String> = view
            .images()
            .list(&[])
            .unwrap()
            .into_iter()
            .map(|image| image.name.to_string())
            .collect();
        for name in found.symmetric_difference(&self.images) {
            assert!(self.open.contains(name), "{context}: image {name}");
        }
        self.images.clone_from(&found);
        self.open.clear();
        for digest in &self.blobs {
            let digest: Digest = digest.parse().unwrap();
            view.content()
                .info(&digest)
                .unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        // Every row has its bytes, also those that were committed and not yet acknowledged.
        for blob in view.content().list(&[]).unwrap() {
            let stored = view.content().open(&blob.digest).unwrap();
            assert_eq!(stored.size_bytes(), blob.size, "{context}");
        }
        self.check_snapshots(&view, context);
        check_events(&db, &found, context);
        check_rows(folder, context);
        drop((view, db));
    }
}

impl Expectation {
    /// Every acknowledged layer is committed, and each snapshot has its folder. A folder without a row is queued for the
    /// sweep.
    fn check_snapshots(&self, view: &View, context: &str) {
        let snapshots = view.snapshots(&native());
        let listed = snapshots.list(&[]).unwrap();
        let rows: BTreeMap<_, _> = listed.iter().map(|row| (row.number, row)).collect();
        let committed: BTreeSet<&str> = listed
            .iter()
            .filter(|row| row.kind == Kind::Committed)
            .map(|row| row.key.as_str())
            .collect();
        for layer in &self.layers {
            assert!(
                committed.contains(layer.as_str()),
                "{context}: layer {layer}"
            );
        }
        let connection = rusqlite::Connection::open(view.db().path()).unwrap();
        let backend = &view.db().backends().snapshotters[&native()];
        let mut folders = BTreeMap::new();
        for found in backend.walk().unwrap() {
            let found = found.unwrap();
            folders.insert(found.number, found.kind);
            let queued = connection
                .prepare_cached("SELECT 1 FROM sweeps WHERE kind = 3 AND key = ?1")
                .unwrap()
                .exists([found.number.to_string()])
                .unwrap();
            let known = rows.contains_key(&found.number);
            assert!(
                known || queued,
                "{context}: folder {} is nobody's",
                found.number
            );
        }
        for row in rows.values() {
            let folder = folders.get(&row.number);
            // The disk may be ahead by a commit that was not acknowledged, never behind.
            let fits = folder.is_some_and(|kind| *kind == row.kind || *kind == Kind::Committed);
            assert!(fits, "{context}: {row:?} is {folder:?} on disk");
        }
    }
}

/// Replaying the outbox gives the images there are, and its sequences have no holes.
fn check_events(db: &Db, images: &BTreeSet<String>, context: &str) {
    let mut replayed = BTreeSet::new();
    let mut after = 0;
    loop {
        let page = db.events_since(after, 1000).unwrap();
        if page.missed > 0 {
            // Trimmed: what is left cannot give all images.
            return;
        }
        if page.events.is_empty() {
            break;
        }
        for event in page.events {
            assert_eq!(event.sequence, after + 1, "{context}: a hole in the outbox");
            after = event.sequence;
            if let Event::ImageCreate { name, .. } = &event.event {
                replayed.insert(name.to_string());
            }
            if let Event::ImageDelete { name } = &event.event {
                replayed.remove(name.as_str());
            }
        }
    }
    assert_eq!(&replayed, images, "{context}: events and records disagree");
}

/// No half records: every live node has its row and every row its live node; SQLite finds nothing wrong either.
fn check_rows(folder: &Path, context: &str) {
    let connection = rusqlite::Connection::open(folder.join("meta.db")).unwrap();
    for (kind, table) in [
        (1, "content"),
        (2, "snapshots"),
        (4, "images"),
        (5, "leases"),
        (6, "ingests"),
    ] {
        let sql = format!(
            "SELECT (SELECT count(*) FROM nodes WHERE kind = {kind} AND live = 1 AND id NOT IN (SELECT id FROM {table}))
                  + (SELECT count(*) FROM {table} WHERE id NOT IN (SELECT id FROM nodes WHERE kind = {kind} AND live = 1))"
        );
        let half: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(half, 0, "{context}: half records in {table}");
    }
    let check = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, String>(0))
            .unwrap()
    };
    assert_eq!(check("PRAGMA quick_check"), "ok", "{context}");
    let strangers = connection
        .prepare("PRAGMA foreign_key_check")
        .unwrap()
        .exists([])
        .unwrap();
    assert!(!strangers, "{context}: a reference to nothing");
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

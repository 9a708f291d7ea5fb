//! Prints what collection costs at the size of a large node: run it with `--release` when that changes.
//!
//! `cargo run --release -p orlop-meta --example collect [FOLDER]`

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement by hand: its output is the point, and it may read clocks"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use orlop_base::clock::{Clock, SystemClock};
use orlop_meta::gc::Collector;
use orlop_meta::{Backends, CommitOptions, Db, SnapshotOptions};
use orlop_snapshot::{Overlayfs, Snapshotter};
use orlop_types::{Digest, Labels, LeaseId, Namespace, SnapshotKey, SnapshotterName};

const IMAGES: u32 = 10_000;
const BLOBS: u32 = 100_000;
const SNAPSHOTS: u32 = 500;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("orlop-collect-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured =
        snapshots(&folder.join("snapshots")).and_then(|()| marking(&folder.join("mark")));
    std::fs::remove_dir_all(&folder)?;
    measured
}

/// Ten thousand images of ten blobs each: read, marked, then a twentieth of them collected while another writes.
fn marking(folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("meta.db");
    let db = Db::open(&path, SystemClock::shared(), Backends::default())?;
    let view = db.namespace(&namespace());
    view.leases()
        .create(&LeaseId::new("first")?, &Labels::new())?;
    fill(&path)?;
    let collector = Collector::new(db.clone());
    for _ in 0..3 {
        let report = collector.run_once(SystemClock.wall())?;
        println!(
            "{} nodes, {} references: read in {:.1?}, marked in {:.1?}, all in {:.1?}",
            report.nodes, report.references, report.load_time, report.mark_time, report.took
        );
    }
    let connection = rusqlite::Connection::open(&path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute(
        "UPDATE nodes SET expires_at = 1 WHERE kind = 4 AND id % 20 = 0",
        [],
    )?;
    drop(connection);
    let start = Instant::now();
    let (waits, report) = beside(&db, || collector.run_once(SystemClock.wall()));
    let report = report?;
    println!(
        "{} records removed in {:.1?}; longest transaction {:.2?}",
        report.removed.total(),
        start.elapsed(),
        report.longest_pause
    );
    told("a writer beside it", waits);
    let (waits, _) = beside(&db, || thread::sleep(Duration::from_millis(500)));
    told("a writer alone", waits);
    Ok(())
}

/// Five hundred committed snapshots, as a removed image leaves them.
fn snapshots(folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder)?;
    let backend: Arc<dyn Snapshotter> = Arc::new(Overlayfs::open(&folder.join("overlayfs"), &[])?);
    let name = SnapshotterName::new("overlayfs")?;
    let backends = Backends {
        content: None,
        snapshotters: BTreeMap::from([(name.clone(), backend)]),
        mounts: None,
    };
    let db = Db::open(&folder.join("meta.db"), SystemClock::shared(), backends)?;
    let collector = Collector::new(db.clone());
    db.namespace(&namespace())
        .leases()
        .create(&LeaseId::new("first")?, &Labels::new())?;
    for round in 0..5 {
        let lease = LeaseId::new(format!("lease-{round}"))?;
        let view = db.namespace(&namespace());
        view.leases().create(&lease, &Labels::new())?;
        let leased = view.clone().under(lease.clone());
        let layers = leased.snapshots(&name);
        for number in 0..SNAPSHOTS {
            let (active, key) = (
                format!("active {number}"),
                format!("layer {round} {number}"),
            );
            let (active, key) = (SnapshotKey::new(active)?, SnapshotKey::new(key)?);
            layers.prepare(&active, &SnapshotOptions::default())?;
            let root = layers.apply_target(&active)?.root;
            for file in 0..4 {
                std::fs::write(root.join(file.to_string()), b"a layer has files")?;
            }
            layers.commit(&key, &active, &CommitOptions::default())?;
        }
        view.leases().delete(&lease)?;
        let job = || collector.run_once(SystemClock.wall());
        let (waits, report) = if round < 3 {
            (Vec::new(), job())
        } else {
            beside(&db, job)
        };
        let report = report?;
        println!(
            "{} snapshots collected in {:.1?}; read {:.1?}, marked {:.1?}, longest transaction {:.2?}",
            report.swept.snapshots,
            report.took,
            report.load_time,
            report.mark_time,
            report.longest_pause
        );
        if !waits.is_empty() {
            told("a writer beside it", waits);
        }
    }
    Ok(())
}

/// Runs `job` while another thread commits leases as fast as it can; how long each commit took.
fn beside<T: Send>(db: &Db, job: impl FnOnce() -> T + Send) -> (Vec<Duration>, T) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let view = db.namespace(&namespace());
            let lease = LeaseId::new("first").expect("it is a valid id");
            let mut waits = Vec::new();
            while !done.load(Ordering::SeqCst) {
                let start = Instant::now();
                view.leases().delete(&lease).expect("the disk works");
                waits.push(start.elapsed());
                let start = Instant::now();
                view.leases()
                    .create(&lease, &Labels::new())
                    .expect("the disk works");
                waits.push(start.elapsed());
            }
            waits
        });
        let value = job();
        done.store(true, Ordering::SeqCst);
        (writer.join().expect("it does not panic"), value)
    })
}

fn told(who: &str, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let at = |share: usize| waits[(waits.len() - 1) * share / 100];
    println!(
        "  {who}: {} commits, median {:.2?}, 99 % {:.2?}, longest {:.2?}",
        waits.len(),
        at(50),
        at(99),
        at(100)
    );
}

/// Fills the file past the API: a hundred thousand fsyncs would say nothing about marking.
fn fill(path: &Path) -> Outcome {
    let connection = rusqlite::Connection::open(path)?;
    connection.execute_batch("BEGIN")?;
    let mut node = connection.prepare(
        "INSERT INTO nodes (namespace, kind, scope, key, live, root) VALUES (1, ?1, '', ?2, 1, ?3)",
    )?;
    let mut blob = connection.prepare("INSERT INTO content VALUES (?1, 12345, 'application/vnd.oci.image.layer.v1.tar+gzip', '{}', 1, 1)")?;
    let mut row = connection.prepare("INSERT INTO images VALUES (?1, ?2, 'application/vnd.oci.image.index.v1+json', 9218, '{}', '{}', 1, 1)")?;
    let mut edge = connection.prepare(
        "INSERT INTO refs (source, target, owner, kind, via) VALUES (?1, ?2, ?1, ?3, ?4)",
    )?;
    let mut manifests = Vec::new();
    let mut manifest = 0;
    for number in 0..BLOBS {
        let id = node.insert((1, digest(number).to_string(), 0))?;
        blob.execute([id])?;
        if number % 10 == 0 {
            manifest = id;
            manifests.push(id);
        } else {
            edge.execute((manifest, id, 2, "containerd.io/gc.ref.content.l.0"))?;
        }
    }
    for (number, manifest) in (0..IMAGES).zip(manifests) {
        let id = node.insert((4, format!("docker.io/library/image-{number}:latest"), 1))?;
        row.execute((id, digest(number * 10).to_string()))?;
        edge.execute((id, manifest, 1, None::<&str>))?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}

fn namespace() -> Namespace {
    Namespace::new("k8s.io").expect("it is a valid name")
}

fn digest(seed: u32) -> Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.wrapping_mul(2_654_435_761).to_be_bytes());
    Digest::sha256(bytes)
}

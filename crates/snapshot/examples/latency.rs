//! Measures one backend in a folder of your choice and prints one `value NAME VALUE UNIT` per line.
//!
//! `cargo run --release -p orlop-snapshot --example latency -- overlayfs /var/tmp/latency`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: its output is its purpose, and a failure ends it"
)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use orlop_snapshot::{Kind, Native, Overlayfs, SnapshotNumber, Snapshotter};

const SNAPSHOTS: u64 = 500;
const SMALL_FILES: u64 = 5_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(root)) = (arguments.next(), arguments.next()) else {
        println!("usage: latency overlayfs|native FOLDER");
        return;
    };
    let root = Path::new(&root);
    let backend: Box<dyn Snapshotter> = match name.as_str() {
        "native" => Box::new(Native::open(root).unwrap()),
        _ => Box::new(Overlayfs::open(root, &[]).unwrap()),
    };
    measure_commit(backend.as_ref(), &name);
    measure_many(backend.as_ref(), &name);
}

fn fill(root: &Path, files: u64, bytes: usize) {
    for file in 0..files {
        File::create(root.join(file.to_string()))
            .unwrap()
            .write_all(&vec![7; bytes])
            .unwrap();
    }
}

/// One layer of many small files: commit's sync against a sync of every file.
fn measure_commit(backend: &dyn Snapshotter, name: &str) {
    let [first, second] = [1, 2].map(SnapshotNumber::new);
    for number in [first, second] {
        backend.prepare(number, &[]).unwrap();
    }
    fill(
        &backend.apply_target(first, &[]).unwrap().root,
        SMALL_FILES,
        4096,
    );
    let (_, time) = timed(|| backend.commit(first).unwrap());
    print(name, "commit_5000_files_syncfs", time);
    let root = backend.apply_target(second, &[]).unwrap().root;
    fill(&root, SMALL_FILES, 4096);
    let ((), time) = timed(|| {
        for entry in root.read_dir().unwrap() {
            File::open(entry.unwrap().path())
                .unwrap()
                .sync_all()
                .unwrap();
        }
        File::open(&root).unwrap().sync_all().unwrap();
    });
    print(name, "sync_5000_files_fsync", time);
    backend.remove_many(&[first, second]);
    while backend.cleanup(10).unwrap().more {}
}

fn measure_many(backend: &dyn Snapshotter, name: &str) {
    let base = SnapshotNumber::new(3);
    backend.prepare(base, &[]).unwrap();
    fill(&backend.apply_target(base, &[]).unwrap().root, 10, 100);
    backend.commit(base).unwrap();
    let numbers: Vec<_> = (10..10 + SNAPSHOTS).map(SnapshotNumber::new).collect();
    let ((), time) = timed(|| {
        for &number in &numbers {
            backend.prepare(number, &[base]).unwrap();
            backend.mounts(number, Kind::Active, &[base]).unwrap();
        }
    });
    print(
        name,
        "prepare_and_mounts_each",
        time / u32::try_from(SNAPSHOTS).unwrap(),
    );
    let (failures, time) = timed(|| backend.remove_many(&numbers));
    assert!(failures.is_empty());
    print(name, "remove_500", time);
    let ((), time) = timed(|| while backend.cleanup(64).unwrap().more {});
    print(name, "cleanup_500", time);
    let one = SnapshotNumber::new(9);
    backend.prepare(one, &[base]).unwrap();
    let ((), time) = timed(|| backend.remove(one).unwrap());
    print(name, "remove_one", time);
    backend.remove(base).unwrap();
    while backend.cleanup(64).unwrap().more {}
}

fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = action();
    (result, start.elapsed())
}

fn print(backend: &str, name: &str, time: Duration) {
    println!(
        "value snapshot_{backend}_{name} {:.3} ms",
        time.as_secs_f64() * 1e3
    );
}

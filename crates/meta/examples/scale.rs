//! Prints what the database costs at the size of a large node: run it with `--release` when that changes.
//!
//! `cargo run --release -p orlop-meta --example scale [FOLDER]`

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement by hand: its output is the point, and it may read clocks"
)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use orlop_base::clock::SystemClock;
use orlop_meta::{Backends, Db, Image};
use orlop_types::{Descriptor, Digest, ImageName, Labels, Namespace};

const IMAGES: u32 = 10_000;
const BLOBS: u32 = 100_000;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("orlop-scale-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measure(&folder.join("meta.db"));
    for name in ["meta.db", "meta.db-wal", "meta.db-shm", "meta.db.lock"] {
        std::fs::remove_file(folder.join(name)).ok();
    }
    std::fs::remove_dir(&folder)?;
    measured
}

fn measure(path: &Path) -> Outcome {
    let db = Db::open(path, SystemClock::shared(), Backends::default())?;
    println!("memory of an open, empty database: {} KiB", resident_kib()?);
    commits(&db)?;
    fill(path)?;
    println!("file: {} MiB", std::fs::metadata(path)?.len() >> 20);
    lists(&db)?;
    println!("memory after lists: {} KiB", resident_kib()?);
    db.shrink();
    println!("memory after giving caches back: {} KiB", resident_kib()?);
    Ok(())
}

/// What one durable commit costs, alone and shared.
fn commits(db: &Db) -> Outcome {
    for writers in [1_u32, 2, 8, 32] {
        let each = 100;
        let start = Instant::now();
        thread::scope(|scope| {
            for writer in 0..writers {
                let view = db.namespace(&namespace());
                scope.spawn(move || {
                    for number in 0..each {
                        let name = format!("w{writers}/{writer}/{number}");
                        view.images()
                            .create(&image(&name, BLOBS + number))
                            .expect("the disk works");
                    }
                });
            }
        });
        let rate = f64::from(writers * each) / start.elapsed().as_secs_f64();
        println!("{writers} writers: {rate:.0} durable commits a second");
    }
    Ok(())
}

/// Fills the file past the API: a hundred thousand fsyncs would say nothing about lists.
fn fill(path: &Path) -> Outcome {
    let connection = rusqlite::Connection::open(path)?;
    connection.execute_batch("BEGIN")?;
    let mut node = connection.prepare(
        "INSERT INTO nodes (namespace, kind, scope, key, live) VALUES (1, ?1, '', ?2, 1)",
    )?;
    let mut blob = connection.prepare("INSERT INTO content VALUES (?1, 12345, 'application/vnd.oci.image.layer.v1.tar+gzip', ?2, 1, 1)")?;
    let mut row = connection.prepare("INSERT INTO images VALUES (?1, ?2, 'application/vnd.oci.image.index.v1+json', 9218, '{}', '{}', 1, 1)")?;
    let mut edge = connection.prepare(
        "INSERT INTO refs (source, target, owner, kind, via) VALUES (?1, ?2, ?1, ?3, ?4)",
    )?;
    let labels = r#"{"containerd.io/distribution.source.docker.io":"library/alpine","containerd.io/uncompressed":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#;
    let mut first = 0;
    for number in 0..BLOBS {
        let id = node.insert((1, digest(number).to_string()))?;
        first = if number == 0 { id } else { first };
        blob.execute((id, labels))?;
        if number % 10 != 0 {
            let manifest = id - i64::from(number % 10);
            edge.execute((manifest, id, 2, "containerd.io/gc.ref.content.l.0"))?;
        }
    }
    for number in 0..IMAGES {
        let id = node.insert((4, format!("docker.io/library/image-{number}:latest")))?;
        row.execute((id, digest(number * 10).to_string()))?;
        edge.execute((id, first + i64::from(number) * 10, 1, None::<&str>))?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}

fn lists(db: &Db) -> Outcome {
    let view = db.namespace(&namespace());
    for round in ["first", "second"] {
        let (images, took) = timed(|| view.images().list(&[]))?;
        println!(
            "{round}: {} images listed in {} ms",
            images.len(),
            took.as_millis()
        );
        let mut count = 0;
        let ((), took) = timed(|| {
            view.content().walk(&[], |_| {
                count += 1;
                Ok(())
            })
        })?;
        println!("{round}: {count} blobs walked in {} ms", took.as_millis());
        let filter = ["labels.\"containerd.io/uncompressed\"~=^sha512".to_owned()];
        let (found, took) = timed(|| view.content().list(&filter))?;
        println!(
            "{round}: {count} blobs filtered to {} in {} ms",
            found.len(),
            took.as_millis()
        );
    }
    Ok(())
}

fn timed<T, E>(job: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let start = Instant::now();
    let value = job()?;
    Ok((value, start.elapsed()))
}

fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or("no Pss in smaps_rollup")?.parse()?)
}

fn namespace() -> Namespace {
    Namespace::new("k8s.io").expect("it is a valid name")
}

fn image(name: &str, seed: u32) -> Image {
    let name = ImageName::new(name).expect("it is a valid name");
    let target = Descriptor::new(
        "application/vnd.oci.image.index.v1+json",
        digest(seed),
        9218,
    );
    Image::new(name, target, Labels::new())
}

fn digest(seed: u32) -> Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.wrapping_mul(2_654_435_761).to_be_bytes());
    Digest::sha256(bytes)
}

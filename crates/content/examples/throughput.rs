//! Measures ingesting by hand: `cargo run --release -p orlop-content --example throughput -- FOLDER [MIB]`.
//!
//! Prints MB/s of hashing alone, and of an ingest with its commit: in order, by four threads in ranges, and with
//! the ranges from the end so that all of the hashing is left to the commit. Peak memory (`VmHWM`) comes last.
#![allow(clippy::print_stdout, reason = "a tool for a person")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use orlop_content::{Expected, Hasher, Ingest, Options, Store};
use orlop_types::{Algorithm, IngestRef};

const CHUNK_BYTES: usize = 1024 * 1024;
const THREADS: u64 = 4;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().context("which folder?")?);
    let chunks = arguments
        .next()
        .map_or(Ok(512), |text| text.parse::<u64>())?;
    let chunk: Vec<u8> = (0..CHUNK_BYTES)
        .map(|n| n.to_le_bytes()[0] ^ 0x5a)
        .collect();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let started = Instant::now();
    (0..chunks).for_each(|_| hasher.update(&chunk));
    report("sha256 alone", chunks, started.elapsed());
    let digest = hasher.finish();
    let expected = Expected::exactly(chunks * CHUNK_BYTES as u64, digest);
    for checkpoint_bytes in [Options::default().checkpoint_bytes, u64::MAX] {
        let options = Options {
            checkpoint_bytes,
            ..Options::default()
        };
        println!("checkpoint every {checkpoint_bytes} bytes");
        measure(&folder, options, expected, "in order", chunks, |ingest| {
            (0..chunks).try_for_each(|_| ingest.append(&chunk).map(drop))
        })?;
        measure(&folder, options, expected, "4 threads", chunks, |ingest| {
            parallel(ingest, &chunk, chunks)
        })?;
        measure(&folder, options, expected, "backwards", chunks, |ingest| {
            (0..chunks)
                .rev()
                .try_for_each(|n| ingest.write_at(n * CHUNK_BYTES as u64, &chunk))
        })?;
    }
    print_peak()
}

fn parallel(ingest: &Ingest, chunk: &[u8], chunks: u64) -> Result<(), orlop_content::ContentError> {
    std::thread::scope(|scope| {
        let write = |thread: u64| {
            (0..chunks)
                .filter(|n| n % THREADS == thread)
                .try_for_each(|n| ingest.write_at(n * CHUNK_BYTES as u64, chunk))
        };
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || write(thread)))
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })
}

fn measure(
    folder: &Path,
    options: Options,
    expected: Expected,
    name: &str,
    chunks: u64,
    write: impl FnOnce(&Ingest) -> Result<(), orlop_content::ContentError>,
) -> anyhow::Result<()> {
    let store = Store::open_with(folder, options)?;
    let ingest = store.ingest(&IngestRef::new("throughput")?, expected)?;
    let started = Instant::now();
    write(&ingest)?;
    let written = started.elapsed();
    let committed = ingest.commit(Expected::default())?;
    report(&format!("{name}, write"), chunks, written);
    report(&format!("{name}, with commit"), chunks, started.elapsed());
    store.remove(&committed.digest)?;
    Ok(())
}

fn report(name: &str, chunks: u64, took: Duration) {
    let megabytes = u32::try_from(chunks * CHUNK_BYTES as u64 / 1_000_000).unwrap_or(u32::MAX);
    println!(
        "{name:24} {:7.0} MB/s",
        f64::from(megabytes) / took.as_secs_f64()
    );
}

fn print_peak() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("{}", peak.unwrap_or("VmHWM unknown"));
    Ok(())
}

//! A writer that is killed, and what must hold afterwards. Shared by the crash and the power-cut suites.
#![allow(
    clippy::disallowed_methods,
    reason = "the suite starts itself as its victim, and mounts by the programs an administrator uses"
)]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use orlop_content::{Expected, ExtentMap, Hasher, Options, Store};
use orlop_types::{Algorithm, Digest, IngestRef};

const ROOT_VARIABLE: &str = "ORLOP_CRASH_ROOT";
const FIRST_VARIABLE: &str = "ORLOP_CRASH_FIRST";
const BLOB_BYTES_MAX: u64 = 200_000;

/// Small, so that many checkpoints happen before the kill.
const CHECKPOINT_BYTES: u64 = 20_000;

/// A sequence that needs no crate and can be repeated (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Blob number `number`: anyone can make it again from its number.
pub(crate) fn blob_bytes(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let length = usize::try_from(random.below(BLOB_BYTES_MAX)).unwrap();
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    hasher.finish()
}

fn reference(number: u64) -> IngestRef {
    IngestRef::new(format!("crash/{number}")).unwrap()
}

fn number_of(reference: &IngestRef) -> u64 {
    reference
        .as_str()
        .strip_prefix("crash/")
        .unwrap()
        .parse()
        .unwrap()
}

/// If this process is the victim, writes blobs until it is killed.
pub(crate) fn be_the_victim_if_asked() {
    let (Ok(root), Ok(first)) = (std::env::var(ROOT_VARIABLE), std::env::var(FIRST_VARIABLE))
    else {
        return;
    };
    let options = Options {
        checkpoint_bytes: CHECKPOINT_BYTES,
        ..Options::default()
    };
    let store = Store::open_with(Path::new(&root), options).unwrap();
    for number in first.parse::<u64>().unwrap().. {
        write_one(&store, number);
    }
}

/// Writes blob `number` by two threads; commits most, closes some half-way, aborts a few.
fn write_one(store: &Store, number: u64) {
    let bytes = blob_bytes(number);
    let expected = Expected::exactly(bytes.len() as u64, digest_of(&bytes));
    let ingest = store.ingest(&reference(number), expected).unwrap();
    let fate = Random::new(number ^ 0xfa7e).below(10);
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (ingest, bytes) = (&ingest, &bytes);
            scope.spawn(move || {
                let stops_early = fate < 3 && half == 1;
                for (index, chunk) in bytes.chunks(7919).enumerate() {
                    if index % 2 == half && !(stops_early && index > 5) {
                        ingest.write_at(index as u64 * 7919, chunk).unwrap();
                    }
                }
            });
        }
    });
    match (fate, ingest.missing().is_empty()) {
        (0, _) => ingest.abort().unwrap(),
        (_, false) => ingest.close().unwrap(),
        (_, true) => {
            ingest.commit(Expected::default()).unwrap();
            say(&format!("ack {number}"));
        }
    }
}

/// Writes past libtest's capture, in one call, so that a kill cannot cut a line.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Kills the victim however the test ends.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts the test `name` as victim on `root`, kills it -9 after `lifetime` beyond its first acknowledgement, and
/// returns the numbers it acknowledged.
pub(crate) fn run_and_kill(name: &str, root: &Path, first: u64, lifetime: Duration) -> Vec<u64> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(ROOT_VARIABLE, root)
        .env(FIRST_VARIABLE, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut victim = Victim(child);
    let out = BufReader::new(victim.0.stdout.take().unwrap());
    let mut acknowledged = out.lines().map_while(Result::ok).filter_map(|line| {
        line.strip_prefix("ack ")
            .map(|text| text.parse::<u64>().unwrap())
    });
    let mut numbers = vec![acknowledged.next().expect("the victim works")];
    std::thread::sleep(lifetime);
    victim.0.kill().unwrap();
    numbers.extend(acknowledged);
    let status = victim.0.wait().unwrap();
    assert!(
        std::os::unix::process::ExitStatusExt::signal(&status) == Some(9),
        "the victim ended by itself: {status}"
    );
    numbers
}

/// Every blob in the store is whole, and every acknowledged one is in it.
pub(crate) fn check_blobs(store: &Store, acknowledged: &[u64]) {
    for blob in store.walk().unwrap() {
        store.verify(&blob.unwrap().digest).unwrap();
    }
    for number in acknowledged {
        let bytes = blob_bytes(*number);
        let stat = store.stat(&digest_of(&bytes));
        let stat = stat.unwrap_or_else(|error| panic!("acknowledged {number} is lost: {error}"));
        assert_eq!(stat.size_bytes, bytes.len() as u64);
    }
}

/// Every ingest holds what its extents claim. Then all it does not claim is destroyed, as a power cut may do, and
/// the ingest must still become its blob. Returns how many there were and the bytes they had kept.
pub(crate) fn check_ingests(store: &Store) -> (u64, u64) {
    let (mut count, mut kept) = (0, 0);
    for status in store.statuses().unwrap() {
        let number = number_of(&status.reference);
        let bytes = blob_bytes(number);
        let path = data_path(store, &status.reference);
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let claimed = claimed(store, &status.reference, &bytes);
        for piece in claimed.pieces() {
            let mut held = vec![0; usize::try_from(piece.end - piece.start).unwrap()];
            file.read_exact_at(&mut held, piece.start).unwrap();
            assert!(
                held == bytes[as_usize(piece)],
                "{number} claims {piece:?} falsely"
            );
        }
        for gap in claimed.missing_in(0..bytes.len() as u64) {
            file.write_all_at(&vec![0xee; as_usize(&gap).len()], gap.start)
                .unwrap();
        }
        finish(store, &status.reference, &bytes);
        (count, kept) = (count + 1, kept + claimed.present_bytes());
    }
    assert!(store.statuses().unwrap().is_empty());
    (count, kept)
}

fn as_usize(range: &Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

fn data_path(store: &Store, reference: &IngestRef) -> std::path::PathBuf {
    let name = digest_of(reference.as_str().as_bytes()).hex();
    store.root().join("ingest").join(name).join("data")
}

fn claimed(store: &Store, reference: &IngestRef, bytes: &[u8]) -> ExtentMap {
    let expected = Expected::exactly(bytes.len() as u64, digest_of(bytes));
    let ingest = store.ingest(reference, expected).unwrap();
    ingest.extents()
}

fn finish(store: &Store, reference: &IngestRef, bytes: &[u8]) {
    let ingest = store.ingest(reference, Expected::default()).unwrap();
    for gap in ingest.missing() {
        ingest.write_at(gap.start, &bytes[as_usize(&gap)]).unwrap();
    }
    ingest.commit(Expected::default()).unwrap();
    store.remove(&digest_of(bytes)).unwrap();
}

/// Empties a root that is no longer needed.
#[allow(dead_code, reason = "not every suite that shares this module needs it")]
pub(crate) fn remove_root(parent: &Path, name: &str) {
    use orlop_sys::fs::{Dir, Name, remove_tree_beneath};
    let parent = Dir::open(parent).unwrap();
    remove_tree_beneath(&parent, &Name::new(name).unwrap()).unwrap();
}

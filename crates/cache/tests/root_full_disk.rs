//! A cache on a disk that is full before its cap is reached, with a real file system.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "mounts by the programs an administrator uses"
)]

mod shelves;

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::{Clock, ManualClock};
use orlop_cache::ledger::{self, Kind, Ledger, Outcome, Record, Source};
use orlop_cache::store::{ErrorKind, Opening, Options, Store};
use orlop_types::Digest;
use shelves::{LOCATOR, bytes_of, count, digest_of};

const MIB: usize = 1 << 20;
const DISK: &str = "size=24m";

/// Unmounts however the test ends.
struct Mounted<'path>(&'path Path);

impl<'path> Mounted<'path> {
    fn new(target: &'path Path) -> Self {
        let path = target.to_str().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "none", path])
            .status();
        assert!(mounted.unwrap().success());
        Self(target)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let path = self.0.to_str().unwrap();
        let unmounted = Command::new("umount").args(["--lazy", path]).status();
        assert!(unmounted.unwrap().success());
    }
}

fn keep(store: &Store, number: u64, length: usize) -> Result<Digest, ErrorKind> {
    let bytes = bytes_of(number, length);
    let digest = digest_of(&bytes);
    let opened = store
        .fill(&digest, length as u64, LOCATOR)
        .map_err(|error| error.kind())?;
    let Opening::Begun(fill) = opened else {
        panic!("{number}: {opened:?}");
    };
    for (index, chunk) in bytes.chunks(MIB).enumerate() {
        fill.write_at((index * MIB) as u64, chunk)
            .map_err(|error| error.kind())?;
    }
    fill.commit(None).map_err(|error| error.kind())?;
    Ok(digest)
}

fn is_sound(store: &Store, digest: &Digest, number: u64, length: usize) -> bool {
    let mut found = store.find(digest).unwrap().unwrap();
    let mut bytes = Vec::new();
    found.blob.read_to_end(&mut bytes).unwrap();
    bytes == bytes_of(number, length)
}

#[test]
fn a_disk_that_is_full_before_the_cap_gives_up_old_blobs_and_serving_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let _mounted = Mounted::new(folder.path());
    let clock = ManualClock::new();
    let options = Options {
        cap_bytes: 1 << 30,
        ..Options::default()
    };
    let store = shelves::open(folder.path(), &options, &clock);
    let ledger = Ledger::start(
        folder.path(),
        ledger::Options::default(),
        Arc::new(clock.clone()),
    )
    .unwrap();
    let sender = ledger.sender();
    let first = keep(&store, 0, 6 * MIB).unwrap();
    let reading = store.find(&first).unwrap().unwrap().reading;
    // Three times what the disk holds: each finds room, by what came before it.
    for number in 1..12 {
        let digest =
            keep(&store, number, 6 * MIB).unwrap_or_else(|kind| panic!("{number}: {kind:?}"));
        assert!(is_sound(&store, &digest, number, 6 * MIB));
        assert!(is_sound(&store, &first, 0, 6 * MIB), "it is being read");
    }
    // Somebody else takes the rest of the disk: nothing more can be kept, and all that is there is served.
    let ballast = std::fs::File::create(folder.path().join("ballast")).unwrap();
    let mut length = 24 * MIB;
    while length > 4096 {
        use std::os::unix::fs::FileExt;
        let end = ballast.metadata().unwrap().len();
        let wrote = ballast.write_at(&vec![1; length], end).unwrap_or(0);
        length = if wrote == 0 { length / 2 } else { length };
    }
    let kept: Vec<u64> = (0..12)
        .filter(|number| store.holds(&digest_of(&bytes_of(*number, 6 * MIB))))
        .collect();
    assert!(kept.contains(&0), "{kept:?}");
    let refused = keep(&store, 100, 20 * MIB);
    assert_eq!(refused, Err(ErrorKind::NoSpace));
    for _ in 0..3000 {
        sender.record(Record {
            at: clock.wall(),
            client: "10.0.0.7".to_owned(),
            locator: LOCATOR.to_owned(),
            kind: Kind::Blob,
            reference: None,
            digest: Some(first),
            bytes: 1,
            source: Source::Disk,
            outcome: Outcome::Served,
            took: Duration::ZERO,
        });
    }
    ledger.flush();
    assert!(is_sound(&store, &first, 0, 6 * MIB));
    // Upkeep may fail for want of room, and must not harm.
    store.tick().ok();
    std::fs::remove_file(folder.path().join("ballast")).unwrap();
    drop((ballast, reading));
    store.tick().unwrap();
    let last = keep(&store, 200, MIB).unwrap();
    assert!(is_sound(&store, &last, 200, MIB));
    drop((ledger, sender, store));
    let store = shelves::open(folder.path(), &options, &clock);
    assert!(is_sound(&store, &last, 200, MIB));
    let rows = count(folder.path(), "SELECT sum(size) FROM blobs");
    let usage = store.usage();
    assert_eq!(
        u64::try_from(rows).unwrap(),
        usage.small_bytes + usage.large_bytes
    );
}

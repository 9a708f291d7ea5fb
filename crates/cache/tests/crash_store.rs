//! The store's crash suite: a process that fills, finds and removes is killed -9 at random points, over and over, on one
//! folder.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shelves;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use orlop_base::clock::SystemClock;
use orlop_cache::ledger::{self, Kind, Ledger, LedgerReader, Outcome, Record, Source};
use orlop_cache::store::{Opening, Options, Store};
use orlop_types::Digest;
use shelves::{Random, bytes_below, bytes_of, digest_of};

const NAME: &str =
    "killed_at_any_point_a_cache_has_only_sound_blobs_within_its_cap_and_the_rows_of_them";
const ROOT: &str = "ORLOP_CACHE_CRASH_ROOT";
const SEED: &str = "ORLOP_CACHE_CRASH_SEED";

/// Bounded for CI to some seconds; `ORLOP_CRASH_ROUNDS` makes it as long as one likes.
const ROUNDS: u64 = 200;

const CAP: u64 = 2 << 20;
const BLOBS: u64 = 60;

fn options() -> Options {
    Options {
        cap_bytes: CAP,
        small_max_bytes: 8 << 10,
        ..Options::default()
    }
}

fn length_of(number: u64) -> usize {
    usize::try_from(Random::new(number ^ 0x517e).below(1 << (8 + number % 11))).unwrap() + 1
}

fn digest(number: u64) -> Digest {
    digest_of(&bytes_of(number, length_of(number)))
}

#[test]
fn killed_at_any_point_a_cache_has_only_sound_blobs_within_its_cap_and_the_rows_of_them() {
    if let (Ok(root), Ok(seed)) = (std::env::var(ROOT), std::env::var(SEED)) {
        work(Path::new(&root), seed.parse().unwrap());
    }
    let rounds = std::env::var("ORLOP_CRASH_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut random = Random::new(30);
    let (mut kept, mut parked, mut said, mut removed) = (0, 0, 0, 0);
    for round in 0..rounds {
        let lines = run_and_kill(
            folder.path(),
            round,
            Duration::from_micros(random.below(20_000)),
        );
        assert!(
            bytes_below(&folder.path().join("content")) <= CAP,
            "round {round}: more than the cap"
        );
        let store = Store::open(folder.path(), options(), SystemClock::shared()).unwrap();
        let usage = check(&store, folder.path(), round);
        kept += usage.0;
        parked += usage.1;
        // What was removed stays so, unless a fill of it was begun since.
        for (index, line) in lines.iter().enumerate() {
            let (what, number) = line.split_once(' ').unwrap();
            let is_last = !lines[index + 1..]
                .iter()
                .any(|later| later.ends_with(&format!(" {number}")));
            said += 1;
            if what == "removed" {
                removed += 1;
                let gone = !store.holds(&digest(number.parse().unwrap()));
                assert!(gone || !is_last, "round {round}: {number} came back");
            }
        }
        finish_some(&store, &mut random);
    }
    // Otherwise the suite would have tested nothing.
    assert!(
        kept > 100 && parked > 0 && removed > 0,
        "{kept} kept, {parked} parked, {removed} removed"
    );
    println!("{rounds} kills: {said} acknowledged, {kept} blobs found sound, {parked} fills left");
}

/// Every hit verifies; bytes on disk equal rows and what is counted.
fn check(store: &Store, root: &Path, round: u64) -> (u64, u64) {
    let usage = store.usage();
    assert!(usage.total_bytes() <= CAP, "round {round}: {usage:?}");
    let on_disk = bytes_below(&root.join("content"));
    assert_eq!(on_disk, usage.total_bytes(), "round {round}: {usage:?}");
    let mut found_bytes = 0;
    for number in 0..BLOBS {
        let Some(mut found) = store.find(&digest(number)).unwrap() else {
            continue;
        };
        let mut bytes = Vec::new();
        found.blob.read_to_end(&mut bytes).unwrap();
        assert!(
            bytes == bytes_of(number, length_of(number)),
            "round {round}: {number} is not itself"
        );
        found_bytes += bytes.len() as u64;
    }
    let rows = shelves::count(root, "SELECT coalesce(sum(size), 0) FROM blobs");
    assert_eq!(
        u64::try_from(rows).unwrap(),
        found_bytes,
        "round {round}: rows"
    );
    let sums = shelves::count(root, "SELECT coalesce(sum(requests), 0) FROM ledger_days");
    let requests = shelves::count(root, "SELECT count(*) FROM ledger_requests");
    assert_eq!(
        sums, requests,
        "round {round}: a day's sums are of its requests"
    );
    let unfinished = store.unfinished().unwrap();
    for one in &unfinished {
        assert!(one.locator.starts_with("r/"), "{one:?}");
    }
    (usage.blobs, unfinished.len() as u64)
}

/// Goes on with what was left, which must become its blob.
fn finish_some(store: &Store, random: &mut Random) {
    for one in store.unfinished().unwrap() {
        let number = (0..BLOBS)
            .find(|number| digest(*number) == one.digest)
            .unwrap();
        if random.below(2) == 0
            && let Opening::Begun(fill) = store.fill(&one.digest, one.size, &one.locator).unwrap()
        {
            fill.write_all(&bytes_of(number, length_of(number)))
                .unwrap();
            fill.commit(None).unwrap();
        }
    }
}

/// The child: two threads fill, find, remove, pin and tag until they are killed.
fn work(root: &Path, seed: u64) -> ! {
    let clock = SystemClock::shared();
    let store = Store::open(root, options(), clock.clone()).unwrap();
    let quick = ledger::Options {
        batch_every: Duration::from_millis(1),
        ..ledger::Options::default()
    };
    let ledger = Ledger::start(root, quick, clock.clone()).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (store, clock, sender) = (&store, &clock, ledger.sender());
            scope.spawn(move || {
                let mut random = Random::new(seed * 2 + worker);
                loop {
                    // Each worker has its own blobs, so that what it says is so.
                    let number = random.below(BLOBS / 2) * 2 + worker;
                    step(store, number, &mut random);
                    sender.record(Record {
                        at: clock.wall(),
                        client: "10.0.0.1".to_owned(),
                        locator: format!("r/{}", number % 5),
                        kind: Kind::Blob,
                        reference: None,
                        digest: Some(digest(number)),
                        bytes: 1,
                        source: Source::Disk,
                        outcome: Outcome::Served,
                        took: Duration::ZERO,
                    });
                }
            });
        }
    });
    unreachable!("the workers never end");
}

fn step(store: &Store, number: u64, random: &mut Random) {
    let digest = digest(number);
    match random.below(12) {
        0 => {
            if store.remove(&digest).unwrap().is_some() {
                say("removed", number);
            }
        }
        1 => store.tick().unwrap(),
        2 => drop(store.unlink(&format!("r/{}", number % 5)).unwrap()),
        3 => store.set_tag("r/1", "latest", &digest, None).unwrap(),
        4 => drop(store.find(&digest).unwrap()),
        fate => {
            let length = length_of(number);
            let Opening::Begun(fill) = store
                .fill(&digest, length as u64, &format!("r/{}", number % 5))
                .unwrap()
            else {
                return;
            };
            let bytes = bytes_of(number, length);
            let stop = if fate == 5 { length / 2 } else { length };
            for (index, chunk) in bytes[..stop].chunks(5000).enumerate() {
                fill.write_at(index as u64 * 5000, chunk).unwrap();
            }
            match fate {
                5 => {}
                6 => fill.abandon().unwrap(),
                _ => {
                    say("committing", number);
                    fill.commit(Some("m")).unwrap();
                    say("kept", number);
                }
            }
        }
    }
}

/// Writes past libtest's capture, in one call, so that a kill cannot cut a line.
fn say(what: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n=> {what} {number}\n").as_bytes())
        .unwrap();
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

#[allow(
    clippy::disallowed_methods,
    reason = "the suite starts itself as its victim"
)]
fn run_and_kill(root: &Path, seed: u64, lifetime: Duration) -> Vec<String> {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(ROOT, root)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut victim = Victim(child);
    let out = BufReader::new(victim.0.stdout.take().unwrap());
    let mut lines = out
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("=> ").map(str::to_owned));
    let mut said = vec![lines.next().expect("the victim works")];
    std::thread::sleep(lifetime);
    victim.0.kill().unwrap();
    said.extend(lines);
    let status = victim.0.wait().unwrap();
    assert_eq!(
        status.signal(),
        Some(9),
        "the victim ended by itself: {status}"
    );
    said
}

#[test]
fn the_ledger_of_a_cache_is_read_while_it_is_written() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let clock = SystemClock::shared();
    let ledger = Ledger::start(folder.path(), ledger::Options::default(), clock.clone()).unwrap();
    ledger.flush();
    drop(Store::open(folder.path(), options(), clock.clone()).unwrap());
    let reader = LedgerReader::open(folder.path()).unwrap();
    let top = reader.top(ledger::Window::Week, ledger::By::Bytes, 5, clock.wall());
    assert!(top.unwrap().is_empty());
}

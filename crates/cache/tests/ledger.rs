//! What the ledger promises.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shelves;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use orlop_base::clock::{Clock, ManualClock};
use orlop_base::telemetry::Metrics;
use orlop_cache::ledger::{
    By, Change, Kind, Ledger, LedgerReader, Options, Outcome, Record, Source, Window,
};
use orlop_types::Digest;
use proptest::prelude::*;
use shelves::{count, digest_of};

const DAY: Duration = Duration::from_secs(86_400);

struct Bench {
    ledger: Ledger,
    clock: ManualClock,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let clock = ManualClock::new();
        let ledger = start(folder.path(), &clock);
        Self {
            ledger,
            clock,
            folder,
        }
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn pull(&self, name: &str, locator: &str) {
        self.ledger
            .sender()
            .record(pull(name, locator, self.clock.wall()));
    }

    fn reader(&self) -> LedgerReader {
        self.ledger.flush();
        LedgerReader::open(self.root()).unwrap()
    }

    /// Pulls by digest within a window.
    fn pulls(&self, window: Window) -> BTreeMap<String, u64> {
        let top = self
            .reader()
            .top(window, By::Requests, usize::MAX, self.clock.wall());
        let lines = top.unwrap().into_iter();
        lines
            .map(|line| (line.digest, line.counts.requests))
            .collect()
    }
}

fn start(root: &Path, clock: &ManualClock) -> Ledger {
    let options = Options {
        batch_every: Duration::from_millis(1),
        ..Options::default()
    };
    Ledger::start(root, options, Arc::new(clock.clone())).unwrap()
}

fn digest(name: &str) -> Digest {
    digest_of(name.as_bytes())
}

fn pull(name: &str, locator: &str, at: SystemTime) -> Record {
    Record {
        at,
        client: "10.0.0.7".to_owned(),
        locator: locator.to_owned(),
        kind: Kind::Blob,
        reference: None,
        digest: Some(digest(name)),
        bytes: 100,
        source: Source::Disk,
        outcome: Outcome::Served,
        took: Duration::from_millis(3),
    }
}

#[test]
fn windows_are_today_and_the_days_before_by_utc() {
    let bench = Bench::new();
    // The clock begins at midnight UTC, and the days are told from their end: the last second of each.
    for day in 0..40 {
        bench.clock.advance(Duration::from_secs(86_399));
        bench.pull("every day", "a/b");
        if day % 10 == 0 {
            bench.pull("seldom", "a/b");
        }
        if day < 39 {
            bench.clock.advance(Duration::from_secs(1));
        }
    }
    let every = digest("every day").to_string();
    let seldom = digest("seldom").to_string();
    assert_eq!(
        bench.pulls(Window::Week),
        BTreeMap::from([(every.clone(), 7)])
    );
    let month = bench.pulls(Window::Month);
    assert_eq!(
        month,
        BTreeMap::from([(every.clone(), 30), (seldom.clone(), 3)])
    );
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.pulls(Window::Week)[&every], 6, "a new day has begun");
    let both = bench.reader().frequencies(bench.clock.wall()).unwrap();
    assert_eq!(both[&every], (6, 29));
    assert_eq!(both[&seldom], (0, 2));
}

#[test]
fn pulls_are_served_requests_and_bytes_are_all_of_them() {
    let bench = Bench::new();
    let now = bench.clock.wall();
    let sender = bench.ledger.sender();
    for (outcome, source) in [
        (Outcome::Served, Source::Upstream),
        (Outcome::Served, Source::Disk),
        (Outcome::Cut, Source::Upstream),
        (Outcome::Refused, Source::Disk),
    ] {
        sender.record(Record {
            outcome,
            source,
            ..pull("a", "a/b", now)
        });
    }
    sender.record(Record {
        kind: Kind::Manifest,
        reference: Some("latest".to_owned()),
        digest: None,
        outcome: Outcome::Missing,
        bytes: 0,
        ..pull("", "a/b", now)
    });
    let reader = bench.reader();
    let top = reader.top(Window::Week, By::Bytes, 10, now).unwrap();
    let [line] = &top[..] else {
        panic!("{top:?}");
    };
    let counts = line.counts;
    assert_eq!((counts.requests, counts.bytes), (2, 400));
    assert_eq!((counts.upstream_requests, counts.upstream_bytes), (1, 200));
    assert_eq!(
        (line.size, &line.repositories[..]),
        (100, &["a/b".to_owned()][..])
    );
    assert_eq!(
        count(bench.root(), "SELECT count(*) FROM ledger_requests"),
        5
    );
    let metrics = Metrics::new();
    metrics.register(|registry| bench.ledger.register(registry));
    let text = metrics.text();
    for part in [
        "orlop_cache_requests_total{source=\"upstream\",outcome=\"served\"} 1\n",
        "orlop_cache_requests_total{source=\"disk\",outcome=\"missing\"} 1\n",
        "orlop_cache_sent_bytes_total{source=\"upstream\"} 200\n",
        "orlop_cache_ledger_dropped_total 0\n",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn what_changed_is_told_by_kind_and_by_how_much() {
    let bench = Bench::new();
    let pull = |name: &str, times: usize| {
        for _ in 0..times {
            bench.pull(name, "a/b");
        }
    };
    for (name, times) in [
        ("gone", 3),
        ("colder", 9),
        ("steady", 10),
        ("hotter", 2),
        ("much hotter", 1),
    ] {
        pull(name, times);
    }
    bench.clock.advance(7 * DAY);
    for (name, times) in [
        ("new", 1),
        ("colder", 6),
        ("steady", 14),
        ("hotter", 3),
        ("much hotter", 50),
    ] {
        pull(name, times);
    }
    let compared = bench
        .reader()
        .compare(Window::Week, 10, bench.clock.wall())
        .unwrap();
    let changed: Vec<_> = compared
        .changed
        .iter()
        .map(|one| (one.change, one.digest.clone(), one.before, one.now))
        .collect();
    let text = |name: &str| digest(name).to_string();
    let expected = [
        (Change::New, text("new"), 0, 1),
        (Change::Hotter, text("much hotter"), 1, 50),
        (Change::Hotter, text("hotter"), 2, 3),
        (Change::Colder, text("colder"), 9, 6),
        (Change::Gone, text("gone"), 3, 0),
    ];
    assert_eq!(changed, expected);
    assert_eq!(compared.steady, 1);
    assert_eq!(compared.changed[0].repositories, ["a/b"]);
    assert_eq!(compared.middle + 6 * DAY, bench.clock.wall());
    assert_eq!(compared.from + 7 * DAY, compared.middle);
    let few = bench
        .reader()
        .compare(Window::Week, 1, bench.clock.wall())
        .unwrap();
    assert_eq!(few.changed.len(), 4, "one of each kind");
}

#[test]
fn repositories_share_a_blob_and_are_counted_each() {
    let bench = Bench::new();
    for (name, locator, times) in [
        ("shared", "a/one", 3),
        ("shared", "b/two", 1),
        ("own", "b/two", 1),
    ] {
        for _ in 0..times {
            bench.pull(name, locator);
        }
    }
    let sender = bench.ledger.sender();
    sender.record(Record {
        kind: Kind::Manifest,
        ..pull("manifest", "b/two", bench.clock.wall())
    });
    let lines = bench
        .reader()
        .repositories(Window::Month, 10, bench.clock.wall())
        .unwrap();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                &*line.locator,
                line.manifests,
                line.blobs,
                line.counts.bytes,
            )
        })
        .collect();
    assert_eq!(seen, [("a/one", 0, 3, 300), ("b/two", 1, 2, 300)]);
    let top = bench
        .reader()
        .top(Window::Week, By::Requests, 1, bench.clock.wall())
        .unwrap();
    assert_eq!(top[0].repositories, ["a/one", "b/two"]);
    assert_eq!(top[0].counts.requests, 4);
}

#[test]
fn a_clock_that_jumps_back_and_forth_spoils_no_day_and_deletes_nothing() {
    let bench = Bench::new();
    bench.pull("a", "a/b");
    let right = bench.clock.wall();
    for jump in [
        right + 500 * DAY,
        right - 500 * DAY,
        SystemTime::UNIX_EPOCH,
        right,
    ] {
        bench.clock.set_wall(jump);
        // More than a minute, so that what is old would be looked for.
        bench.clock.advance(Duration::from_secs(90));
        bench.pull("b", "a/b");
        bench.ledger.flush();
        bench.clock.advance(Duration::from_secs(90));
        bench.pull("b", "a/b");
        bench.ledger.flush();
    }
    bench.clock.set_wall(right);
    let pulls = bench.pulls(Window::Week);
    assert_eq!(pulls[&digest("a").to_string()], 1);
    assert_eq!(
        pulls[&digest("b").to_string()],
        2,
        "those of the right time"
    );
    let sums = count(bench.root(), "SELECT sum(requests) FROM ledger_days");
    assert_eq!(sums, 9);
}

#[test]
fn what_is_old_goes_day_by_day() {
    let bench = Bench::new();
    bench.pull("old", "gone/one");
    for _ in 0..125 {
        bench.clock.advance(DAY);
        bench.pull("new", "a/b");
        bench.ledger.flush();
    }
    // The last look for what is old is after the last batch.
    bench.ledger.flush();
    let days = count(bench.root(), "SELECT count(DISTINCT day) FROM ledger_days");
    assert!((120..=121).contains(&days), "{days}");
    let requests = count(bench.root(), "SELECT count(*) FROM ledger_requests");
    assert!((7..=9).contains(&requests), "{requests}");
    assert_eq!(
        count(bench.root(), "SELECT count(*) FROM ledger_digests"),
        1
    );
    assert_eq!(
        count(bench.root(), "SELECT count(*) FROM ledger_repositories"),
        1
    );
}

#[test]
fn a_ledger_that_cannot_be_written_counts_what_it_drops_and_goes_on_when_it_can() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = folder.path().join("not there yet");
    let clock = ManualClock::new();
    let ledger = start(&root, &clock);
    let sender = ledger.sender();
    for _ in 0..3 {
        sender.record(pull("a", "a/b", clock.wall()));
    }
    ledger.flush();
    assert_eq!(sender.dropped(), 3);
    std::fs::create_dir(&root).unwrap();
    sender.record(pull("a", "a/b", clock.wall()));
    ledger.flush();
    assert_eq!(sender.dropped(), 3);
    assert_eq!(count(&root, "SELECT sum(requests) FROM ledger_days"), 1);
    // Removed while it is written: a new one is begun.
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(root.join(format!("cache.db{suffix}"))).unwrap();
    }
    sender.record(pull("a", "a/b", clock.wall()));
    ledger.flush();
    assert_eq!(count(&root, "SELECT sum(requests) FROM ledger_days"), 1);
}

#[test]
fn a_full_queue_drops_and_never_waits() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let clock = ManualClock::new();
    let options = Options {
        queue_max: 4,
        ..Options::default()
    };
    let ledger = Ledger::start(folder.path(), options, Arc::new(clock.clone())).unwrap();
    // Whoever holds the database for a second is not waited for by those who are served.
    let held = rusqlite::Connection::open(folder.path().join("cache.db")).unwrap();
    ledger.flush();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sender = ledger.sender();
    for _ in 0..10_000 {
        sender.record(pull("a", "a/b", clock.wall()));
    }
    let dropped = sender.dropped();
    assert!(dropped > 0);
    held.execute_batch("ROLLBACK").unwrap();
    drop(held);
    drop(ledger);
    let written = count(folder.path(), "SELECT count(*) FROM ledger_requests");
    let written = u64::try_from(written).unwrap();
    assert_eq!(
        written + sender.dropped(),
        10_000,
        "each is written or counted"
    );
}

#[test]
fn dropping_a_ledger_writes_what_is_queued_also_when_senders_live_on() {
    let bench = Bench::new();
    let sender = bench.ledger.sender();
    for _ in 0..500 {
        sender.record(pull("a", "a/b", bench.clock.wall()));
    }
    drop(bench.ledger);
    assert_eq!(
        count(bench.folder.path(), "SELECT sum(requests) FROM ledger_days"),
        500
    );
    sender.record(pull("a", "a/b", bench.clock.wall()));
    assert_eq!(sender.dropped(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]
    #[test]
    fn windows_are_exact_whatever_the_order_of_requests(
        requests in proptest::collection::vec((0..6_u8, 0..3_u8, 0..45_u64, 0..86_400_u64), 1..200),
    ) {
        let bench = Bench::new();
        let start = bench.clock.wall();
        bench.clock.advance(44 * DAY);
        let mut model = [BTreeMap::new(), BTreeMap::new()];
        for (name, locator, day, second) in requests {
            let at = start + u32::try_from(day).unwrap() * DAY + Duration::from_secs(second);
            bench.ledger.sender().record(pull(&name.to_string(), &format!("r/{locator}"), at));
            for (index, length) in [7, 30].into_iter().enumerate() {
                if day + length > 44 {
                    *model[index].entry(digest(&name.to_string()).to_string()).or_insert(0) += 1;
                }
            }
        }
        prop_assert_eq!(&bench.pulls(Window::Week), &model[0]);
        prop_assert_eq!(&bench.pulls(Window::Month), &model[1]);
    }
}

//! Whatever is done to a store, in whatever order, closed and opened at any point: the cap holds, hits are right, rows and
//! files agree.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shelves;

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use orlop_cache::store::{Fill, Opening, Options, Reading};
use orlop_types::Digest;
use proptest::prelude::*;
use shelves::{Bench, bytes_of, digest_of};

const CAP: u64 = 100_000;
const SMALL: u64 = 3_000;

/// A blob's length goes by its number: small ones, large ones, some larger than the room.
fn length_of(number: u64) -> usize {
    [100, 700, 2_900, 3_100, 9_000, 20_000, 45_000, 95_000][usize::try_from(number % 8).unwrap()]
}

#[derive(Debug, Clone)]
enum Step {
    /// Fills whole and commits.
    Keep(u64),
    /// Begins, writes so many per cent, and holds on to it.
    Begin(u64, u8),
    /// Lets a fill that was begun go: commits it, abandons it, or just drops it.
    End(u64, u8),
    /// Finds, and goes on reading until told.
    Read(u64),
    /// Ends all reading.
    ReadAll,
    Remove(u64),
    Pin(u64),
    Unpin(u64),
    /// Damages a file, and finds it by a look at its length or not.
    Tick(u32),
    Unlink(u64),
    Reopen(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..40_u64;
    prop_oneof![
        8 => number().prop_map(Step::Keep),
        3 => (number(), 0..100_u8).prop_map(|(number, part)| Step::Begin(number, part)),
        3 => (number(), 0..3_u8).prop_map(|(number, how)| Step::End(number, how)),
        4 => number().prop_map(Step::Read),
        1 => Just(Step::ReadAll),
        2 => number().prop_map(Step::Remove),
        1 => number().prop_map(Step::Pin),
        2 => number().prop_map(Step::Unpin),
        1 => (0..20_u32).prop_map(Step::Tick),
        1 => (0..3_u64).prop_map(Step::Unlink),
        1 => (0..20_u32).prop_map(Step::Reopen),
    ]
}

struct World {
    bench: Option<Bench>,
    fills: HashMap<u64, Fill>,
    reading: Vec<(u64, orlop_content::Blob, Reading)>,
    pinned: Vec<Digest>,
}

impl World {
    fn bench(&self) -> &Bench {
        self.bench.as_ref().unwrap()
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Keep(number) => {
                if let Some(fill) = self.begin(number) {
                    fill.write_all(&bytes_of(number, length_of(number)))
                        .unwrap();
                    fill.commit(None).unwrap();
                }
            }
            Step::Begin(number, part) => {
                if let Some(fill) = self.begin(number) {
                    let bytes = bytes_of(number, length_of(number));
                    let count = bytes.len() * usize::from(part) / 100;
                    fill.write_at(0, &bytes[..count]).unwrap();
                    self.fills.insert(number, fill);
                }
            }
            Step::End(number, how) => {
                if let Some(fill) = self.fills.remove(&number) {
                    match how {
                        0 => {
                            fill.write_all(&bytes_of(number, length_of(number)))
                                .unwrap();
                            fill.commit(None).unwrap();
                        }
                        1 => fill.abandon().unwrap(),
                        _ => {}
                    }
                }
            }
            Step::Read(number) => {
                if let Some(found) = self.bench().store.find(&digest(number)).unwrap() {
                    self.reading.push((number, found.blob, found.reading));
                }
            }
            Step::ReadAll => self.read_all(),
            Step::Remove(number) => drop(self.bench().store.remove(&digest(number)).unwrap()),
            Step::Pin(number) => {
                // Pins win over the cap, so they are for what is here and leaves room.
                let store = &self.bench().store;
                if store.holds(&digest(number)) && store.usage().pinned_bytes < CAP / 4 {
                    store.pin(&digest(number), "test", "").unwrap();
                    self.pinned.push(digest(number));
                }
            }
            Step::Unpin(number) => {
                self.bench().store.unpin(&digest(number), "test").unwrap();
                self.pinned.retain(|one| *one != digest(number));
            }
            Step::Tick(hours) => {
                let bench = self.bench();
                bench
                    .clock
                    .advance(Duration::from_secs(u64::from(hours) * 3600));
                bench.store.tick().unwrap();
            }
            Step::Unlink(number) => drop(self.bench().store.unlink(&locator(number)).unwrap()),
            Step::Reopen(hours) => {
                self.fills.clear();
                self.read_all();
                let later = Duration::from_secs(u64::from(hours) * 3600);
                self.bench = self.bench.take().map(|bench| bench.reopen(later));
            }
        }
        self.pinned
            .retain(|digest| self.bench.as_ref().unwrap().store.holds(digest));
    }

    fn begin(&self, number: u64) -> Option<Fill> {
        let length = length_of(number) as u64;
        let opened = self
            .bench()
            .store
            .fill(&digest(number), length, &locator(number));
        match opened.unwrap() {
            Opening::Begun(fill) => Some(fill),
            Opening::Busy => {
                assert!(self.fills.contains_key(&number), "{number} is nobody's");
                None
            }
            Opening::Present => {
                assert!(self.bench().store.holds(&digest(number)));
                None
            }
            Opening::NoRoom { room_bytes } => {
                assert!(room_bytes < length, "{room_bytes} would do for {length}");
                None
            }
        }
    }

    /// What is being read is whole, whatever became of it.
    fn read_all(&mut self) {
        for (number, mut blob, reading) in self.reading.drain(..) {
            let mut bytes = Vec::new();
            blob.read_to_end(&mut bytes).unwrap();
            assert!(bytes == bytes_of(number, length_of(number)), "{number}");
            drop((blob, reading));
        }
    }

    fn check(&self) {
        let bench = self.bench();
        let usage = bench.store.usage();
        assert!(usage.total_bytes() <= CAP, "{usage:?}");
        let on_disk = bench.bytes_on_disk();
        assert!(
            on_disk <= usage.total_bytes(),
            "{on_disk} on disk of {usage:?}"
        );
        let rows = bench.count("SELECT coalesce(sum(size), 0) FROM blobs");
        let files: u64 = (0..40)
            .filter_map(|number| std::fs::metadata(bench.path_of(&digest(number))).ok())
            .map(|metadata| metadata.len())
            .sum();
        assert_eq!(u64::try_from(rows).unwrap(), files, "rows and files");
        assert_eq!(
            u64::try_from(bench.count("SELECT count(*) FROM blobs")).unwrap(),
            usage.blobs
        );
        for digest in &self.pinned {
            assert!(bench.store.holds(digest), "a pinned blob went");
        }
    }
}

fn digest(number: u64) -> Digest {
    digest_of(&bytes_of(number, length_of(number)))
}

fn locator(number: u64) -> String {
    format!("registry.example.com/team/{}", number % 3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_done_the_cap_holds_and_rows_and_files_agree(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let options = Options {
            cap_bytes: CAP,
            small_max_bytes: SMALL,
            ttl: Some(Duration::from_secs(48 * 3600)),
            ..Options::default()
        };
        let mut world = World {
            bench: Some(Bench::with(options)),
            fills: HashMap::new(),
            reading: Vec::new(),
            pinned: Vec::new(),
        };
        for step in &steps {
            world.apply(step);
            world.check();
        }
        world.read_all();
        world.fills.clear();
        world.check();
    }
}

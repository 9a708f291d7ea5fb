//! The daemon is killed at many moments of its work: what it acknowledged is there afterwards, and in the end the disk
//! holds nothing that nobody holds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use orlop_e2e::node::{Caller, eventually};
use orlop_e2e::{Node, image};

/// How often the daemon is killed.
const POINTS_VARIABLE: &str = "ORLOP_CRASH_POINTS";
const POINTS_DEFAULT: u32 = 25;

/// Repeats a run that failed.
const SEED_VARIABLE: &str = "ORLOP_CRASH_SEED";
const SEED_DEFAULT: u64 = 0x5eed;

/// The longest that a daemon lives, so that every stretch of the longest operation is hit.
const LIFE_MILLIS_MAX: u64 = 600;

const CONTAINERS: [&str; 2] = ["one", "two"];

/// A xorshift generator.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

/// What was acknowledged: of each image and container whether it is there. Without an entry nobody knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Known {
    images: BTreeMap<String, bool>,
    containers: BTreeMap<String, bool>,
}

#[derive(Debug, Clone)]
enum Operation {
    Pull(String),
    Untag(String),
    Run(&'static str, String),
    Remove(&'static str),
    Collect,
}

impl Operation {
    fn pick(numbers: &mut Numbers, images: &[String]) -> Self {
        let image = images[usize::try_from(numbers.below(images.len() as u64)).unwrap()].clone();
        let container = CONTAINERS[usize::try_from(numbers.below(2)).unwrap()];
        match numbers.below(10) {
            0..4 => Self::Pull(image),
            4 => Self::Untag(image),
            5..7 => Self::Run(container, images[0].clone()),
            7..9 => Self::Remove(container),
            _ => Self::Collect,
        }
    }

    /// Forgets what this may change, performs it, and notes what was acknowledged. Gives whether anybody
    /// was there to ask.
    fn perform(&self, caller: &Caller, known: &mut Known) -> bool {
        let words: Vec<&str> = match self {
            Self::Pull(image) => vec!["pull", image],
            Self::Untag(image) => vec!["rmi", image],
            Self::Run(name, image) => vec!["run", "-d", "--name", name, image, "sleep", "1000"],
            Self::Remove(name) => vec!["rm", "--force", name],
            Self::Collect => vec!["gc", "run"],
        };
        let before = known.clone();
        match self {
            Self::Pull(image) | Self::Untag(image) => drop(known.images.remove(image)),
            Self::Run(name, image) => {
                known.containers.remove(*name);
                // It fetches the image when that is missing.
                known.images.remove(image);
            }
            Self::Remove(name) => drop(known.containers.remove(*name)),
            Self::Collect => {}
        }
        let answer = caller.orlop(&words).unwrap();
        if answer.stderr.contains("cannot reach the daemon") {
            *known = before;
            return false;
        }
        let done = answer.code == 0;
        match self {
            Self::Pull(image) if done => drop(known.images.insert(image.clone(), true)),
            Self::Untag(image) if done || answer.code == 3 => {
                known.images.insert(image.clone(), false);
            }
            Self::Run(name, image) if done => {
                known.containers.insert((*name).to_owned(), true);
                known.images.insert(image.clone(), true);
            }
            Self::Run(name, _) if before.containers.get(*name) == Some(&true) => {
                assert_ne!(answer.code, 0, "{name} was there already");
                // Refused or cut off: the one that has the name keeps it.
                known.containers.insert((*name).to_owned(), true);
            }
            Self::Remove(name) if done || answer.code == 3 => {
                known.containers.insert((*name).to_owned(), false);
            }
            Self::Pull(_) | Self::Untag(_) | Self::Run(..) | Self::Remove(_) | Self::Collect => {}
        }
        true
    }
}

/// Compares what was acknowledged with what is there, and takes over what is there.
fn check(caller: &Caller, known: &mut Known, point: &str) {
    let listed = |arguments: &[&str], field: &str| -> BTreeSet<String> {
        let records = caller.json(arguments).unwrap();
        let names = records.as_array().unwrap().iter();
        names
            .map(|record| record[field].as_str().unwrap().to_owned())
            .collect()
    };
    let images = listed(&["images"], "name");
    let containers = listed(&["ps", "-a"], "id");
    for (subjects, there) in [
        (&mut known.images, &images),
        (&mut known.containers, &containers),
    ] {
        for (name, acknowledged) in &*subjects {
            let is = there.contains(name);
            assert_eq!(is, *acknowledged, "{point}: {name} is not as acknowledged");
        }
        *subjects = there.iter().map(|name| (name.clone(), true)).collect();
    }
    for name in &containers {
        let inspection = caller.json(&["inspect", name]);
        assert!(inspection.is_ok(), "{point}: {inspection:?}");
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

fn remove_everything(caller: &Caller) {
    for record in caller.json(&["ps", "-a"]).unwrap().as_array().unwrap() {
        let name = record["id"].as_str().unwrap();
        let removed = caller.orlop(&["rm", "--force", name]).unwrap();
        removed.success().unwrap();
    }
    for record in caller.json(&["images"]).unwrap().as_array().unwrap() {
        let name = record["name"].as_str().unwrap();
        caller.orlop(&["rmi", name]).unwrap().success().unwrap();
    }
    // A creation that was cut off leaves its lease, which would end in an hour.
    for record in caller.json(&["leases", "ls"]).unwrap().as_array().unwrap() {
        let lease = record["id"].as_str().unwrap();
        caller
            .orlop(&["leases", "rm", lease])
            .unwrap()
            .success()
            .unwrap();
    }
}

#[test]
fn whatever_was_acknowledged_survives_kills_and_nothing_else_stays_on_disk() {
    let points = number(POINTS_VARIABLE, POINTS_DEFAULT.into());
    let seed = number(SEED_VARIABLE, SEED_DEFAULT);
    let mut numbers = Numbers(seed.max(1));
    let mut node = Node::start().unwrap();
    let layout = image::large(node.scratch(), 5, 1 << 20).unwrap();
    let large = node.registry().push(&layout, image::TAG, "e2e/large:1");
    let images = [node.image().to_owned(), large.unwrap()];
    let mut known = Known::default();

    for point in 1..=points {
        let life = Duration::from_millis(1 + numbers.below(LIFE_MILLIS_MAX));
        let operations: Vec<Operation> = (0..40)
            .map(|_| Operation::pick(&mut numbers, &images))
            .collect();
        let caller = node.caller().clone();
        known = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let mut operations = operations.iter();
                while operations
                    .next()
                    .is_some_and(|operation| operation.perform(&caller, &mut known))
                {
                }
                known
            });
            std::thread::sleep(life);
            node.kill_daemon().unwrap();
            worker.join().unwrap()
        });
        node.start_daemon().unwrap();
        let what = format!("seed {seed}, point {point} after {life:?}");
        check(node.caller(), &mut known, &what);
    }

    remove_everything(node.caller());
    let root = node.engine().unwrap().root().to_owned();
    let folders = [
        "content/blobs/sha256",
        "content/ingest",
        "snapshots/overlayfs/snapshots",
        "snapshots/overlayfs/incoming",
        "snapshots/overlayfs/trash",
        "logs",
    ];
    eventually("nothing is left on disk", || {
        node.caller().orlop(&["gc", "run"])?.success()?;
        let left = folders[..5]
            .iter()
            .map(|folder| entries(&root.join(folder)).len());
        Ok(Some(()).filter(|()| left.sum::<usize>() == 0))
    })
    .unwrap_or_else(|error| {
        let left = folders.map(|folder| (folder, entries(&root.join(folder))));
        let status = node.caller().json(&["gc", "status"]);
        let leases = node.caller().json(&["leases", "ls"]);
        panic!("seed {seed}: {error}: {left:#?} {status:#?} {leases:#?}")
    });
    let held = node.caller().json(&["gc", "status"]).unwrap()["bytes_held"].take();
    assert_eq!(held, 0, "seed {seed}");
    node.close().unwrap();
}

//! The daemon is killed at many moments of its work: what it acknowledged is there afterwards, and in the end the disk
//! holds nothing that nobody holds. And its helpers are killed: that is told, and undone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::print_stdout,
    reason = "how much was done is the result of a long run"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use orlop_e2e::node::{Caller, eventually};
use orlop_e2e::workload::{Lane, Loss, Numbers, remove_everything};
use orlop_e2e::{Helper, Node, image};
use serde_json::json;

/// How often the daemon is killed.
const POINTS_VARIABLE: &str = "ORLOP_CRASH_POINTS";
const POINTS_DEFAULT: u64 = 200;

/// Repeats a run that failed.
const SEED_VARIABLE: &str = "ORLOP_CRASH_SEED";
const SEED_DEFAULT: u64 = 0x5eed;

/// Nearly all daemons live this long at most: a start of a container fits in.
const LIFE_MILLIS_MAX: u64 = 220;

/// Every tenth lives up to this long, so that every stretch of the longest operation is hit.
const LONG_LIFE_MILLIS_MAX: u64 = 700;

/// After so many points disk and records are compared while images and containers are held.
const POINTS_BETWEEN_COMPARISONS: u64 = 50;

/// How often each helper is killed.
const HELPER_POINTS_VARIABLE: &str = "ORLOP_HELPER_POINTS";
const HELPER_POINTS_DEFAULT: u64 = 8;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn life(numbers: &mut Numbers) -> Duration {
    let is_long = numbers.below(10) == 0;
    let most = if is_long {
        LONG_LIFE_MILLIS_MAX
    } else {
        LIFE_MILLIS_MAX
    };
    Duration::from_millis(1 + numbers.below(most))
}

/// Lets all lanes work at once until the daemon is killed; gives how many operations it acknowledged.
fn work_until_killed(node: &mut Node, lanes: &mut [Lane], numbers: &mut Numbers) -> u32 {
    let life = life(numbers);
    let caller = node.caller().clone();
    std::thread::scope(|scope| {
        let workers: Vec<_> = lanes
            .iter_mut()
            .map(|lane| {
                let mut numbers = Numbers::new(numbers.below(u64::MAX));
                let caller = &caller;
                scope.spawn(move || lane.work(caller, &mut numbers, 40).unwrap())
            })
            .collect();
        std::thread::sleep(life);
        node.kill_daemon().unwrap();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum()
    })
}

fn files(folder: &Path) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let sizes = entries.map(|entry| {
        let entry = entry.unwrap();
        let bytes = entry.metadata().unwrap().len();
        (entry.file_name().to_string_lossy().into_owned(), bytes)
    });
    sizes.collect()
}

/// What the records hold of blobs, by their hex.
fn blobs_held(caller: &Caller) -> BTreeMap<String, u64> {
    let blobs = caller.json(&["content", "ls"]).unwrap();
    let sizes = blobs.as_array().unwrap().iter().map(|blob| {
        let digest = blob["digest"].as_str().unwrap();
        let hex = digest.trim_start_matches("sha256:").to_owned();
        (hex, blob["size"].as_u64().unwrap())
    });
    sizes.collect()
}

/// After a collection the disk holds what the records say, to the byte, and `fsck` has nothing to say.
fn compare_disk_with_records(node: &Node, what: &str) {
    let caller = node.caller();
    let root = node.engine().unwrap().root().to_owned();
    let backend = root.join("snapshots/overlayfs");
    let look = || {
        caller.orlop(&["gc", "run"])?.success()?;
        let snapshots = caller.json(&["snapshots", "ls"])?;
        let blobs = blobs_held(caller) == files(&root.join("content/blobs/sha256"));
        let folders = files(&backend.join("snapshots")).len();
        let is_equal = blobs && snapshots.as_array().unwrap().len() == folders;
        let waste = ["incoming", "trash"].map(|folder| files(&backend.join(folder)).len());
        // A pull that was cut off keeps what it has for the next one of that image.
        let ingests = caller.json(&["content", "active"])?;
        let is_equal = is_equal
            && ingests.as_array().unwrap().len() == files(&root.join("content/ingest")).len();
        Ok(Some(()).filter(|()| is_equal && waste == [0, 0]))
    };
    eventually("the disk holds what the records say", look).unwrap_or_else(|error| {
        let blobs = (
            blobs_held(caller),
            files(&root.join("content/blobs/sha256")),
        );
        let folders = ["snapshots", "incoming", "trash"].map(|name| files(&backend.join(name)));
        let snapshots = caller.json(&["snapshots", "ls"]);
        let leases = caller.json(&["leases", "ls"]);
        panic!("{what}: {error}: {blobs:#?} {folders:#?} {snapshots:#?} {leases:#?}")
    });
    let fsck = caller.orlop(&["fsck", "--verify"]).unwrap();
    assert_eq!(fsck.code, 0, "{what}: {fsck:?}");
}

/// Repeats what may have been cut off, removes everything, and holds the node to it.
fn end_with_nothing(node: Node, images: &[&str], what: &str) {
    // A pull that was cut off keeps what it has for the next one of that image, which takes it over.
    for image in images {
        node.caller()
            .orlop(&["pull", image])
            .unwrap()
            .success()
            .unwrap();
    }
    let leases = node.caller().json(&["leases", "ls"]).unwrap();
    assert_eq!(leases, json!([]), "{what}");
    remove_everything(node.caller()).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    compare_disk_with_records(&node, what);
    let status = node.caller().json(&["gc", "status"]).unwrap();
    assert_eq!(status["bytes_held"], 0, "{what}: {status:#}");
    let root = node.engine().unwrap().root().to_owned();
    let snapshots = files(&root.join("snapshots/overlayfs/snapshots"));
    assert!(snapshots.is_empty(), "{what}: {snapshots:#?}");
    node.close()
        .unwrap_or_else(|error| panic!("{what}: {error:#}"));
}

#[test]
fn whatever_was_acknowledged_survives_kills_and_nothing_else_stays_on_disk() {
    let points = number(POINTS_VARIABLE, POINTS_DEFAULT);
    let seed = number(SEED_VARIABLE, SEED_DEFAULT);
    let mut numbers = Numbers::new(seed);
    let mut node = Node::start().unwrap();
    let layout = image::large(node.scratch(), 5, 1 << 20).unwrap();
    let registry = node.registry();
    let large = ["e2e/large:1", "e2e/large:2"]
        .map(|name| registry.push(&layout, image::TAG, name).unwrap());
    let mut lanes = [
        Lane::new(&[&large[0], &large[1]], &[], "none"),
        Lane::new(&[node.image()], &["one", "two"], "cni"),
    ];
    let mut acknowledged = 0;
    for point in 1..=points {
        let what = format!("seed {seed}, point {point}");
        acknowledged += work_until_killed(&mut node, &mut lanes, &mut numbers);
        node.start_daemon().unwrap();
        for lane in &mut lanes {
            lane.check(node.caller(), Loss::Daemon)
                .unwrap_or_else(|error| panic!("{what}: {error:#}"));
        }
        if point % POINTS_BETWEEN_COMPARISONS == 0 {
            compare_disk_with_records(&node, &what);
        }
    }
    assert!(acknowledged > 0, "seed {seed}: nothing was acknowledged");
    let small = node.image().to_owned();
    let what = format!("seed {seed}, {points} points, {acknowledged} acknowledgements");
    println!("{what}");
    end_with_nothing(node, &[&large[0], &large[1], &small], &what);
}

/// Starts a container while `helper` is killed. Gives whether it was there to be killed.
fn run_against_a_killer(node: &Node, helper: Helper, delay: Duration, name: &str) -> bool {
    let start = [
        "run",
        "-d",
        "--net",
        "cni",
        "--name",
        name,
        node.image(),
        "sleep",
        "1000",
    ];
    let (answer, was_killed) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| node.kill_helper(helper, delay).unwrap());
        let answer = node.caller().orlop(&start).unwrap();
        (answer, killer.join().unwrap())
    });
    let what = format!("{helper:?} after {delay:?}");
    if answer.code == 0 {
        let ends_container = helper == Helper::ShimServer && was_killed;
        if ends_container {
            let exit = node.wait_for_exit(name).unwrap();
            assert_eq!(exit["cause"], "shim_crash", "{what}: {exit:#}");
        }
    } else {
        assert!(was_killed, "{what}: nobody was killed: {answer:?}");
        assert!(answer.stderr.contains("ORL-E"), "{what}: {answer:?}");
        assert!(answer.stderr.contains(told(helper)), "{what}: {answer:?}");
    }
    node.caller().orlop(&["rm", "--force", name]).unwrap();
    eventually("the attempt is undone", || {
        Ok(Some(()).filter(|()| node.leftovers().is_ok_and(|left| left.is_empty())))
    })
    .unwrap_or_else(|error| panic!("{what}: {error:#}: {:#?} {answer:?}", node.leftovers()));
    let containers = node.caller().json(&["ps", "-a"]).unwrap();
    assert_eq!(containers, json!([]), "{what}");
    was_killed
}

/// A word of the message that tells whose end it was.
fn told(helper: Helper) -> &'static str {
    match helper {
        Helper::ShimStart | Helper::ShimServer => "shim",
        Helper::OciRuntime => "OCI runtime",
        Helper::CniPlugin => "bridge",
    }
}

#[test]
fn a_helper_that_is_killed_is_told_of_and_its_work_undone() {
    let points = number(HELPER_POINTS_VARIABLE, HELPER_POINTS_DEFAULT);
    let seed = number(SEED_VARIABLE, SEED_DEFAULT);
    let mut numbers = Numbers::new(seed);
    let node = Node::start().unwrap();
    node.caller()
        .orlop(&["pull", node.image()])
        .unwrap()
        .success()
        .unwrap();
    for helper in [
        Helper::ShimStart,
        Helper::ShimServer,
        Helper::OciRuntime,
        Helper::CniPlugin,
    ] {
        let mut kills = 0;
        for point in 1..=points {
            // Every other one early: a shim's `start` is over in a few milliseconds.
            let longest_micros = if point % 2 == 0 { 25_000 } else { 1_000 };
            let delay = Duration::from_micros(numbers.below(longest_micros));
            let name = format!("c{point}");
            kills += u64::from(run_against_a_killer(&node, helper, delay, &name));
        }
        assert!(
            kills > 0,
            "seed {seed}: no {helper:?} was found to be killed"
        );
    }
    end_with_nothing(node, &[], &format!("seed {seed}"));
}

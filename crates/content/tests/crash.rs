//! The store's crash suite: a writer is killed -9 at random points, over and over, on one root.

mod support;

use std::time::Duration;

use orlop_content::Store;

/// Bounded for CI to some seconds; `ORLOP_CRASH_ROUNDS` makes it as long as one likes.
const ROUNDS: u64 = 200;

#[test]
fn nothing_acknowledged_is_lost_and_nothing_unverified_appears_by_kill_9() {
    support::be_the_victim_if_asked();
    let name = "nothing_acknowledged_is_lost_and_nothing_unverified_appears_by_kill_9";
    let rounds = std::env::var("ORLOP_CRASH_ROUNDS")
        .map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    // A kill does not touch what the kernel holds, so memory is as good as a disk, and many times as fast.
    let folder = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let mut random = support::Random::new(42);
    let (mut acknowledged_total, mut resumed, mut kept) = (0, 0, 0);
    for round in 0..rounds {
        let lifetime = Duration::from_micros(random.below(20_000));
        let acknowledged = support::run_and_kill(name, folder.path(), round * 10_000, lifetime);
        let store = Store::open(folder.path()).expect("the dead writer's lock is gone");
        support::check_blobs(&store, &acknowledged);
        let (ingests, bytes) = support::check_ingests(&store);
        (resumed, kept) = (resumed + ingests, kept + bytes);
        acknowledged_total += acknowledged.len();
        for blob in store.walk().expect("the folder is readable") {
            let digest = blob.expect("no stranger is in it").digest;
            store.remove(&digest).expect("a blob can be removed");
        }
    }
    // Otherwise the suite would have tested nothing.
    assert!(resumed > 0 && kept > 0, "{resumed} ingests, {kept} bytes");
    println!(
        "{rounds} kills, {acknowledged_total} acknowledged, {resumed} resumed with {kept} bytes"
    );
}

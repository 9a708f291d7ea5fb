//! Many pods, many callers, and a daemon that is killed again and again: what was removed is gone in every respect, and
//! memory stays what it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::print_stdout,
    reason = "how much was done is the result of a long run"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orlop_e2e::pods::{Epoch, PodLane, Puller, Shared, take_all_away};
use orlop_e2e::traces::Traces;
use orlop_e2e::workload::Numbers;
use orlop_e2e::{Kubelet, Node, figures};

/// How many pods are made and removed; a figure worth telling begins at a thousand.
const PODS_VARIABLE: &str = "ORLOP_PODS";
const PODS_DEFAULT: u64 = 60;

/// Repeats a run that failed.
const SEED_VARIABLE: &str = "ORLOP_CRASH_SEED";
const SEED_DEFAULT: u64 = 0x5eed;

/// Between two kills in the mean.
const PODS_PER_LIFE: u64 = 20;

const LANES: u64 = 3;

/// What the last life may use beyond what it used at its beginning.
const GROWTH_BYTES_MAX: u64 = 2 << 20;

/// Rounds of callers that pull at one pod; the daemon is killed in every other one.
const ROUNDS_VARIABLE: &str = "ORLOP_CONTENTION_ROUNDS";
const ROUNDS_DEFAULT: u64 = 8;
const PULLERS: u64 = 4;
const CALLS: u32 = 14;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A node that has had a pod, and what is there without any.
fn prepare() -> (Node, Kubelet, Traces) {
    let node = Node::start().unwrap();
    let socket = node.engine().unwrap().socket().to_owned();
    let kubelet = Kubelet::new(node.scratch(), &socket).unwrap();
    let before = Traces::of_used(&node, &kubelet).unwrap();
    (node, kubelet, before)
}

/// Nothing may be there that was not there before.
fn end(node: Node, kubelet: &Kubelet, before: &Traces, what: &str) {
    take_all_away(kubelet).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let collected = node.caller().orlop(&["gc", "run"]).unwrap();
    collected.success().unwrap();
    before
        .settle(&node)
        .unwrap_or_else(|error| panic!("{what}: {error:#}"));
    node.close()
        .unwrap_or_else(|error| panic!("{what}: {error:#}"));
}

fn memory_bytes(node: &Node) -> u64 {
    figures::allocated_bytes(node.engine().unwrap().pid()).unwrap()
}

/// Lets all lanes make pods until `wanted` are made and removed; gives how many were cut off. `between` is called again
/// and again with how many are done.
fn churn(lanes: &mut [PodLane], epoch: &Epoch, wanted: u64, mut between: impl FnMut(u64)) -> u64 {
    let (done, cut_off) = (AtomicU64::new(0), AtomicU64::new(0));
    let has_failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = lanes
            .iter_mut()
            .map(|lane| {
                let (done, cut_off, has_failed) = (&done, &cut_off, &has_failed);
                scope.spawn(move || {
                    while done.load(Ordering::SeqCst) < wanted && !has_failed.load(Ordering::SeqCst)
                    {
                        match lane.cycle(epoch) {
                            Ok(true) => done.fetch_add(1, Ordering::SeqCst),
                            Ok(false) => cut_off.fetch_add(1, Ordering::SeqCst),
                            Err(error) => {
                                has_failed.store(true, Ordering::SeqCst);
                                panic!("{error:#}");
                            }
                        };
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            between(done.load(Ordering::SeqCst));
            std::thread::sleep(Duration::from_millis(5));
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
    cut_off.into_inner()
}

#[test]
fn pods_come_and_go_under_kills_and_leave_nothing() {
    let (pods, seed) = (
        number(PODS_VARIABLE, PODS_DEFAULT),
        number(SEED_VARIABLE, SEED_DEFAULT),
    );
    println!("seed {seed}, {pods} pods");
    let begun = Instant::now();
    let mut numbers = Numbers::new(seed);
    let (mut node, kubelet, before) = prepare();
    let epoch = Epoch::default();
    let mut lanes: Vec<PodLane> = (0..LANES)
        .map(|lane| PodLane::new(&node, &format!("lane{lane}"), numbers.below(u64::MAX)).unwrap())
        .collect();
    let mut next_kill = PODS_PER_LIFE / 2;
    let mut kills = 0;
    let mut memory = Vec::new();
    let cut_off = churn(&mut lanes, &epoch, pods, |done| {
        if done < next_kill {
            return;
        }
        std::thread::sleep(Duration::from_millis(numbers.below(300)));
        memory.push(memory_bytes(&node));
        epoch.turn();
        node.kill_daemon().unwrap();
        node.start_daemon().unwrap();
        epoch.turn();
        kills += 1;
        next_kill = done + PODS_PER_LIFE / 2 + numbers.below(PODS_PER_LIFE);
    });
    println!("after {kills} kills: {cut_off} pods cut off, memory at each {memory:?}");
    assert!(kills > 0, "nobody was killed");

    // One life to its end, to see whether it grows when caches and threads are warm.
    let life = pods / 2;
    let mut early = 0;
    churn(&mut lanes, &epoch, life, |done| {
        if done <= life / 2 + LANES {
            early = memory_bytes(&node).max(early);
        }
    });
    let late = memory_bytes(&node);
    println!(
        "memory {early} bytes in the first half of a life of {life} pods, {late} at its end; all in {} s",
        begun.elapsed().as_secs()
    );
    assert!(
        late < early + GROWTH_BYTES_MAX,
        "it grows: {early} to {late} bytes"
    );
    drop(lanes);
    end(node, &kubelet, &before, &format!("seed {seed}"));
}

#[test]
fn many_callers_of_one_pod_come_to_an_end_that_is_one() {
    let (rounds, seed) = (
        number(ROUNDS_VARIABLE, ROUNDS_DEFAULT),
        number(SEED_VARIABLE, SEED_DEFAULT),
    );
    println!("seed {seed}, {rounds} rounds");
    let mut numbers = Numbers::new(seed);
    let (mut node, kubelet, before) = prepare();
    for round in 1..=rounds {
        let what = format!("seed {seed}, round {round}");
        let shared = Shared::default();
        let mut pullers: Vec<Puller<'_>> = (0..PULLERS)
            .map(|_| Puller::new(&node, &shared, numbers.below(u64::MAX)).unwrap())
            .collect();
        std::thread::scope(|scope| {
            let workers: Vec<_> = pullers
                .iter_mut()
                .map(|puller| scope.spawn(|| puller.pull(CALLS)))
                .collect();
            if round % 2 == 0 {
                std::thread::sleep(Duration::from_millis(numbers.below(600)));
                shared.epoch.turn();
                node.kill_daemon().unwrap();
                node.start_daemon().unwrap();
                shared.epoch.turn();
            }
            for worker in workers {
                worker
                    .join()
                    .unwrap()
                    .unwrap_or_else(|error| panic!("{what}: {error:#}"));
            }
        });
        drop(pullers);
        take_all_away(&kubelet).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        before
            .settle(&node)
            .unwrap_or_else(|error| panic!("{what}: {error:#}"));
    }
    end(node, &kubelet, &before, &format!("seed {seed}"));
}

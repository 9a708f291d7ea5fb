//! Our policies against libCacheSim's, on the same small trace. Its figures are recorded in `data/libcachesim.json`, by
//! `data/libcachesim.py`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use orlop_cache::trace::{Room, Shape, generate, replay};
use serde::Deserialize;

/// Two points.
const TOLERANCE: f64 = 0.02;

#[derive(Deserialize)]
struct Recorded {
    trace: Trace,
    caches: Vec<Cache>,
}

#[derive(Deserialize)]
struct Trace {
    seed: u64,
    blobs: u64,
    requests: u64,
    requests_made: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Cache {
    policy: String,
    room_bytes: u64,
    hit_ratio: f64,
    byte_hit_ratio: f64,
}

#[test]
fn hit_ratios_are_within_two_points_of_libcachesim() {
    let recorded: Recorded = serde_json::from_str(include_str!("data/libcachesim.json")).unwrap();
    let told = &recorded.trace;
    let trace = generate(&Shape {
        seed: told.seed,
        blobs: told.blobs,
        requests: told.requests,
        ..Shape::default()
    });
    // Of another trace the figures would say nothing.
    assert_eq!(trace.len() as u64, told.requests_made);
    let bytes: u64 = trace.iter().map(|request| request.bytes).sum();
    assert!(bytes.abs_diff(told.bytes) < told.bytes / 1000, "{bytes}");
    assert_eq!(recorded.caches.len(), 9);
    for theirs in &recorded.caches {
        let rooms = [Room::Bytes(theirs.room_bytes)];
        let ours = replay(&trace, &rooms, 1 << 20);
        let ours = ours
            .iter()
            .find(|one| one.eviction.as_str() == theirs.policy)
            .unwrap();
        let pairs = [
            ("requests", ours.hit_ratio(), theirs.hit_ratio),
            ("bytes", ours.byte_hit_ratio(), theirs.byte_hit_ratio),
        ];
        for (what, ours, theirs_is) in pairs {
            let apart = (ours - theirs_is).abs();
            let (policy, room) = (&theirs.policy, theirs.room_bytes);
            assert!(
                apart <= TOLERANCE,
                "{policy}, {room} bytes, {what}: {ours} and {theirs_is}"
            );
        }
    }
}

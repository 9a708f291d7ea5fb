//! What caches of several sizes and policies would have done with a trace.

use std::collections::HashMap;

use super::Request;
use crate::policy::{Gdsf, Lru, Policy, S3Fifo, Split};

/// How a cache chooses what to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// [`Lru`].
    Lru,
    /// [`S3Fifo`].
    S3Fifo,
    /// [`Gdsf`].
    Gdsf,
    /// [`Split`], which the server uses.
    Split,
}

/// A cache's size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Room {
    /// In bytes.
    Bytes(u64),
    /// In per cent of the bytes of all blobs of the trace together.
    Percent(f64),
}

/// What one cache would have done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Replay {
    /// How it chooses.
    pub eviction: Eviction,
    /// Its size in bytes.
    pub room_bytes: u64,
    /// All requests.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that it would have answered itself.
    pub hits: u64,
    /// Their bytes.
    pub hit_bytes: u64,
}

impl Eviction {
    /// All there are, the one to compare with first.
    pub const ALL: [Self; 4] = [Self::Lru, Self::S3Fifo, Self::Gdsf, Self::Split];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lru => "LRU",
            Self::S3Fifo => "S3-FIFO",
            Self::Gdsf => "GDSF",
            Self::Split => "the server's",
        }
    }

    fn policy(self, room_bytes: u64, small_max_bytes: u64) -> Box<dyn Policy<u64>> {
        match self {
            Self::Lru => Box::new(Lru::new(room_bytes)),
            Self::S3Fifo => Box::new(S3Fifo::new(room_bytes)),
            Self::Gdsf => Box::new(Gdsf::new(room_bytes)),
            Self::Split => Box::new(Split::new(room_bytes, small_max_bytes)),
        }
    }
}

impl Replay {
    /// The part of the requests that were hits.
    #[must_use]
    pub fn hit_ratio(&self) -> f64 {
        ratio(self.hits, self.requests)
    }

    /// The part of the bytes that were hits.
    #[must_use]
    pub fn byte_hit_ratio(&self) -> f64 {
        ratio(self.hit_bytes, self.bytes)
    }
}

/// Asks each policy at each size, request by request, from empty. `small_max_bytes` is what the server's takes for small.
#[must_use]
pub fn replay(trace: &[Request], rooms: &[Room], small_max_bytes: u64) -> Vec<Replay> {
    let sizes: HashMap<u64, u64> = trace.iter().map(|one| (one.blob, one.bytes)).collect();
    let unique: u64 = sizes.values().sum();
    let mut replays = Vec::new();
    for room in rooms {
        let room_bytes = match *room {
            Room::Bytes(bytes) => bytes,
            Room::Percent(percent) => part_of(unique, percent),
        };
        for eviction in Eviction::ALL {
            let policy = eviction.policy(room_bytes, small_max_bytes);
            replays.push(run(trace, policy, (eviction, room_bytes)));
        }
    }
    replays
}

fn run(
    trace: &[Request],
    mut policy: Box<dyn Policy<u64>>,
    (eviction, room_bytes): (Eviction, u64),
) -> Replay {
    let mut sum = Replay {
        eviction,
        room_bytes,
        requests: 0,
        bytes: 0,
        hits: 0,
        hit_bytes: 0,
    };
    for request in trace {
        sum.requests += 1;
        sum.bytes += request.bytes;
        if policy.request(&request.blob, request.bytes) {
            sum.hits += 1;
            sum.hit_bytes += request.bytes;
        }
    }
    sum
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a room to within some bytes"
)]
fn part_of(bytes: u64, percent: f64) -> u64 {
    (bytes as f64 * percent / 100.0) as u64
}

#[allow(clippy::cast_precision_loss, reason = "a ratio, to a few digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

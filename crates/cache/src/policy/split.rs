//! What the server uses: small objects in a reserved part of the room by [`Gdsf`], the rest by [`S3Fifo`].
//!
//! By request the one is better, by bytes the other (measured on traces made from the published statistics of IBM's
//! registries, FAST '18); with both, a flood of large layers takes no manifest's place.

use super::{Gdsf, Key, Policy, S3Fifo};

/// The part of the room that is for small objects, in per cent.
const SMALL_PERCENT: u64 = 10;

/// Two policies, by size.
#[derive(Debug)]
pub struct Split<K> {
    small_max: u64,
    small: Gdsf<K>,
    large: S3Fifo<K>,
}

impl<K: Key> Split<K> {
    /// An empty one. What has up to `small_max_bytes` is small.
    #[must_use]
    pub fn new(room_bytes: u64, small_max_bytes: u64) -> Self {
        let [small, large] = parts(room_bytes);
        Self {
            small_max: small_max_bytes,
            small: Gdsf::new(small),
            large: S3Fifo::new(large),
        }
    }
}

/// The rooms of the small and of the large.
fn parts(room_bytes: u64) -> [u64; 2] {
    let small = room_bytes / 100 * SMALL_PERCENT;
    [small, room_bytes - small]
}

impl<K: Key> Policy<K> for Split<K> {
    fn hit(&mut self, key: &K) -> bool {
        self.small.hit(key) || self.large.hit(key)
    }

    fn insert(&mut self, key: K, bytes: u64) -> Vec<K> {
        if self.hit(&key) {
            Vec::new()
        } else if bytes <= self.small_max {
            self.small.insert(key, bytes)
        } else {
            self.large.insert(key, bytes)
        }
    }

    fn remove(&mut self, key: &K) -> bool {
        self.small.remove(key) || self.large.remove(key)
    }

    fn resize(&mut self, room_bytes: u64) -> Vec<K> {
        let [small, large] = parts(room_bytes);
        let mut evicted = self.small.resize(small);
        evicted.extend(self.large.resize(large));
        evicted
    }

    fn used_bytes(&self) -> u64 {
        self.small.used_bytes() + self.large.used_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_the_large_leaves_the_small_alone() {
        let mut policy = Split::new(1000, 20);
        policy.insert(0, 10);
        for key in 1..100 {
            policy.insert(key, 500);
        }
        assert!(policy.hit(&0));
    }
}

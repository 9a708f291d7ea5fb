//! What the server uses: small objects in a reserved part of the room by [`Gdsf`], the rest by [`S3Fifo`].
//!
//! By request the one is better, by bytes the other (measured on traces made from the published statistics of IBM's
//! registries, FAST '18); with both, a flood of large layers takes no manifest's place.
//!
//! Bytes that are there and must stay (what is being written, read or pinned) are *held*: they are taken from a part's
//! room without being a key in it.

use super::{Gdsf, Key, Policy, S3Fifo};

/// The part of the room that is for small objects, in per cent.
const SMALL_PERCENT: u64 = 10;

/// A part of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// For manifests, configs and small blobs.
    Small,
    /// For the rest, and for what finds no room in the other.
    Large,
}

/// Two policies, by size.
#[derive(Debug)]
pub struct Split<K> {
    small_max: u64,
    small: Gdsf<K>,
    large: S3Fifo<K>,
    small_room: Share,
    large_room: Share,
}

/// A part's room, and how much of it is held.
#[derive(Debug, Clone, Copy)]
struct Share {
    room: u64,
    held: u64,
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
            small_room: Share::new(small),
            large_room: Share::new(large),
        }
    }

    /// The part that could take so many bytes, if all that is kept went except for what is `busy`, in bytes of the small
    /// and of the large part. `None` if neither could.
    #[must_use]
    pub fn part_for(&self, bytes: u64, busy: [u64; 2]) -> Option<Part> {
        let [small_busy, large_busy] = busy;
        if bytes <= self.small_max && bytes <= self.small_room.free().saturating_sub(small_busy) {
            Some(Part::Small)
        } else if bytes <= self.large_room.free().saturating_sub(large_busy) {
            Some(Part::Large)
        } else {
            None
        }
    }

    /// Which part a key is kept in.
    #[must_use]
    pub fn part_of(&self, key: &K) -> Option<Part> {
        if self.small.contains(key) {
            Some(Part::Small)
        } else {
            self.large.contains(key).then_some(Part::Large)
        }
    }

    /// Takes `bytes` out of a part's room, and returns what has to go for them. If more is held than there is room,
    /// nothing is kept in that part.
    pub fn hold(&mut self, part: Part, bytes: u64) -> Vec<K> {
        let share = self.share(part);
        share.held = share.held.saturating_add(bytes);
        self.fit(part)
    }

    /// Gives held bytes back.
    pub fn release(&mut self, part: Part, bytes: u64) {
        let share = self.share(part);
        share.held = share.held.saturating_sub(bytes);
        let nothing = self.fit(part);
        debug_assert!(nothing.is_empty(), "more room drives nothing out");
    }

    /// Gives up at least `bytes` of what is kept in a part, or all of it.
    pub fn shed(&mut self, part: Part, bytes: u64) -> Vec<K> {
        let used = self.used_in(part);
        let unused = self.share(part).free().saturating_sub(used);
        let held = unused.saturating_add(bytes);
        let evicted = self.hold(part, held);
        self.release(part, held);
        evicted
    }

    /// Makes a key of bytes that were held. Nothing has to go for it, unless more was held than there is room.
    pub fn settle(&mut self, part: Part, key: K, bytes: u64) -> Vec<K> {
        self.release(part, bytes);
        match part {
            Part::Small => self.small.insert(key, bytes),
            Part::Large => self.large.insert(key, bytes),
        }
    }

    /// Bytes held, of both parts.
    #[must_use]
    pub const fn held_bytes(&self) -> u64 {
        self.small_room.held.saturating_add(self.large_room.held)
    }

    /// Bytes kept in one part.
    #[must_use]
    pub fn used_in(&self, part: Part) -> u64 {
        match part {
            Part::Small => self.small.used_bytes(),
            Part::Large => self.large.used_bytes(),
        }
    }

    /// The most that a single object can have if nothing is busy.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.large_room.free()
    }

    const fn share(&mut self, part: Part) -> &mut Share {
        match part {
            Part::Small => &mut self.small_room,
            Part::Large => &mut self.large_room,
        }
    }

    fn fit(&mut self, part: Part) -> Vec<K> {
        match part {
            Part::Small => self.small.resize(self.small_room.free()),
            Part::Large => self.large.resize(self.large_room.free()),
        }
    }
}

impl Share {
    const fn new(room: u64) -> Self {
        Self { room, held: 0 }
    }

    const fn free(self) -> u64 {
        self.room.saturating_sub(self.held)
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
            return Vec::new();
        }
        match self.part_for(bytes, [0, 0]) {
            Some(Part::Small) => self.small.insert(key, bytes),
            Some(Part::Large) => self.large.insert(key, bytes),
            None => vec![key],
        }
    }

    fn remove(&mut self, key: &K) -> bool {
        self.small.remove(key) || self.large.remove(key)
    }

    fn resize(&mut self, room_bytes: u64) -> Vec<K> {
        [self.small_room.room, self.large_room.room] = parts(room_bytes);
        let mut evicted = self.fit(Part::Small);
        evicted.extend(self.fit(Part::Large));
        evicted
    }

    fn used_bytes(&self) -> u64 {
        self.small.used_bytes() + self.large.used_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn what_is_small_and_finds_no_room_among_the_small_goes_to_the_large() {
        let mut policy = Split::new(1000, 200);
        assert!(policy.insert(1, 150).is_empty());
        assert_eq!(policy.part_of(&1), Some(Part::Large));
        policy.insert(2, 100);
        assert_eq!(policy.part_of(&2), Some(Part::Small));
        assert!(policy.hold(Part::Small, 60) == [2], "100 of 40 bytes");
        policy.insert(3, 100);
        assert_eq!(policy.part_of(&3), Some(Part::Large));
    }

    #[test]
    fn more_held_than_there_is_room_keeps_nothing_and_comes_back() {
        let mut policy = Split::new(1000, 10);
        policy.insert(1, 500);
        assert_eq!(policy.hold(Part::Large, 2000), [1]);
        assert_eq!(policy.part_for(1, [0, 0]), Some(Part::Small));
        assert_eq!(policy.part_for(11, [0, 0]), None);
        policy.release(Part::Large, 2000);
        assert_eq!(policy.part_for(900, [0, 0]), Some(Part::Large));
        assert_eq!(policy.part_for(900, [0, 1]), None);
    }

    proptest! {
        #[test]
        fn what_is_held_becomes_a_key_without_driving_anything_out(
            sizes in proptest::collection::vec(1..300_u64, 1..100),
        ) {
            let mut policy = Split::new(1000, 50);
            for (key, bytes) in sizes.into_iter().enumerate() {
                let part = policy.part_for(bytes, [0, 0]).expect("there is room for each");
                policy.hold(part, bytes);
                prop_assert!(policy.used_bytes() + policy.held_bytes() <= 1000);
                prop_assert!(policy.settle(part, key, bytes).is_empty());
                prop_assert_eq!(policy.held_bytes(), 0);
                prop_assert!(policy.used_bytes() <= 1000);
            }
        }
    }
}

//! What to give up when the room is used up: pure, exact, and the same code for the server and for a replay of its ledger.
//!
//! All sizes are bytes. A policy knows keys and sizes, nothing of where the bytes are; whoever asks it removes what it
//! names. What is pinned is no key of a policy: its bytes are held, and taken from the room.

mod gdsf;
mod lru;
mod s3fifo;
mod split;

pub use gdsf::Gdsf;
pub use lru::Lru;
pub use s3fifo::S3Fifo;
pub use split::{Part, Split};

use std::hash::Hash;

/// What a policy is asked about.
pub trait Key: Clone + Eq + Hash + Ord {}

impl<K: Clone + Eq + Hash + Ord> Key for K {}

/// Chooses what to give up.
///
/// Whatever is done, the bytes of what is kept stay within the room, and a key is kept at most once.
pub trait Policy<K: Key> {
    /// Notes a use of something that is kept. `false` if it is not.
    fn hit(&mut self, key: &K) -> bool;

    /// Keeps something new, and returns what has to go for it, in the order it was chosen. What is larger than the whole
    /// room is not kept: it is returned itself. Something that is kept already is a use of it.
    fn insert(&mut self, key: K, bytes: u64) -> Vec<K>;

    /// Takes something out that is gone for another reason. `false` if it was not kept.
    fn remove(&mut self, key: &K) -> bool;

    /// Changes the room, and returns what has to go.
    fn resize(&mut self, room_bytes: u64) -> Vec<K>;

    /// How many bytes are kept.
    fn used_bytes(&self) -> u64;

    /// A request: a hit, or an insertion after a miss. Returns whether it was a hit.
    fn request(&mut self, key: &K, bytes: u64) -> bool {
        if self.hit(key) {
            return true;
        }
        self.insert(key.clone(), bytes);
        false
    }
}

/// A policy with one room, from which things leave in an order of its own.
trait Room<K: Key>: Policy<K> {
    fn room_bytes(&mut self) -> &mut u64;

    /// Gives up what comes first in its order, until no more than `bytes` are kept.
    fn shrink_to(&mut self, bytes: u64) -> Vec<K>;

    /// Takes in what is new and has room.
    fn keep(&mut self, key: K, bytes: u64);
}

/// [`Policy::insert`] of one room.
fn insert<K: Key>(policy: &mut impl Room<K>, key: K, bytes: u64) -> Vec<K> {
    if policy.hit(&key) {
        return Vec::new();
    }
    let room = *policy.room_bytes();
    if bytes > room {
        return vec![key];
    }
    let evicted = policy.shrink_to(room - bytes);
    policy.keep(key, bytes);
    evicted
}

/// [`Policy::resize`] of one room.
fn resize<K: Key>(policy: &mut impl Room<K>, room_bytes: u64) -> Vec<K> {
    *policy.room_bytes() = room_bytes;
    policy.shrink_to(room_bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    type Made = Box<dyn Policy<u16>>;

    fn policies(room: u64) -> [(&'static str, Made); 4] {
        [
            ("lru", Box::new(Lru::new(room))),
            ("s3fifo", Box::new(S3Fifo::new(room))),
            ("gdsf", Box::new(Gdsf::new(room))),
            ("split", Box::new(Split::new(room, 20))),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Request(u16, u64),
        Remove(u16),
        Resize(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..40_u16, 0..60_u64).prop_map(|(key, bytes)| Step::Request(key, bytes)),
            1 => (0..40_u16).prop_map(Step::Remove),
            1 => (0..200_u64).prop_map(Step::Resize),
        ]
    }

    /// What is kept according to what the policy said, and nothing else.
    #[derive(Default)]
    struct Model(BTreeMap<u16, u64>);

    impl Model {
        fn take(&mut self, key: u16, bytes: u64, evicted: &[u16]) {
            self.0.insert(key, bytes);
            self.give_up(evicted);
        }

        fn give_up(&mut self, evicted: &[u16]) {
            let unique: BTreeSet<_> = evicted.iter().collect();
            assert_eq!(unique.len(), evicted.len(), "named twice: {evicted:?}");
            for key in evicted {
                assert!(self.0.remove(key).is_some(), "{key} was not kept");
            }
        }
    }

    proptest! {
        #[test]
        fn every_policy_stays_within_its_room_and_tells_all_it_gives_up(
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            for (name, mut policy) in policies(100) {
                let mut model = Model::default();
                let mut room = 100;
                for step in &steps {
                    match *step {
                        Step::Request(key, _) if model.0.contains_key(&key) => {
                            prop_assert!(policy.hit(&key), "{name}: {key} is kept");
                        }
                        Step::Request(key, bytes) => {
                            prop_assert!(!policy.hit(&key), "{name}: {key} is not kept");
                            let evicted = policy.insert(key, bytes);
                            model.take(key, bytes, &evicted);
                        }
                        Step::Remove(key) => {
                            let was_kept = model.0.remove(&key).is_some();
                            prop_assert_eq!(policy.remove(&key), was_kept);
                        }
                        Step::Resize(bytes) => {
                            room = bytes;
                            model.give_up(&policy.resize(bytes));
                        }
                    }
                    let used: u64 = model.0.values().sum();
                    prop_assert_eq!(policy.used_bytes(), used, "{}", name);
                    prop_assert!(used <= room, "{name}: {used} of {room}");
                }
            }
        }
    }

    #[test]
    fn what_is_larger_than_the_room_is_not_kept_and_drives_nothing_out() {
        for (name, mut policy) in policies(100) {
            policy.insert(1, 50);
            assert_eq!(policy.insert(2, 101), [2], "{name}");
            assert!(policy.hit(&1), "{name}");
        }
    }
}

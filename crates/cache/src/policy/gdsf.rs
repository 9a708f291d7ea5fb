//! Greedy-Dual-Size-Frequency (Cherkasova, HP Labs 1998): what is small and often used stays. The best by requests, so it is
//! for manifests, configs and small blobs, each of which costs a round trip to fetch.

use std::collections::{BTreeSet, HashMap};

use super::{Key, Policy, Room, insert, resize};

/// Priorities are whole numbers of uses for each of so many bytes: their order is exact, and the same on every machine.
const SCALE: u128 = 1 << 40;

/// Gives up what has the fewest uses for its bytes, grown old.
#[derive(Debug)]
pub struct Gdsf<K> {
    room: u64,
    used: u64,
    /// The priority of what was given up last: what is used or comes later starts from there, and so the rest grows old.
    age: u128,
    entries: HashMap<K, Entry>,
    order: BTreeSet<(u128, K)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    uses: u64,
    priority: u128,
}

impl<K: Key> Gdsf<K> {
    /// An empty one.
    #[must_use]
    pub fn new(room_bytes: u64) -> Self {
        Self {
            room: room_bytes,
            used: 0,
            age: 0,
            entries: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Whether it is kept.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    fn priority(&self, bytes: u64, uses: u64) -> u128 {
        self.age + u128::from(uses) * SCALE / u128::from(bytes.max(1))
    }
}

impl<K: Key> Room<K> for Gdsf<K> {
    fn room_bytes(&mut self) -> &mut u64 {
        &mut self.room
    }

    fn shrink_to(&mut self, bytes: u64) -> Vec<K> {
        let mut evicted = Vec::new();
        while self.used > bytes
            && let Some((priority, key)) = self.order.pop_first()
        {
            self.age = priority;
            self.used -= self.entries.remove(&key).map_or(0, |entry| entry.bytes);
            evicted.push(key);
        }
        evicted
    }

    fn keep(&mut self, key: K, bytes: u64) {
        let uses = 1;
        let priority = self.priority(bytes, uses);
        self.used += bytes;
        self.order.insert((priority, key.clone()));
        let entry = Entry {
            bytes,
            uses,
            priority,
        };
        self.entries.insert(key, entry);
    }
}

impl<K: Key> Policy<K> for Gdsf<K> {
    fn hit(&mut self, key: &K) -> bool {
        let Some(entry) = self.entries.get(key).copied() else {
            return false;
        };
        let uses = entry.uses.saturating_add(1);
        let priority = self.priority(entry.bytes, uses);
        self.order.remove(&(entry.priority, key.clone()));
        self.order.insert((priority, key.clone()));
        let bytes = entry.bytes;
        let renewed = Entry {
            bytes,
            uses,
            priority,
        };
        self.entries.insert(key.clone(), renewed);
        true
    }

    fn insert(&mut self, key: K, bytes: u64) -> Vec<K> {
        insert(self, key, bytes)
    }

    fn remove(&mut self, key: &K) -> bool {
        let Some(entry) = self.entries.remove(key) else {
            return false;
        };
        self.used -= entry.bytes;
        self.order.remove(&(entry.priority, key.clone()))
    }

    fn resize(&mut self, room_bytes: u64) -> Vec<K> {
        resize(self, room_bytes)
    }

    fn used_bytes(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_and_rarely_used_goes_first() {
        let mut policy = Gdsf::new(100);
        policy.insert("large", 60);
        policy.insert("small", 10);
        policy.hit(&"large");
        assert_eq!(policy.insert("new", 60), ["large"]);
        assert!(policy.hit(&"small"));
    }

    #[test]
    fn what_is_not_used_any_more_grows_old() {
        let mut policy = Gdsf::new(20);
        policy.insert(0, 10);
        for _ in 0..5 {
            policy.hit(&0);
        }
        for key in 1..40 {
            policy.request(&key, 10);
        }
        assert!(!policy.hit(&0));
    }
}

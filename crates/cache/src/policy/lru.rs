//! Least recently used: what replays are compared with.

use hashlink::LinkedHashMap;

use super::{Key, Policy, Room, insert, resize};

/// Gives up what was not used for the longest time.
#[derive(Debug)]
pub struct Lru<K> {
    room: u64,
    used: u64,
    /// Sizes, the least recently used first.
    kept: LinkedHashMap<K, u64>,
}

impl<K: Key> Lru<K> {
    /// An empty one.
    #[must_use]
    pub fn new(room_bytes: u64) -> Self {
        Self {
            room: room_bytes,
            used: 0,
            kept: LinkedHashMap::new(),
        }
    }
}

impl<K: Key> Room<K> for Lru<K> {
    fn room_bytes(&mut self) -> &mut u64 {
        &mut self.room
    }

    fn shrink_to(&mut self, bytes: u64) -> Vec<K> {
        let mut evicted = Vec::new();
        while self.used > bytes
            && let Some((key, size)) = self.kept.pop_front()
        {
            self.used -= size;
            evicted.push(key);
        }
        evicted
    }

    fn keep(&mut self, key: K, bytes: u64) {
        self.used += bytes;
        self.kept.insert(key, bytes);
    }
}

impl<K: Key> Policy<K> for Lru<K> {
    fn hit(&mut self, key: &K) -> bool {
        self.kept.to_back(key).is_some()
    }

    fn insert(&mut self, key: K, bytes: u64) -> Vec<K> {
        insert(self, key, bytes)
    }

    fn remove(&mut self, key: &K) -> bool {
        let removed = self.kept.remove(key);
        self.used -= removed.unwrap_or_default();
        removed.is_some()
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
    fn the_least_recently_used_goes_first() {
        let mut policy = Lru::new(30);
        for key in ["a", "b", "c"] {
            assert!(policy.insert(key, 10).is_empty());
        }
        assert!(policy.hit(&"a"));
        assert_eq!(policy.insert("d", 15), ["b", "c"]);
    }
}

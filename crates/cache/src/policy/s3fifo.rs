//! S3-FIFO (Yang and others, *FIFO queues are all you need for cache eviction*, SOSP 2023): three queues without moves on a
//! hit. Most of what a registry serves is asked for once; it passes through a small queue and never pushes out the rest.

use hashlink::{LinkedHashMap, LinkedHashSet};

use super::{Key, Policy, Room, insert, resize};

/// The small queue's part of the room, in per cent.
const SMALL_PERCENT: u64 = 10;

/// Uses that are counted; more make no difference.
const USES_MAX: u8 = 3;

/// Uses in the small queue that take something into the main one.
const USES_FOR_MAIN: u8 = 2;

/// Gives up what was used once only, before anything else.
#[derive(Debug)]
pub struct S3Fifo<K> {
    room: u64,
    small: Queue<K>,
    main: Queue<K>,
    ghosts: Ghosts<K>,
}

/// A queue, oldest first.
#[derive(Debug)]
struct Queue<K> {
    entries: LinkedHashMap<K, Entry>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    uses: u8,
}

/// Keys of what left the small queue; as many as the main one has entries, so that they stand for a like time.
#[derive(Debug)]
struct Ghosts<K>(LinkedHashSet<K>);

impl<K: Key> S3Fifo<K> {
    /// An empty one.
    #[must_use]
    pub fn new(room_bytes: u64) -> Self {
        Self {
            room: room_bytes,
            small: Queue::new(),
            main: Queue::new(),
            ghosts: Ghosts(LinkedHashSet::new()),
        }
    }

    /// Whether it is kept.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.small.entries.contains_key(key) || self.main.entries.contains_key(key)
    }

    /// Takes the oldest out of the small queue: into the main one if it was used, else out.
    fn evict_small(&mut self) -> Option<K> {
        let (key, entry) = self.small.pop()?;
        if entry.uses >= USES_FOR_MAIN {
            self.main.push(key, entry.bytes);
            return None;
        }
        self.ghosts.push(key.clone(), self.main.entries.len());
        Some(key)
    }

    /// Takes the oldest out of the main queue, unless it was used since: then it goes round once more for each use.
    fn evict_main(&mut self) -> Option<K> {
        let (key, entry) = self.main.pop()?;
        if entry.uses == 0 {
            return Some(key);
        }
        self.main.push(key.clone(), entry.bytes);
        if let Some(again) = self.main.entries.get_mut(&key) {
            again.uses = entry.uses - 1;
        }
        None
    }
}

impl<K: Key> Room<K> for S3Fifo<K> {
    fn room_bytes(&mut self) -> &mut u64 {
        &mut self.room
    }

    fn shrink_to(&mut self, bytes: u64) -> Vec<K> {
        let mut evicted = Vec::new();
        while self.used_bytes() > bytes {
            let small_is_full = self.small.bytes > self.room / 100 * SMALL_PERCENT;
            if small_is_full || self.main.entries.is_empty() {
                evicted.extend(self.evict_small());
            } else {
                evicted.extend(self.evict_main());
            }
        }
        evicted
    }

    fn keep(&mut self, key: K, bytes: u64) {
        let queue = if self.ghosts.0.remove(&key) {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.push(key, bytes);
    }
}

impl<K: Key> Policy<K> for S3Fifo<K> {
    fn hit(&mut self, key: &K) -> bool {
        self.small.touch(key) || self.main.touch(key)
    }

    fn insert(&mut self, key: K, bytes: u64) -> Vec<K> {
        insert(self, key, bytes)
    }

    fn remove(&mut self, key: &K) -> bool {
        self.small.remove(key) || self.main.remove(key)
    }

    fn resize(&mut self, room_bytes: u64) -> Vec<K> {
        resize(self, room_bytes)
    }

    fn used_bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }
}

impl<K: Key> Queue<K> {
    fn new() -> Self {
        Self {
            entries: LinkedHashMap::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, key: K, bytes: u64) {
        self.bytes += bytes;
        self.entries.insert(key, Entry { bytes, uses: 0 });
    }

    fn pop(&mut self) -> Option<(K, Entry)> {
        let (key, entry) = self.entries.pop_front()?;
        self.bytes -= entry.bytes;
        Some((key, entry))
    }

    fn touch(&mut self, key: &K) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        entry.uses = USES_MAX.min(entry.uses + 1);
        true
    }

    fn remove(&mut self, key: &K) -> bool {
        let removed = self.entries.remove(key);
        self.bytes -= removed.map_or(0, |entry| entry.bytes);
        removed.is_some()
    }
}

impl<K: Key> Ghosts<K> {
    fn push(&mut self, key: K, most: usize) {
        self.0.insert(key);
        while self.0.len() > most.max(1) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_does_not_push_out_what_is_used() {
        let mut policy = S3Fifo::new(100);
        for _ in 0..4 {
            for key in 0..5 {
                policy.request(&key, 10);
            }
        }
        for key in 100..200 {
            policy.request(&key, 10);
        }
        let kept = (0..5).filter(|key| policy.hit(key)).count();
        assert_eq!(kept, 5);
    }

    #[test]
    fn what_comes_back_soon_after_it_went_goes_into_the_main_queue() {
        let mut policy = S3Fifo::new(100);
        // What is used often fills the main queue, so that ghosts are kept.
        for _ in 0..4 {
            for key in 0..9 {
                policy.request(&key, 10);
            }
        }
        policy.request(&100, 10);
        for key in 200.. {
            if !policy.small.entries.contains_key(&100) {
                break;
            }
            policy.request(&key, 10);
        }
        assert!(!policy.request(&100, 10), "it was used once, and went");
        assert!(policy.main.entries.contains_key(&100));
    }
}

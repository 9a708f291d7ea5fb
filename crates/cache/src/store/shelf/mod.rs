//! What lies where, in memory: the truth while a store is open, of which the rows are the durable shadow. Pure.
//!
//! Every digest is at one spot: kept, being filled, parked (begun, and nobody is at it) or leaving. All bytes that are or
//! may come to be on disk are accounted for in the policy's room, as keys or as held, so that the cap holds at any time.

mod fills;
mod spot;
mod usage;

pub(super) use spot::{Kept, Reserved, Seen, Victim};
pub use usage::Usage;

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};

use orlop_types::Digest;

use crate::policy::{Part, Policy, Split};
use spot::{Held, Leaving, Lingering, Spot};

/// A digest's first half: as hard to make twice as a digest, and a fourth of its size in memory.
type Key = u128;

/// Uses told to the policy of what is loaded; more would hardly move it.
const USES_TOLD_MAX: u64 = 16;

#[derive(Debug)]
pub(super) struct Shelf {
    policy: Split<Key>,
    spots: HashMap<Key, Spot>,
    /// Kept, and being read at this moment.
    reading: HashSet<Key>,
    /// Removed while being read, by serial: the bytes go with the last reader.
    lingering: HashMap<u64, Lingering>,
    /// Set aside as damaged.
    aside: HashMap<Key, Held>,
    /// Used since the rows were written.
    dirty: HashSet<Key>,
    serial: u64,
}

impl Shelf {
    pub(super) fn new(cap_bytes: u64, small_max_bytes: u64) -> Self {
        Self {
            policy: Split::new(cap_bytes, small_max_bytes),
            spots: HashMap::new(),
            reading: HashSet::new(),
            lingering: HashMap::new(),
            aside: HashMap::new(),
            dirty: HashSet::new(),
            serial: 0,
        }
    }

    /// Takes in what lay on disk when the store was opened, the least recently used first. Returns what has no room.
    pub(super) fn load(&mut self, kept: Kept, pinned: bool) -> Vec<Victim> {
        let (key, size, uses) = (key_of(&kept.digest), kept.size, kept.uses);
        self.serial += 1;
        let held = pinned.then(|| self.part_or_large(size));
        let serial = self.serial;
        let kept = Kept {
            serial,
            pinned,
            held,
            ..kept
        };
        self.spots.insert(key, Spot::Kept(kept));
        if let Some(held) = held {
            let evicted = self.policy.hold(held.part, held.bytes);
            return self.absorb(held.part, evicted);
        }
        let evicted = self.policy.insert(key, size);
        for _ in 1..uses.min(USES_TOLD_MAX) {
            self.policy.hit(&key);
        }
        // The part matters for what is being read, and nobody reads anything yet.
        self.absorb(Part::Large, evicted)
    }

    pub(super) fn kept(&self, digest: &Digest) -> Option<&Kept> {
        match self.spots.get(&key_of(digest))? {
            Spot::Kept(kept) if kept.digest == *digest => Some(kept),
            Spot::Kept(_) | Spot::Filling { .. } | Spot::Parked { .. } | Spot::Leaving(_) => None,
        }
    }

    /// Begins to read a blob: a use of it, and it stays until [`Shelf::read`].
    /// A check of its bytes is no use.
    pub(super) fn begin_reading(&mut self, digest: &Digest, used_at: Option<i64>) -> Option<Seen> {
        let key = key_of(digest);
        let Some(Spot::Kept(kept)) = self.spots.get_mut(&key) else {
            return None;
        };
        if kept.digest != *digest {
            return None;
        }
        kept.readers = kept.readers.saturating_add(1);
        self.reading.insert(key);
        if let Some(used_at) = used_at {
            kept.used_at = used_at;
            kept.uses = kept.uses.saturating_add(1);
            self.policy.hit(&key);
            self.dirty.insert(key);
        }
        Some(Seen {
            size: kept.size,
            media_type: kept.media_type.clone(),
            serial: kept.serial,
        })
    }

    /// A reader has ended.
    pub(super) fn read(&mut self, digest: &Digest, serial: u64) {
        let key = key_of(digest);
        match self.spots.get_mut(&key) {
            Some(Spot::Kept(kept)) if kept.serial == serial => {
                kept.readers = kept.readers.saturating_sub(1);
                if kept.readers == 0 {
                    self.reading.remove(&key);
                    self.unhold(key);
                }
            }
            Some(Spot::Leaving(leaving)) if leaving.serial == serial => {
                leaving.readers = leaving.readers.saturating_sub(1);
            }
            Some(_) | None => self.read_lingering(serial),
        }
    }

    fn read_lingering(&mut self, serial: u64) {
        let Slot::Occupied(mut slot) = self.lingering.entry(serial) else {
            return;
        };
        let lingering = slot.get_mut();
        lingering.readers = lingering.readers.saturating_sub(1);
        if lingering.readers == 0 {
            let held = slot.remove().held;
            self.policy.release(held.part, held.bytes);
        }
    }

    /// Gives up so many bytes of the large, for a disk that is full before the cap is reached.
    pub(super) fn shed(&mut self, bytes: u64) -> Vec<Victim> {
        let evicted = self.policy.shed(Part::Large, bytes);
        self.absorb(Part::Large, evicted)
    }

    /// Takes a blob out, whatever the policy and pins say: those who read it may end.
    pub(super) fn take(&mut self, digest: &Digest) -> Option<Victim> {
        let key = key_of(digest);
        let size = self.kept(digest)?.size;
        let part = self.policy.part_of(&key);
        let Some(Spot::Kept(kept)) = self.spots.remove(&key) else {
            return None;
        };
        let held = kept.held.or_else(|| {
            let part = part?;
            self.policy.remove(&key);
            let nothing = self.policy.hold(part, size);
            debug_assert!(nothing.is_empty(), "it was kept there");
            Some(Held { part, bytes: size })
        });
        self.leave(key, &kept, held);
        Some(Victim {
            digest: *digest,
            size,
        })
    }

    /// A victim's rows and file are gone.
    pub(super) fn gone(&mut self, victim: &Victim) {
        let key = key_of(&victim.digest);
        let Some(Spot::Leaving(leaving)) = self.spots.get(&key) else {
            return;
        };
        let (serial, readers) = (leaving.serial, leaving.readers);
        match leaving.held {
            Some(held) if readers > 0 => {
                self.lingering.insert(serial, Lingering { held, readers });
            }
            Some(held) => self.policy.release(held.part, held.bytes),
            None => {}
        }
        self.spots.remove(&key);
    }

    /// A victim stays after all: its file could not be removed, or it turns out to be pinned. Its bytes are held, for
    /// which others may have to go.
    pub(super) fn spared(&mut self, victim: &Victim, kept: Option<Kept>) -> Vec<Victim> {
        let key = key_of(&victim.digest);
        let Some(Spot::Leaving(leaving)) = self.spots.get_mut(&key) else {
            return Vec::new();
        };
        let (readers, serial) = (leaving.readers, leaving.serial);
        let (held, is_new) = match leaving.held {
            Some(held) => (held, false),
            None => (self.part_or_large(victim.size), true),
        };
        match kept {
            Some(kept) => {
                let (held, pinned) = (Some(held), true);
                let kept = Kept {
                    held,
                    pinned,
                    readers,
                    serial,
                    ..kept
                };
                self.spots.insert(key, Spot::Kept(kept));
            }
            None => {
                let held = Some(held);
                let leaving = Leaving {
                    serial,
                    readers,
                    held,
                };
                self.spots.insert(key, Spot::Leaving(leaving));
            }
        }
        if !is_new {
            return Vec::new();
        }
        let evicted = self.policy.hold(held.part, held.bytes);
        self.absorb(held.part, evicted)
    }

    /// Whether more is held than there is room: then what was reserved last has to go without.
    pub(super) fn is_over(&self, cap_bytes: u64) -> bool {
        self.policy
            .held_bytes()
            .saturating_add(self.policy.used_bytes())
            > cap_bytes
    }

    /// Gives up what was not used since `before`, on the boot clock, is not pinned and not being read.
    pub(super) fn expire(&mut self, before: i64) -> Vec<Victim> {
        let old: Vec<Digest> = self
            .all()
            .filter(|kept| kept.used_at < before && !kept.pinned && kept.readers == 0)
            .map(|kept| kept.digest)
            .collect();
        old.iter().filter_map(|digest| self.take(digest)).collect()
    }

    /// Follows the pins: what is in `pinned` stays, the rest is the policy's.
    pub(super) fn set_pinned(&mut self, pinned: &HashSet<Digest>) {
        let changed: Vec<(Key, bool)> = self
            .spots
            .iter()
            .filter_map(|(key, spot)| match spot {
                Spot::Kept(kept) => {
                    let is_pinned = pinned.contains(&kept.digest);
                    (kept.pinned != is_pinned).then_some((*key, is_pinned))
                }
                Spot::Filling { .. } | Spot::Parked { .. } | Spot::Leaving(_) => None,
            })
            .collect();
        for (key, is_pinned) in changed {
            self.pin(key, is_pinned);
        }
    }

    fn pin(&mut self, key: Key, is_pinned: bool) {
        let part = self.policy.part_of(&key);
        let Some(Spot::Kept(kept)) = self.spots.get_mut(&key) else {
            return;
        };
        kept.pinned = is_pinned;
        if !is_pinned {
            if kept.readers == 0 {
                self.unhold(key);
            }
        } else if let Some(part) = part {
            let held = Held {
                part,
                bytes: kept.size,
            };
            kept.held = Some(held);
            self.policy.remove(&key);
            let nothing = self.policy.hold(part, held.bytes);
            debug_assert!(nothing.is_empty(), "it was kept there");
        }
    }

    /// What was used since this was asked last, or all of it.
    pub(super) fn take_dirty(&mut self, all: bool) -> Vec<Kept> {
        let dirty = std::mem::take(&mut self.dirty);
        self.all()
            .filter(|kept| all || dirty.contains(&key_of(&kept.digest)))
            .cloned()
            .collect()
    }

    /// Its row could not be written: next time.
    pub(super) fn mark_dirty(&mut self, digest: &Digest) {
        self.dirty.insert(key_of(digest));
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Kept> {
        self.spots.values().filter_map(|spot| match spot {
            Spot::Kept(kept) => Some(kept),
            Spot::Filling { .. } | Spot::Parked { .. } | Spot::Leaving(_) => None,
        })
    }

    /// Bytes of the small and of the large part that are keys and being read: they may not go.
    fn busy(&self) -> [u64; 2] {
        let mut busy = [0, 0];
        for key in &self.reading {
            let Some(Spot::Kept(kept)) = self.spots.get(key) else {
                continue;
            };
            match self.policy.part_of(key) {
                Some(Part::Small) => busy[0] += kept.size,
                Some(Part::Large) => busy[1] += kept.size,
                None => {}
            }
        }
        busy
    }

    /// Makes victims of what the policy named, except for what is being read: that is held instead, for which more has
    /// to go.
    fn absorb(&mut self, part: Part, evicted: Vec<Key>) -> Vec<Victim> {
        let mut victims = Vec::new();
        let mut queue = evicted;
        while let Some(key) = queue.pop() {
            let Some(Spot::Kept(kept)) = self.spots.get_mut(&key) else {
                continue;
            };
            if kept.readers > 0 {
                let held = Held {
                    part,
                    bytes: kept.size,
                };
                kept.held = Some(held);
                queue.extend(self.policy.hold(part, held.bytes));
                continue;
            }
            victims.push(Victim {
                digest: kept.digest,
                size: kept.size,
            });
            let kept = kept.clone();
            self.leave(key, &kept, None);
        }
        victims
    }

    fn leave(&mut self, key: Key, kept: &Kept, held: Option<Held>) {
        self.reading.remove(&key);
        self.dirty.remove(&key);
        let leaving = Leaving {
            serial: kept.serial,
            readers: kept.readers,
            held,
        };
        self.spots.insert(key, Spot::Leaving(leaving));
    }

    /// Gives what is held without being pinned back to the policy.
    fn unhold(&mut self, key: Key) {
        let Some(Spot::Kept(kept)) = self.spots.get_mut(&key) else {
            return;
        };
        if kept.pinned {
            return;
        }
        if let Some(held) = kept.held.take() {
            let evicted = self.policy.settle(held.part, key, held.bytes);
            if !evicted.is_empty() {
                // Only where pins hold more than the room: it stays held, and the next expiry or removal takes it.
                self.policy.remove(&key);
                let _held_anyway = self.policy.hold(held.part, held.bytes);
                if let Some(Spot::Kept(kept)) = self.spots.get_mut(&key) {
                    kept.held = Some(held);
                }
            }
        }
    }

    fn part_or_large(&self, bytes: u64) -> Held {
        let part = self.policy.part_for(bytes, [0, 0]).unwrap_or(Part::Large);
        Held { part, bytes }
    }
}

fn key_of(digest: &Digest) -> Key {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    Key::from_be_bytes(bytes)
}

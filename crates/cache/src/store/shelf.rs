//! What lies where, in memory: the truth while a store is open, of which the rows are the durable shadow. Pure.
//!
//! Every digest is at one spot: kept, being filled, parked (begun, and nobody is at it) or leaving. All bytes that are or
//! may come to be on disk are accounted for in the policy's room, as keys or as held, so that the cap holds at any time.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use orlop_types::Digest;

use super::rows::BlobRow;
use crate::policy::{Part, Policy, Split};

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

#[derive(Debug)]
enum Spot {
    Kept(Kept),
    Filling { digest: Digest, held: Held },
    Parked { digest: Digest, held: Held, since: i64 },
    Leaving(Leaving),
}

/// A blob that can be found.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) media_type: Option<Arc<str>>,
    /// Seconds since 1970.
    pub(super) added_at: i64,
    /// On the boot clock, in seconds; before the boot it is negative.
    pub(super) used_at: i64,
    pub(super) uses: u64,
    serial: u64,
    readers: u32,
    pinned: bool,
    /// Pinned, or named by the policy while it was read: no key of the policy.
    held: Option<Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    part: Part,
    bytes: u64,
}

#[derive(Debug)]
struct Leaving {
    serial: u64,
    readers: u32,
    held: Option<Held>,
}

#[derive(Debug)]
struct Lingering {
    held: Held,
    readers: u32,
}

/// What has to go: its rows, then its file. It stays `Leaving` until [`Shelf::gone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// What came of asking for room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// It is there; the victims have to go before the first byte is written.
    Room(Vec<Victim>),
    /// The blob is kept already.
    Present,
    /// Somebody is filling it.
    Busy,
    /// It is going at this moment: wait.
    Leaving,
    /// There is less room than that, even if all went that may go.
    NoRoom { room_bytes: u64 },
}

impl Kept {
    /// What a row says, with its time on the boot clock: `now` and `wall` are the same moment. A use in the future, after
    /// a clock was set back, counts as now.
    pub(super) fn from_row(row: BlobRow, now: i64, wall: i64) -> Self {
        Self {
            digest: row.digest,
            size: row.size,
            media_type: row.media_type,
            added_at: row.added_at,
            used_at: now.saturating_sub(wall.saturating_sub(row.used_at).max(0)),
            uses: row.uses,
            serial: 0,
            readers: 0,
            pinned: false,
            held: None,
        }
    }

    /// The way back.
    pub(super) fn to_row(&self, now: i64, wall: i64) -> BlobRow {
        BlobRow {
            digest: self.digest,
            size: self.size,
            media_type: self.media_type.clone(),
            added_at: self.added_at,
            used_at: wall.saturating_sub(now.saturating_sub(self.used_at).max(0)),
            uses: self.uses,
        }
    }
}

/// What a reader needs.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) size: u64,
    pub(super) media_type: Option<Arc<str>>,
    pub(super) serial: u64,
}

/// How many bytes are what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs that can be found.
    pub blobs: u64,
    /// Their bytes among the small.
    pub small_bytes: u64,
    /// Their bytes among the large.
    pub large_bytes: u64,
    /// Their bytes that are pinned.
    pub pinned_bytes: u64,
    /// Room taken by fills, in whole.
    pub filling_bytes: u64,
    /// Bytes of fills that nobody is at.
    pub parked_bytes: u64,
    /// Damaged files that were set aside.
    pub aside_bytes: u64,
    /// Removed while somebody reads them, or kept only for that.
    pub lingering_bytes: u64,
}

impl Usage {
    /// All of it: what the cap is for.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.small_bytes
            + self.large_bytes
            + self.pinned_bytes
            + self.filling_bytes
            + self.parked_bytes
            + self.aside_bytes
            + self.lingering_bytes
    }
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
        let kept = Kept { serial, pinned, held, ..kept };
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

    /// Notes what else takes room on disk: a fill of which so many bytes are there.
    pub(super) fn load_parked(&mut self, digest: Digest, bytes: u64, since: i64) -> Vec<Victim> {
        let held = self.part_or_large(bytes);
        self.spots.insert(key_of(&digest), Spot::Parked { digest, held, since });
        let evicted = self.policy.hold(held.part, held.bytes);
        self.absorb(held.part, evicted)
    }

    /// Notes a file that was set aside.
    pub(super) fn load_aside(&mut self, digest: &Digest, bytes: u64) -> Vec<Victim> {
        let held = self.part_or_large(bytes);
        self.forget_aside(digest);
        self.aside.insert(key_of(digest), held);
        let evicted = self.policy.hold(held.part, held.bytes);
        self.absorb(held.part, evicted)
    }

    /// A file that was set aside is gone.
    pub(super) fn forget_aside(&mut self, digest: &Digest) {
        if let Some(held) = self.aside.remove(&key_of(digest)) {
            self.policy.release(held.part, held.bytes);
        }
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

    /// Makes room for a blob that is to be filled.
    pub(super) fn reserve(&mut self, digest: &Digest, size: u64) -> Reserved {
        let key = key_of(digest);
        match self.spots.get(&key) {
            Some(Spot::Kept(_)) => return Reserved::Present,
            Some(Spot::Filling { .. }) => return Reserved::Busy,
            Some(Spot::Leaving(_)) => return Reserved::Leaving,
            // It goes on where it stopped.
            Some(Spot::Parked { held, .. }) => {
                let held = *held;
                self.policy.release(held.part, held.bytes);
            }
            None => {}
        }
        let Some(part) = self.policy.part_for(size, self.busy()) else {
            if let Some(Spot::Parked { held, .. }) = self.spots.get(&key) {
                let nothing = self.policy.hold(held.part, held.bytes);
                debug_assert!(nothing.is_empty(), "it was held until now");
            }
            let room_bytes = self.policy.free_bytes().saturating_sub(self.busy()[1]);
            return Reserved::NoRoom { room_bytes };
        };
        let held = Held { part, bytes: size };
        let digest = *digest;
        self.spots.insert(key, Spot::Filling { digest, held });
        let evicted = self.policy.hold(part, size);
        Reserved::Room(self.absorb(part, evicted))
    }

    /// A fill was committed: from now on the blob is found.
    pub(super) fn filled(
        &mut self,
        digest: &Digest,
        media_type: Option<Arc<str>>,
        now: (i64, i64),
        pinned: bool,
    ) -> Vec<Victim> {
        let Some((key, digest, held)) = self.take_filling(digest) else {
            return Vec::new();
        };
        let (used_at, added_at) = now;
        self.serial += 1;
        let kept = Kept {
            digest,
            size: held.bytes,
            media_type,
            added_at,
            used_at,
            uses: 1,
            serial: self.serial,
            readers: 0,
            pinned,
            held: pinned.then_some(held),
        };
        self.spots.insert(key, Spot::Kept(kept));
        if pinned {
            return Vec::new();
        }
        let evicted = self.policy.settle(held.part, key, held.bytes);
        self.absorb(held.part, evicted)
    }

    /// Nobody is at a fill any more; so many of its bytes are there.
    pub(super) fn unfilled(&mut self, digest: &Digest, present_bytes: u64, now: i64) {
        let Some((key, digest, held)) = self.take_filling(digest) else {
            return;
        };
        self.policy.release(held.part, held.bytes);
        let bytes = present_bytes.min(held.bytes);
        if bytes > 0 {
            let held = Held { bytes, ..held };
            let nothing = self.policy.hold(held.part, bytes);
            debug_assert!(nothing.is_empty(), "it was held already");
            self.spots.insert(key, Spot::Parked { digest, held, since: now });
        }
    }

    fn take_filling(&mut self, digest: &Digest) -> Option<(Key, Digest, Held)> {
        let key = key_of(digest);
        match self.spots.get(&key)? {
            Spot::Filling { digest, held } => {
                let (digest, held) = (*digest, *held);
                self.spots.remove(&key);
                Some((key, digest, held))
            }
            Spot::Kept(_) | Spot::Parked { .. } | Spot::Leaving(_) => None,
        }
    }

    /// Gives up so many bytes of the large, for a disk that is full before the cap is reached.
    pub(super) fn shed(&mut self, bytes: u64) -> Vec<Victim> {
        let evicted = self.policy.shed(Part::Large, bytes);
        self.absorb(Part::Large, evicted)
    }

    /// Takes a parked fill out, if nobody was faster. It is gone after [`Shelf::gone`].
    pub(super) fn take_parked(&mut self, digest: &Digest) -> Option<Victim> {
        let key = key_of(digest);
        let Some(Spot::Parked { held, .. }) = self.spots.get(&key) else {
            return None;
        };
        let (size, held) = (held.bytes, Some(*held));
        let leaving = Leaving { serial: 0, readers: 0, held };
        self.spots.insert(key, Spot::Leaving(leaving));
        let digest = *digest;
        Some(Victim { digest, size })
    }

    /// Fills that nobody has been at since `before`, on the boot clock.
    pub(super) fn parked(&self, before: i64) -> Vec<Digest> {
        let parked = self.spots.values().filter_map(|spot| match spot {
            Spot::Parked { digest, since, .. } if *since < before => Some(*digest),
            Spot::Parked { .. } | Spot::Kept(_) | Spot::Filling { .. } | Spot::Leaving(_) => None,
        });
        parked.collect()
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
                let kept = Kept { held, pinned, readers, serial, ..kept };
                self.spots.insert(key, Spot::Kept(kept));
            }
            None => {
                let held = Some(held);
                let leaving = Leaving { serial, readers, held };
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
        self.policy.held_bytes().saturating_add(self.policy.used_bytes()) > cap_bytes
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
            let held = Held { part, bytes: kept.size };
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

    pub(super) fn usage(&self) -> Usage {
        let mut usage = Usage {
            small_bytes: self.policy.used_in(Part::Small),
            large_bytes: self.policy.used_in(Part::Large),
            aside_bytes: self.aside.values().map(|held| held.bytes).sum(),
            lingering_bytes: self.lingering.values().map(|one| one.held.bytes).sum(),
            ..Usage::default()
        };
        for spot in self.spots.values() {
            let sum = match spot {
                Spot::Kept(kept) => {
                    usage.blobs += 1;
                    let held = kept.held.map_or(0, |held| held.bytes);
                    let sum = if kept.pinned {
                        &mut usage.pinned_bytes
                    } else {
                        &mut usage.lingering_bytes
                    };
                    *sum += held;
                    continue;
                }
                Spot::Filling { held, .. } => (&mut usage.filling_bytes, held.bytes),
                Spot::Parked { held, .. } => (&mut usage.parked_bytes, held.bytes),
                Spot::Leaving(leaving) => {
                    let held = leaving.held.map_or(0, |held| held.bytes);
                    (&mut usage.lingering_bytes, held)
                }
            };
            *sum.0 += sum.1;
        }
        usage
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
                let held = Held { part, bytes: kept.size };
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

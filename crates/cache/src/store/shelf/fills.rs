//! What is not a blob yet, or not any more: fills at work, those that were left, and what was set aside.

use std::sync::Arc;

use orlop_types::Digest;

use super::{Held, Kept, Key, Leaving, Reserved, Shelf, Spot, Victim, key_of};

impl Shelf {
    /// Notes what else takes room on disk: a fill of which so many bytes are there.
    pub(in crate::store) fn load_parked(
        &mut self,
        digest: Digest,
        bytes: u64,
        since: i64,
    ) -> Vec<Victim> {
        let held = self.part_or_large(bytes);
        self.spots.insert(
            key_of(&digest),
            Spot::Parked {
                digest,
                held,
                since,
            },
        );
        let evicted = self.policy.hold(held.part, held.bytes);
        self.absorb(held.part, evicted)
    }

    /// Notes a file that was set aside.
    pub(in crate::store) fn load_aside(&mut self, digest: &Digest, bytes: u64) -> Vec<Victim> {
        let held = self.part_or_large(bytes);
        self.forget_aside(digest);
        self.aside.insert(key_of(digest), held);
        let evicted = self.policy.hold(held.part, held.bytes);
        self.absorb(held.part, evicted)
    }

    /// A file that was set aside is gone.
    pub(in crate::store) fn forget_aside(&mut self, digest: &Digest) {
        if let Some(held) = self.aside.remove(&key_of(digest)) {
            self.policy.release(held.part, held.bytes);
        }
    }

    /// Makes room for a blob that is to be filled.
    pub(in crate::store) fn reserve(&mut self, digest: &Digest, size: u64) -> Reserved {
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
    pub(in crate::store) fn filled(
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
    pub(in crate::store) fn unfilled(&mut self, digest: &Digest, present_bytes: u64, now: i64) {
        let Some((key, digest, held)) = self.take_filling(digest) else {
            return;
        };
        self.policy.release(held.part, held.bytes);
        let bytes = present_bytes.min(held.bytes);
        if bytes > 0 {
            let held = Held { bytes, ..held };
            let nothing = self.policy.hold(held.part, bytes);
            debug_assert!(nothing.is_empty(), "it was held already");
            self.spots.insert(
                key,
                Spot::Parked {
                    digest,
                    held,
                    since: now,
                },
            );
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

    /// Takes a parked fill out, if nobody was faster. It is gone after [`Shelf::gone`].
    pub(in crate::store) fn take_parked(&mut self, digest: &Digest) -> Option<Victim> {
        let key = key_of(digest);
        let Some(Spot::Parked { held, .. }) = self.spots.get(&key) else {
            return None;
        };
        let (size, held) = (held.bytes, Some(*held));
        let leaving = Leaving {
            serial: 0,
            readers: 0,
            held,
        };
        self.spots.insert(key, Spot::Leaving(leaving));
        let digest = *digest;
        Some(Victim { digest, size })
    }

    /// Fills that nobody has been at since `before`, on the boot clock.
    pub(in crate::store) fn parked(&self, before: i64) -> Vec<Digest> {
        let parked = self.spots.values().filter_map(|spot| match spot {
            Spot::Parked { digest, since, .. } if *since < before => Some(*digest),
            Spot::Parked { .. } | Spot::Kept(_) | Spot::Filling { .. } | Spot::Leaving(_) => None,
        });
        parked.collect()
    }
}

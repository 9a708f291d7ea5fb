//! How much there is of what.

use super::{Shelf, Spot};
use crate::policy::Part;

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
    pub(in crate::store) fn usage(&self) -> Usage {
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
}

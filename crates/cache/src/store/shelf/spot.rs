//! Where a digest may be.

use std::sync::Arc;

use orlop_types::Digest;

use crate::policy::Part;
use crate::store::rows::BlobRow;

#[derive(Debug)]
pub(in crate::store) enum Spot {
    Kept(Kept),
    Filling {
        digest: Digest,
        held: Held,
    },
    Parked {
        digest: Digest,
        held: Held,
        since: i64,
    },
    Leaving(Leaving),
}

/// A blob that can be found.
#[derive(Debug, Clone)]
pub(in crate::store) struct Kept {
    pub(in crate::store) digest: Digest,
    pub(in crate::store) size: u64,
    pub(in crate::store) media_type: Option<Arc<str>>,
    /// Seconds since 1970.
    pub(in crate::store) added_at: i64,
    /// On the boot clock, in seconds; before the boot it is negative.
    pub(in crate::store) used_at: i64,
    pub(in crate::store) uses: u64,
    pub(in crate::store) serial: u64,
    pub(in crate::store) readers: u32,
    pub(in crate::store) pinned: bool,
    /// Pinned, or named by the policy while it was read: no key of the policy.
    pub(in crate::store) held: Option<Held>,
}

#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Held {
    pub(in crate::store) part: Part,
    pub(in crate::store) bytes: u64,
}

#[derive(Debug)]
pub(in crate::store) struct Leaving {
    pub(in crate::store) serial: u64,
    pub(in crate::store) readers: u32,
    pub(in crate::store) held: Option<Held>,
}

#[derive(Debug)]
pub(in crate::store) struct Lingering {
    pub(in crate::store) held: Held,
    pub(in crate::store) readers: u32,
}

/// What has to go: its rows, then its file. It stays `Leaving` until [`Shelf::gone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Victim {
    pub(in crate::store) digest: Digest,
    pub(in crate::store) size: u64,
}

/// What came of asking for room.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum Reserved {
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
    pub(in crate::store) fn from_row(row: BlobRow, now: i64, wall: i64) -> Self {
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
    pub(in crate::store) fn to_row(&self, now: i64, wall: i64) -> BlobRow {
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
pub(in crate::store) struct Seen {
    pub(in crate::store) size: u64,
    pub(in crate::store) media_type: Option<Arc<str>>,
    pub(in crate::store) serial: u64,
}

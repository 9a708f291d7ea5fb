//! What a collection did, for operators and metrics.

use std::time::{Duration, SystemTime};

use super::graph::Node;
use crate::Error;
use crate::node::NodeKind;

/// How many of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs.
    pub content: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Images that expired.
    pub images: u64,
    /// Leases that expired.
    pub leases: u64,
    /// Ingests.
    pub ingests: u64,
    /// Mounts made ahead.
    pub mounts: u64,
}

impl Removed {
    /// All together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.content + self.snapshots + self.images + self.leases + self.ingests + self.mounts
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.content += other.content;
        self.snapshots += other.snapshots;
        self.images += other.images;
        self.leases += other.leases;
        self.ingests += other.ingests;
        self.mounts += other.mounts;
    }

    pub(super) fn count(&mut self, kind: NodeKind) {
        match kind {
            NodeKind::Content => self.content += 1,
            NodeKind::Snapshot => self.snapshots += 1,
            NodeKind::Image => self.images += 1,
            NodeKind::Lease => self.leases += 1,
            NodeKind::Ingest => self.ingests += 1,
            NodeKind::Mount => self.mounts += 1,
            // These are only removed by those who made them.
            NodeKind::Container | NodeKind::Sandbox => {}
        }
    }
}

/// Something that should have gone and did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `content`, `ingest`, `snapshot`, `leftovers`, `mount`, or the kind of a record.
    pub kind: &'static str,
    /// A digest, `SNAPSHOTTER/NUMBER`, a number, or the id of a damaged record's node.
    pub key: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What went wrong, with its causes.
    pub error: String,
}

impl Failure {
    pub(super) fn of_record(node: &Node, error: &Error) -> Self {
        Self {
            kind: node.kind.as_str(),
            key: node.id.to_string(),
            attempts: 1,
            error: orlop_types::chain(error),
        }
    }
}

/// What one collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Nodes looked at.
    pub nodes: usize,
    /// References looked at.
    pub references: usize,
    /// How long reading both took. Nobody waits for it.
    pub load_time: Duration,
    /// How long marking took. Nobody waits for it.
    pub mark_time: Duration,
    /// Records removed, with their events.
    pub removed: Removed,
    /// Records that were held again, or in use, when their turn came.
    pub spared: u64,
    /// Entries of the sweep queue whose bytes went.
    pub swept: Removed,
    /// Entries that a record names again: their bytes stay.
    pub cancelled: u64,
    /// What the disk got back, as far as it is known: blobs and committed snapshots exactly.
    pub bytes_freed: u64,
    /// What is still there and is tried again.
    pub failures: Vec<Failure>,
    /// The longest time that one transaction kept other writers waiting.
    pub longest_pause: Duration,
    /// From beginning to end.
    pub took: Duration,
}

/// What all collections since the start did: the figures of `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Collections that ended well, or with failures of single items.
    pub passes: u64,
    /// Collections that could not be done.
    pub passes_failed: u64,
    /// Records removed.
    pub removed: Removed,
    /// Entries of the sweep queue whose bytes went.
    pub swept: Removed,
    /// Attempts that failed.
    pub failures: u64,
    /// In bytes.
    pub bytes_freed: u64,
    /// Sum over all passes of reading and marking.
    pub mark_time: Duration,
    /// Sum over all passes.
    pub time: Duration,
    /// The longest that a writer had to wait for one transaction.
    pub longest_pause: Duration,
    /// When the last pass began.
    pub last_pass_at: Option<SystemTime>,
}

impl Totals {
    pub(super) fn add(&mut self, report: &Report) {
        self.passes += 1;
        self.removed.add(&report.removed);
        self.swept.add(&report.swept);
        self.failures += u64::try_from(report.failures.len()).unwrap_or(u64::MAX);
        self.bytes_freed += report.bytes_freed;
        self.mark_time += report.load_time + report.mark_time;
        self.time += report.took;
        self.longest_pause = self.longest_pause.max(report.longest_pause);
    }
}

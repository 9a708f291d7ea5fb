//! Does what the database says agree with the disk and the mount table?
//!
//! Every disagreement is a [`Finding`], told as soon as it is found. With [`FsckOptions::repair`] it is mended if that
//! can lose nothing anybody was promised, and looked at again before: others may be writing meanwhile. What has no
//! record is put into the sweep queue, which removes it with all the care collection takes. A blob whose bytes are not
//! its digest's is removed, not put aside: bytes of another digest are of no use, the finding names both, and a pull
//! fetches it anew.
//!
//! **Crash.** Each repair is one transaction, or an entry of the sweep queue. **Ordering.** The disk is read before
//! the rows where a row comes first, and after them where the bytes do, so that work under way is no finding.
//!
//! After an unclean stop the daemon runs it by itself: [`Db::begin_session`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use orlop_types::SnapshotterName;
use orlop_types::chain;

use crate::gc::ResourceKind;
use crate::{Db, Error};

mod blobs;
mod ingests;
mod mounts;
mod queue;
mod references;
mod rows;
pub(crate) mod session;
mod snapshots;

/// What to look at, and what to do about it.
#[derive(Debug, Clone, Default)]
pub struct FsckOptions {
    /// Mend what can be mended.
    pub repair: bool,
    /// Read every blob and compare it with its digest: as slow as the disk.
    pub verify_content: bool,
    /// Nobody else uses the database yet: what looks like work under way was cut short.
    pub at_start: bool,
    /// The folders the snapshotters were opened on, to find their mounts; those without one are not looked for.
    pub snapshot_roots: BTreeMap<SnapshotterName, PathBuf>,
}

/// Kinds of disagreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Check {
    /// A record of a blob whose file is missing.
    BlobMissing,
    /// A blob's file that no record names.
    BlobUnknown,
    /// A blob whose record and file have different sizes.
    BlobSize,
    /// A blob whose bytes do not have its digest.
    BlobCorrupt,
    /// Something among the blobs that is none.
    Stray,
    /// An ingest's folder without a record.
    IngestUnknown,
    /// An ingest's record without a folder, or whose shared blob is missing.
    IngestMissing,
    /// A record of a snapshot whose folder is missing.
    SnapshotMissing,
    /// A snapshot's folder that no record names.
    SnapshotUnknown,
    /// Committed on disk and active in its record: a commit was cut short.
    SnapshotHalfCommitted,
    /// The disk has another kind of snapshot than the record.
    SnapshotKind,
    /// A record whose folder was being made when the daemon was killed.
    SnapshotPreparing,
    /// Snapshots of a snapshotter that is not configured.
    SnapshotterMissing,
    /// A mount of a snapshot that no record names.
    MountUnknown,
    /// An entry of the sweep queue whose bytes are gone.
    SweepGone,
    /// An entry of the sweep queue for something that a record names.
    SweepNamed,
    /// A node without the record it stands for, or a record without a node.
    HalfRecord,
    /// A reference whose source, target or owner does not exist.
    BrokenReference,
    /// The references of a record are not what its labels and fields say.
    References,
    /// A name that nothing refers to.
    UnnamedNode,
    /// SQLite finds the file damaged.
    DatabaseDamaged,
}

impl Check {
    /// A stable word for scripts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobMissing => "blob-missing",
            Self::BlobUnknown => "blob-unknown",
            Self::BlobSize => "blob-size",
            Self::BlobCorrupt => "blob-corrupt",
            Self::Stray => "stray",
            Self::IngestUnknown => "ingest-unknown",
            Self::IngestMissing => "ingest-missing",
            Self::SnapshotMissing => "snapshot-missing",
            Self::SnapshotUnknown => "snapshot-unknown",
            Self::SnapshotHalfCommitted => "snapshot-half-committed",
            Self::SnapshotKind => "snapshot-kind",
            Self::SnapshotPreparing => "snapshot-preparing",
            Self::SnapshotterMissing => "snapshotter-missing",
            Self::MountUnknown => "mount-unknown",
            Self::SweepGone => "sweep-gone",
            Self::SweepNamed => "sweep-named",
            Self::HalfRecord => "half-record",
            Self::BrokenReference => "broken-reference",
            Self::References => "references",
            Self::UnnamedNode => "unnamed-node",
            Self::DatabaseDamaged => "database-damaged",
        }
    }

    /// The kind of thing the finding's subject names with its digest or reference; nothing where it is something else.
    #[must_use]
    pub const fn resource(self) -> Option<ResourceKind> {
        match self {
            Self::BlobMissing | Self::BlobUnknown | Self::BlobSize | Self::BlobCorrupt => {
                Some(ResourceKind::Content)
            }
            Self::IngestUnknown | Self::IngestMissing => Some(ResourceKind::Ingest),
            Self::SnapshotMissing
            | Self::SnapshotUnknown
            | Self::SnapshotHalfCommitted
            | Self::SnapshotKind
            | Self::SnapshotPreparing => Some(ResourceKind::Snapshot),
            Self::Stray
            | Self::SnapshotterMissing
            | Self::MountUnknown
            | Self::SweepGone
            | Self::SweepNamed
            | Self::HalfRecord
            | Self::BrokenReference
            | Self::References
            | Self::UnnamedNode
            | Self::DatabaseDamaged => None,
        }
    }
}

/// What became of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Repair was not asked for.
    Found,
    /// Mended: how.
    Repaired(&'static str),
    /// Not mended: why not, and what to do.
    Left(String),
}

/// One disagreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub check: Check,
    /// The digest, key, number or path.
    pub subject: String,
    /// What disagrees, in words.
    pub detail: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// A run's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsckSummary {
    /// Blobs, ingests, snapshots and mounts looked at.
    pub checked: u64,
    /// Records of blobs among them.
    pub blobs: u64,
    /// The snapshots' folders among them.
    pub snapshots: u64,
    /// The mounts of snapshots among them.
    pub mounts: u64,
    /// Disagreements found.
    pub findings: u64,
    /// How many of them were mended.
    pub repaired: u64,
}

impl FsckSummary {
    /// Whether nothing disagrees, any more.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.findings == self.repaired
    }
}

impl Db {
    /// Compares records, disk and mount table, and tells `listener` of every disagreement.
    ///
    /// Backends that are not configured are not looked at. Repairs that need bytes removed queue them: run
    /// [`crate::gc::Collector::sweep`] afterwards.
    ///
    /// # Errors
    /// `Database`, `Content` or `Snapshot` where rows or folders cannot be listed; `ReadOnly` for a repair on a
    /// database opened only to be read.
    pub fn fsck(
        &self,
        options: &FsckOptions,
        listener: &mut dyn FnMut(&Finding),
    ) -> Result<FsckSummary, Error> {
        let mut run = Run {
            db: self,
            options,
            listener,
            summary: FsckSummary::default(),
        };
        run.database()?;
        run.records()?;
        run.label_references()?;
        run.field_references()?;
        // Before others queue what they find.
        run.sweep_queue()?;
        run.preparing()?;
        run.blob_records()?;
        run.blob_files()?;
        run.ingests()?;
        run.snapshots()?;
        run.mounts()?;
        Ok(run.summary)
    }
}

/// One run over everything.
struct Run<'a> {
    db: &'a Db,
    options: &'a FsckOptions,
    listener: &'a mut dyn FnMut(&Finding),
    summary: FsckSummary,
}

impl Run<'_> {
    /// Tells of a finding; with repair after `mend` tried to mend it.
    fn found(
        &mut self,
        check: Check,
        (subject, detail): (String, String),
        mend: impl FnOnce(&Db) -> Result<Outcome, Error>,
    ) {
        let outcome = if self.options.repair {
            mend(self.db).unwrap_or_else(|error| Outcome::Left(chain(&error)))
        } else {
            Outcome::Found
        };
        self.summary.findings += 1;
        if matches!(outcome, Outcome::Repaired(_)) {
            self.summary.repaired += 1;
        }
        let finding = Finding {
            check,
            subject,
            detail,
            outcome,
        };
        tracing::warn!(check = ?finding.check, subject = finding.subject, detail = finding.detail,
            outcome = ?finding.outcome, "fsck");
        (self.listener)(&finding);
    }
}

/// Why something is left alone that may be somebody's work under way.
fn perhaps_under_way() -> Outcome {
    Outcome::Left("somebody may be at work on it: restart the daemon, which mends it".to_owned())
}

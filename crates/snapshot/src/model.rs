//! The trait every backend implements, and the values that cross it.

use std::fmt;
use std::num::ParseIntError;
use std::path::PathBuf;
use std::str::FromStr;

use orlop_types::{Mount, SnapshotterName};

use crate::Error;

/// The number of a snapshot: assigned by the database, never used twice, and the name of the folder on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotNumber(u64);

impl SnapshotNumber {
    /// The snapshot the database calls `number`.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself, for the database.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SnapshotNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Reads a folder's name. Only the one spelling that `Display` writes is accepted: `7`, never `07` or `+7`.
impl FromStr for SnapshotNumber {
    type Err = InvalidNumber;

    fn from_str(text: &str) -> Result<Self, InvalidNumber> {
        let number = Self(text.parse().map_err(InvalidNumber::Syntax)?);
        if number.to_string() == text {
            Ok(number)
        } else {
            Err(InvalidNumber::NotCanonical)
        }
    }
}

/// Why a text is not the name of a snapshot's folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNumber {
    /// Not a decimal number of 64 bits.
    #[error("not a snapshot number")]
    Syntax(#[source] ParseIntError),
    /// A number, but spelled with a sign or leading zeros.
    #[error("not the canonical spelling of a snapshot number")]
    NotCanonical,
}

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Its parents, read-only, for as long as it exists.
    View,
    /// Writable, until it is committed or removed.
    Active,
    /// Immutable; may be a parent.
    Committed,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::View => "a view",
            Self::Active => "active",
            Self::Committed => "committed",
        })
    }
}

/// What a snapshot takes on disk, without its parents where the backend shares their files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes (blocks, not lengths); a file with several names counts once.
    pub bytes: u64,
    /// Files, folders and everything else with an inode of its own.
    pub inodes: u64,
}

/// How a layer's whiteouts are to be written into an [`ApplyTarget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// As the kernel's overlay reads them: a character device 0:0 for a removed name, and the extended attribute
    /// `trusted.overlay.opaque` (`user.overlay.opaque` if `user_xattr`) with value `y` for an opaque folder.
    Overlay {
        /// Whether overlay's attributes are in the `user.` rather than the `trusted.` namespace.
        user_xattr: bool,
    },
    /// By removing the name from the tree, which already holds the parents' files.
    Remove,
}

/// Where and how to write a layer straight into an active snapshot, without mounting it.
///
/// For overlay, `lowers` is as long as the parents handed in. With parents not yet known it is empty, and three
/// things cannot be decided from this layer alone: a hard link to a lower file, the mode of a parent folder that
/// the layer does not list, and xattrs inherited by such folders. The applier must hold those back until the
/// lower layers are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyTarget {
    /// The folder that receives the layer's files.
    pub root: PathBuf,
    /// The parents' folders, nearest first, read-only: the source of hard links and of parent folders' metadata.
    /// Empty where the parents' files are in `root` already.
    pub lowers: Vec<PathBuf>,
    /// What to write where the layer removes something.
    pub whiteouts: Whiteouts,
}

/// A snapshot seen on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub number: SnapshotNumber,
    /// What the disk says it is. After a crash it may be `Committed` while the database still says `Active`:
    /// then the commit is to be repeated.
    pub kind: Kind,
}

/// A snapshot that [`Snapshotter::remove_many`] could not remove.
#[derive(Debug)]
pub struct RemoveFailure {
    /// The snapshot.
    pub number: SnapshotNumber,
    /// Why it is still there.
    pub error: Error,
}

/// What a call of [`Snapshotter::cleanup`] did.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// Folders deleted: removed snapshots, and leftovers of interrupted prepares.
    pub folders: u64,
    /// Whether there is more than the caller's limit allowed.
    pub more: bool,
    /// What could not be deleted; it is tried again by the next call.
    pub failures: Vec<Error>,
}

/// A backend: trees of files under numbers, on one folder. It keeps no records of its own (ADR 2).
///
/// `parents` is always the whole chain, nearest parent first, and every parent is committed. A backend trusts the
/// caller for that and for never using a number twice, but checks that the folders are there.
///
/// **Crash.** `prepare` and `view` build aside and rename; `remove` renames aside; so a number's folder is whole or
/// absent. `cleanup` deletes what is left aside. After a crash call `walk` and `remove` what has no row.
///
/// **Power cut.** `commit` returns only when every byte of the snapshot, and its name, are on disk. `prepare`,
/// `view` and `remove` do not wait for the disk: an active snapshot may be gone after a power cut ([`Error::Missing`]),
/// and a removed one may be back (an orphan).
///
/// **Cancellation.** Every call blocks and none can be cancelled; `cleanup` is bounded by its limit.
///
/// **Ordering.** Calls for different numbers may run side by side. Two for one number do not: the second gets
/// [`Error::InProgress`].
pub trait Snapshotter: Send + Sync {
    /// The name clients ask for, such as `overlayfs`.
    fn name(&self) -> &SnapshotterName;

    /// Whether `prepare` has to be given the parents.
    ///
    /// Where this is false (overlayfs), a layer's folder does not depend on its parents: all layers of an image may
    /// be prepared with `&[]` and written side by side, and get their parents when they are committed. Where it is
    /// true (native), a snapshot starts as a copy of its parent, so layers are unpacked one after another.
    fn parents_needed_at_prepare(&self) -> bool;

    /// Creates a writable snapshot. Does nothing if it is there and active.
    ///
    /// # Errors
    /// `Missing` for a parent without folder, `WrongKind` if the number is committed or a view, `InProgress`, `Io`.
    fn prepare(&self, number: SnapshotNumber, parents: &[SnapshotNumber]) -> Result<(), Error>;

    /// Creates a read-only snapshot of `parents`. Does nothing if it is there and a view.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    fn view(&self, number: SnapshotNumber, parents: &[SnapshotNumber]) -> Result<(), Error>;

    /// Syncs an active snapshot to disk and makes it immutable. Does nothing more if it is committed.
    ///
    /// # Errors
    /// `Missing`, `WrongKind` for a view, `Mounted` if it can still be written through a mount, `InProgress`, `Io`.
    fn commit(&self, number: SnapshotNumber) -> Result<Usage, Error>;

    /// The mounts that show a snapshot: a pure function of its arguments and of the backend's configuration, after
    /// the folders have been found. For a committed snapshot they are read-only.
    ///
    /// # Errors
    /// `Missing` for the snapshot or a parent, `WrongKind` if the disk has another kind, `Io`.
    fn mounts(
        &self,
        number: SnapshotNumber,
        kind: Kind,
        parents: &[SnapshotNumber],
    ) -> Result<Vec<Mount>, Error>;

    /// Where to write a layer without mounting the snapshot. `parents` may be empty if they are not yet known.
    ///
    /// # Errors
    /// `Missing` for the snapshot or a parent, `WrongKind` unless it is active, `Io`.
    fn apply_target(
        &self,
        number: SnapshotNumber,
        parents: &[SnapshotNumber],
    ) -> Result<ApplyTarget, Error>;

    /// What the snapshot takes on disk, counted now. A committed one does not change: keep what `commit` returned.
    ///
    /// # Errors
    /// `Missing`, `Io`.
    fn usage(&self, number: SnapshotNumber) -> Result<Usage, Error>;

    /// Removes a snapshot: afterwards its number has no folder. The bytes come back with [`Snapshotter::cleanup`].
    /// Does nothing if there is no folder. That nothing refers to it is the caller's to know.
    ///
    /// # Errors
    /// `Mounted`, naming the mount, `InProgress`, `Io`.
    fn remove(&self, number: SnapshotNumber) -> Result<(), Error> {
        match self.remove_many(&[number]).pop() {
            None => Ok(()),
            Some(failure) => Err(failure.error),
        }
    }

    /// Removes many snapshots, reading the mount table once. A failure does not stop the others.
    fn remove_many(&self, numbers: &[SnapshotNumber]) -> Vec<RemoveFailure>;

    /// The snapshots on disk, in no order.
    ///
    /// The list is that of one moment: what other threads prepare meanwhile may be in it or not.
    ///
    /// # Errors
    /// `Io`, also for single entries; a name that is no number is not reported here, see [`Snapshotter::cleanup`].
    fn walk(&self) -> Result<Box<dyn Iterator<Item = Result<Found, Error>> + '_>, Error>;

    /// Deletes at most `folders_max` of the folders that `remove` and interrupted calls of `prepare` left aside.
    /// Never crosses a mount, and never touches a snapshot.
    ///
    /// # Errors
    /// `Io` if the folders cannot be listed; what fails for a single one is in [`Cleaned::failures`].
    fn cleanup(&self, folders_max: usize) -> Result<Cleaned, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_of_a_number_is_a_folders_name() {
        assert_eq!("7".parse(), Ok(SnapshotNumber::new(7)));
        for bad in [
            "",
            "07",
            "+7",
            "-1",
            "7 ",
            "../7",
            "7/fs",
            "18446744073709551616",
            "x",
        ] {
            assert!(
                bad.parse::<SnapshotNumber>().is_err(),
                "{bad:?} was accepted"
            );
        }
    }
}

//! Snapshots as plain copies: works on every file system, shares blocks where that one can (reflink), and costs a
//! copy of the parent per snapshot where it cannot.
//!
//! A snapshot starts as a copy of its nearest parent, so the parents have to be known when it is prepared, and the
//! layers of an image are unpacked one after another. A view costs nothing: it shows its parent.

use std::path::Path;

use orlop_sys::fs::Mode;
use orlop_types::{Mount, SnapshotterName};

use crate::copy::copy_tree;
use crate::store::{FS, Store, VIEW, WORK, create_root};
use crate::{
    ApplyTarget, Cleaned, Error, Found, Kind, RemoveFailure, SnapshotNumber, Snapshotter, Usage,
    Whiteouts,
};

const NAME: &str = "native";

/// The native backend.
#[derive(Debug)]
pub struct Native {
    name: SnapshotterName,
    store: Store,
}

impl Native {
    /// Opens the backend in the folder `root`, creating it if need be.
    ///
    /// # Errors
    /// [`Error::UnmountablePath`]; [`Error::Files`].
    pub fn open(root: &Path) -> Result<Self, Error> {
        Ok(Self {
            name: SnapshotterName::new(NAME).expect("the name is an identifier"),
            store: Store::open(root)?,
        })
    }

    fn nearest(&self, parents: &[SnapshotNumber]) -> Result<Option<SnapshotNumber>, Error> {
        let Some(&nearest) = parents.first() else {
            return Ok(None);
        };
        self.store.files(nearest)?;
        Ok(Some(nearest))
    }
}

impl Snapshotter for Native {
    fn name(&self) -> &SnapshotterName {
        &self.name
    }

    fn parents_needed_at_prepare(&self) -> bool {
        true
    }

    fn prepare(&self, number: SnapshotNumber, parents: &[SnapshotNumber]) -> Result<(), Error> {
        self.store
            .create(number, Kind::Active, "prepare", |folder| {
                folder.create_dir(&WORK, Mode::from_raw_mode(0o711))?;
                create_root(folder, None)?;
                match self.nearest(parents)? {
                    Some(parent) => copy_tree(&self.store.files(parent)?, &folder.open_dir(&FS)?),
                    None => Ok(()),
                }
            })
    }

    fn view(&self, number: SnapshotNumber, parents: &[SnapshotNumber]) -> Result<(), Error> {
        self.store.create(number, Kind::View, "view", |folder| {
            self.nearest(parents)?;
            folder.create_dir(&VIEW, Mode::from_raw_mode(0o755))?;
            Ok(())
        })
    }

    fn commit(&self, number: SnapshotNumber) -> Result<Usage, Error> {
        self.store.seal(number)
    }

    fn mounts(
        &self,
        number: SnapshotNumber,
        kind: Kind,
        parents: &[SnapshotNumber],
    ) -> Result<Vec<Mount>, Error> {
        self.store.require(number, kind, "mount")?;
        let (source, read_only) = match (kind, self.nearest(parents)?) {
            (Kind::Active, _) => (self.store.path(number, "fs"), false),
            (Kind::Committed, _) => (self.store.path(number, "fs"), true),
            (Kind::View, Some(parent)) => (self.store.path(parent, "fs"), true),
            (Kind::View, None) => (self.store.path(number, "view"), true),
        };
        Ok(vec![Mount::bind(source, read_only)])
    }

    fn apply_target(
        &self,
        number: SnapshotNumber,
        _parents: &[SnapshotNumber],
    ) -> Result<ApplyTarget, Error> {
        self.store
            .require(number, Kind::Active, "write a layer to")?;
        Ok(ApplyTarget {
            root: self.store.path(number, "fs").into(),
            lowers: Vec::new(),
            whiteouts: Whiteouts::Remove,
        })
    }

    fn usage(&self, number: SnapshotNumber) -> Result<Usage, Error> {
        self.store.usage(number)
    }

    fn remove_many(&self, numbers: &[SnapshotNumber]) -> Vec<RemoveFailure> {
        self.store.remove_many(numbers)
    }

    fn walk(&self) -> Result<Box<dyn Iterator<Item = Result<Found, Error>> + '_>, Error> {
        Ok(Box::new(self.store.walk()?))
    }

    fn cleanup(&self, folders_max: usize) -> Result<Cleaned, Error> {
        self.store.cleanup(folders_max)
    }
}

//! Mounts of snapshots that no record names: leftovers of a killed daemon that keep bytes from going.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use orlop_snapshot::SnapshotNumber;
use orlop_sys::mount::{MountEntry, MountTable, Unmount, unmount_all};

use super::blobs::exists;
use super::{Check, Outcome, Run, perhaps_under_way};
use crate::{Db, Error};
use orlop_types::chain;

impl Run<'_> {
    /// Every mount of a snapshot's files shows only snapshots that have a record, or belongs to a task.
    pub(super) fn mounts(&mut self) -> Result<(), Error> {
        if self.options.snapshot_roots.is_empty() {
            return Ok(());
        }
        let table = match MountTable::read() {
            Ok(table) => table,
            Err(error) => {
                let left = Outcome::Left(chain(&error));
                let detail = "the mount table cannot be read".to_owned();
                self.found(
                    Check::MountUnknown,
                    ("/proc/self/mountinfo".to_owned(), detail),
                    |_| Ok(left),
                );
                return Ok(());
            }
        };
        let bundles = bundles(self.db)?;
        for root in self.options.snapshot_roots.values() {
            let folder = root.join("snapshots");
            for mount in &table {
                self.mount(&table, &folder, mount, &bundles)?;
            }
        }
        Ok(())
    }

    fn mount(
        &mut self,
        table: &MountTable,
        folder: &Path,
        mount: &MountEntry,
        bundles: &[PathBuf],
    ) -> Result<(), Error> {
        let numbers = shown(table, folder, mount);
        if numbers.is_empty() {
            return Ok(());
        }
        self.summary.checked += 1;
        self.summary.mounts += 1;
        let is_task = bundles
            .iter()
            .any(|bundle| mount.mountpoint.starts_with(bundle));
        let mut unknown = Vec::new();
        for number in numbers {
            let stored = i64::try_from(number.value()).unwrap_or(i64::MAX);
            if !exists(
                self.db,
                "SELECT 1 FROM snapshots WHERE number = ?1",
                [stored],
            )? {
                unknown.push(number.to_string());
            }
        }
        if is_task || unknown.is_empty() {
            return Ok(());
        }
        let path = mount.mountpoint.clone();
        let detail = format!(
            "it shows folder {} of {}, which no record names",
            unknown.join(", "),
            folder.display()
        );
        let at_start = self.options.at_start;
        self.found(
            Check::MountUnknown,
            (path.display().to_string(), detail),
            |_| {
                if !at_start {
                    return Ok(perhaps_under_way());
                }
                // A plain unmount: the kernel refuses while a process uses it, and a container has its own copy.
                Ok(match unmount_all(&path, Unmount::default()) {
                    Ok(()) => Outcome::Repaired("it was unmounted"),
                    Err(errors) => Outcome::Left(errors.to_string()),
                })
            },
        );
        Ok(())
    }
}

/// Snapshots whose folders a mount shows: as overlay's folders, as a bind, or as a mount within one.
fn shown(table: &MountTable, folder: &Path, mount: &MountEntry) -> BTreeSet<SnapshotNumber> {
    let own = table.covering(folder).and_then(|own| {
        let within = folder.strip_prefix(&own.mountpoint).ok()?;
        (own.device == mount.device).then(|| own.root.join(within))
    });
    let bound = own.and_then(|own| number_beneath(&own, &mount.root));
    let layers = mount.overlay_folders();
    layers
        .iter()
        .filter_map(|layer| number_beneath(folder, layer))
        .chain(bound)
        .chain(number_beneath(folder, &mount.mountpoint))
        .collect()
}

fn number_beneath(folder: &Path, path: &Path) -> Option<SnapshotNumber> {
    let within = path.strip_prefix(folder).ok()?;
    let first = within.components().next()?;
    first.as_os_str().to_str()?.parse().ok()
}

fn bundles(db: &Db) -> Result<Vec<PathBuf>, Error> {
    let failed = Error::database("list tasks");
    db.read("list tasks", |connection| {
        let mut select = connection
            .prepare("SELECT bundle FROM tasks WHERE bundle <> ''")
            .map_err(failed)?;
        let paths = select
            .query_map([], |row| row.get::<_, String>(0))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(failed)?;
        Ok(paths.into_iter().map(PathBuf::from).collect())
    })
}

//! Which snapshots the mounts of this mount namespace use.
//!
//! Mounts of other namespaces are not seen: a container's rootfs is mounted where the daemon can see it, and the
//! database does not remove what a container holds. This is the second line of defence.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use orlop_sys::mount::MountTable;

use crate::{Error, SnapshotNumber};

/// Snapshots in use, each with one mount that uses it.
#[derive(Debug)]
pub(crate) struct Users(HashMap<SnapshotNumber, PathBuf>);

impl Users {
    /// Looks for mounts on, of, and layered over the folders beneath `snapshots`.
    pub(crate) fn find(table: &MountTable, snapshots: &Path) -> Self {
        let mut users = HashMap::new();
        // A bind mount shows where in its file system it is from, so `snapshots` has to be expressed likewise.
        let own = table.covering(snapshots).and_then(|mount| {
            let within = snapshots.strip_prefix(&mount.mountpoint).ok()?;
            Some((mount.device, mount.root.join(within)))
        });
        for mount in table {
            let bound = own.as_ref().filter(|(device, _)| *device == mount.device);
            let of_mountpoint = number_beneath(snapshots, &mount.mountpoint);
            let of_bind = bound.and_then(|(_, folder)| number_beneath(folder, &mount.root));
            let layers = mount.overlay_folders();
            let of_layers = layers
                .iter()
                .filter_map(|layer| number_beneath(snapshots, layer));
            for number in of_mountpoint.into_iter().chain(of_bind).chain(of_layers) {
                users
                    .entry(number)
                    .or_insert_with(|| mount.mountpoint.clone());
            }
        }
        Self(users)
    }

    /// Fails if `number` is in use.
    pub(crate) fn refuse(
        &self,
        number: SnapshotNumber,
        operation: &'static str,
    ) -> Result<(), Error> {
        match self.0.get(&number) {
            None => Ok(()),
            Some(mountpoint) => Err(Error::Mounted {
                operation,
                number,
                mountpoint: mountpoint.clone(),
            }),
        }
    }
}

fn number_beneath(folder: &Path, path: &Path) -> Option<SnapshotNumber> {
    let within = path.strip_prefix(folder).ok()?;
    within
        .components()
        .next()?
        .as_os_str()
        .to_str()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The backend's folder is `/data/o`, on a disk mounted at `/data` of which `/sub` is shown.
    const TABLE: &[u8] = br"1 1 8:1 / / rw - ext4 /dev/a rw
2 1 8:2 /sub /data rw - ext4 /dev/b rw
3 1 0:9 / /run/c rw - overlay overlay rw,lowerdir+=/data/o/snapshots/11/fs,lowerdir+=/data/o/snapshots/12/fs,upperdir=/data/o/snapshots/13/fs,workdir=/data/o/snapshots/13/work
4 1 8:2 /sub/o/snapshots/14/fs /mnt/v ro - ext4 /dev/b rw
5 2 0:7 / /data/o/snapshots/15/fs/proc rw - proc proc rw
6 1 8:1 /sub/o/snapshots/16/fs /mnt/other rw - ext4 /dev/a rw
7 1 0:8 / /run/d rw - overlay overlay rw,lowerdir=/data/o/snapshots/17/fs:/data/o/snapshots/18/fs
8 1 8:2 /sub /mnt/all rw - ext4 /dev/b rw
";

    #[test]
    fn layers_binds_and_mount_points_are_uses_and_other_disks_are_not() {
        let table: MountTable = MountTable::parse(TABLE).map(Result::unwrap).collect();
        let users = Users::find(&table, Path::new("/data/o/snapshots"));
        let mut numbers: Vec<_> = users.0.keys().map(|number| number.value()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [11, 12, 13, 14, 15, 17, 18]);
        let error = users.refuse(SnapshotNumber::new(14), "remove").unwrap_err();
        assert!(error.to_string().contains("/mnt/v"), "{error}");
    }
}

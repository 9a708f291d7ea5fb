//! Images whose files containers of a pod see, read-only (CRI's `Mount.image`, ADR 22).
//!
//! ```text
//! <pod's folder>/volumes/<n>/     the files of one image, mounted ro,nosuid,nodev,noexec
//! ```
//!
//! There is one mount for each image, id map and SELinux label, shared by all containers of the pod that ask for it. It
//! shows a read-only snapshot on top of the image's, so nothing is ever written and nobody has to account for it. A sub
//! path is a folder of that mount and needs none of its own.
//!
//! Crash: what is to be made is on record first ([`record`]), with who uses it; the same row names the image's manifest and
//! the snapshot as references, so both are kept from the first moment and `orlop gc why` names the pod. Making and taking
//! away can be repeated. The next daemon drops users that were never made and what nobody uses then
//! ([`Volumes::reconcile`]); a mount that is gone is made again when a container starts ([`Volumes::remount`]). The record
//! says on which snapshotter a snapshot is, so changing the configured one leaves nothing behind. Cancellation: jobs run to
//! their end. Ordering: one change at a time per pod.

mod error;
mod record;
mod show;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use orlop_meta::{Sandbox, View};
use orlop_sys::fs::{Dir, Mode, Name};
use orlop_sys::mount::{Unmount, unmount_all};
use orlop_types::{
    ContainerId, Digest, IdMaps, Namespace, SandboxId, SnapshotKey, SnapshotterName,
};

pub use error::VolumeError;
use record::{Record, Volume, VolumeKey};

use super::files;
use super::machine::PodPhase;
use super::record::{PodKey, PodRecord};
use super::table::Cell;
use crate::core::Core;

/// The folder of mounts in a pod's folder.
const FOLDER: &str = "volumes";

/// An image to be mounted, as the engine found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeImage {
    /// What the pod calls it.
    pub reference: String,
    /// Its manifest: what tells images apart.
    pub manifest: Digest,
    /// The committed snapshot of all its files.
    pub snapshot: SnapshotKey,
    /// Where that snapshot is.
    pub snapshotter: SnapshotterName,
}

/// One mount of a container.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) image: VolumeImage,
    pub(crate) id_maps: Option<IdMaps>,
    pub(crate) selinux_label: Option<String>,
    /// A folder of the image; empty for all of it.
    pub(crate) sub_path: String,
}

impl Wanted {
    fn key(&self) -> VolumeKey {
        VolumeKey {
            image: self.image.manifest,
            id_maps: self.id_maps.clone(),
            selinux_label: self.selinux_label.clone(),
        }
    }
}

/// The volumes of one pod. All methods block.
pub(crate) struct Volumes<'a> {
    core: &'a Core,
    key: PodKey,
    cell: Arc<Cell>,
}

impl<'a> Volumes<'a> {
    /// `None` for a pod that is not there, which has none.
    pub(crate) fn of(core: &'a Core, namespace: &Namespace, pod: &SandboxId) -> Option<Self> {
        let key = PodKey {
            namespace: namespace.clone(),
            pod: pod.clone(),
        };
        let cell = core.pods.find(&key).ok()?;
        Some(Self { core, key, cell })
    }

    /// Makes what a container wants to see, as far as it is not there, and says where each is. `leased` holds a new snapshot
    /// until it is on record. On failure the container uses nothing.
    pub(crate) fn acquire(
        &self,
        leased: &View,
        container: &ContainerId,
        wanted: &[Wanted],
    ) -> Result<Vec<PathBuf>, VolumeError> {
        let _alone = self.alone();
        let (mut row, mut record) = self.load()?;
        let numbers: Vec<u32> = wanted
            .iter()
            .map(|wanted| {
                let image = &wanted.image;
                record.take(wanted.key(), image, &self.key.pod, container)
            })
            .collect();
        self.store(&mut row, &record)?;
        let shown = self.show(leased, &row, &record, &numbers).and_then(|()| {
            let pairs = numbers.iter().zip(wanted);
            let places =
                pairs.map(|(number, wanted)| show::resolve(&self.place(*number), &wanted.sub_path));
            places.collect()
        });
        if shown.is_err() {
            let released = self.drop_users(&mut row, &mut record, |user| user == container);
            log_failures(&self.key, released.err());
        }
        shown
    }

    /// Mounts again what a container uses and somebody, or a reboot, has unmounted.
    pub(crate) fn remount(&self, container: &ContainerId) -> Result<(), VolumeError> {
        let _alone = self.alone();
        let (row, record) = self.load()?;
        let used = record.volumes.iter();
        let numbers: Vec<u32> = used
            .filter(|volume| volume.users.contains(container))
            .map(|volume| volume.number)
            .collect();
        self.show(&self.view(), &row, &record, &numbers)
    }

    /// Takes away what only this container used.
    pub(crate) fn release(&self, container: &ContainerId) -> Result<(), VolumeError> {
        self.drop_where(|user| user == container)
    }

    /// Takes all away, whoever uses it.
    pub(crate) fn release_all(&self) -> Result<(), VolumeError> {
        self.drop_where(|_user| true)
    }

    /// Takes away what a daemon before this one left: everything of a stopped pod, and of others what is used only by
    /// containers that were never made, or are gone.
    pub(crate) fn reconcile(&self) -> Result<(), VolumeError> {
        let _alone = self.alone();
        let (mut row, mut record) = self.load()?;
        let is_over = PodRecord::read(&row)
            .and_then(Result::ok)
            .is_some_and(|pod| pod.state.phase == PodPhase::NotReady);
        let mut gone = BTreeSet::new();
        for user in record.volumes.iter().flat_map(|volume| &volume.users) {
            if is_over || self.is_gone(user)? {
                gone.insert(user.clone());
            }
        }
        self.drop_users(&mut row, &mut record, |user| gone.contains(user))
    }

    fn drop_where(&self, is_dropped: impl Fn(&ContainerId) -> bool) -> Result<(), VolumeError> {
        let _alone = self.alone();
        let (mut row, mut record) = self.load()?;
        self.drop_users(&mut row, &mut record, is_dropped)
    }

    /// Drops users, then takes away what has none. What cannot be taken away stays on record, and the next call tries again.
    /// Goes on after a failure and gives the first.
    fn drop_users(
        &self,
        row: &mut Sandbox,
        record: &mut Record,
        is_dropped: impl Fn(&ContainerId) -> bool,
    ) -> Result<(), VolumeError> {
        let before = record.clone();
        let mut failure = None;
        for volume in &mut record.volumes {
            volume.users.retain(|user| !is_dropped(user));
        }
        record.volumes.retain(|volume| {
            if !volume.users.is_empty() {
                return true;
            }
            let hidden = self.hide(volume);
            let stays = hidden.is_err();
            failure = failure.take().or(hidden.err());
            stays
        });
        if *record != before {
            self.store(row, record)?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Makes snapshots and mounts of the volumes with these numbers, as far as they are not there.
    fn show(
        &self,
        view: &View,
        row: &Sandbox,
        record: &Record,
        numbers: &[u32],
    ) -> Result<(), VolumeError> {
        if numbers.is_empty() {
            return Ok(());
        }
        let pod = PodRecord::read(row).and_then(Result::ok);
        let users = pod.and_then(|pod| pod.places.user.zip(pod.config.namespaces.user));
        for volume in &record.volumes {
            let place = self.place(volume.number);
            if !numbers.contains(&volume.number) || show::is_mounted(&place)? {
                continue;
            }
            let mounts = snapshot(view, volume)?;
            Dir::create_all(&place, Mode::from_raw_mode(0o711)).map_err(VolumeError::Folder)?;
            show::mount(&mounts, &volume.key, users.as_ref(), &place)?;
        }
        Ok(())
    }

    /// Mount, folder, snapshot: each as far as it is there.
    fn hide(&self, volume: &Volume) -> Result<(), VolumeError> {
        let how = Unmount {
            detach: true,
            recursive: true,
        };
        let place = self.place(volume.number);
        unmount_all(&place, how).map_err(VolumeError::Unmount)?;
        let folder = self.folder();
        let removed = Dir::open(&folder).and_then(|folder| folder.remove_dir(&name(volume.number)));
        match removed {
            Err(error) if !error.is_not_found() => return Err(VolumeError::Folder(error)),
            Ok(()) | Err(_) => {}
        }
        let view = self.view();
        match view.snapshots(&volume.snapshotter).remove(&volume.snapshot) {
            Err(error) if error.kind() != orlop_meta::ErrorKind::NotFound => {
                Err(VolumeError::Snapshot(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn is_gone(&self, container: &ContainerId) -> Result<bool, VolumeError> {
        match self.view().containers().find(container) {
            Ok(_there) => Ok(false),
            Err(error) if error.kind() == orlop_meta::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(VolumeError::Record(error)),
        }
    }

    fn load(&self) -> Result<(Sandbox, Record), VolumeError> {
        let row = self.view().sandboxes().find(&self.key.pod);
        let row = row.map_err(VolumeError::Record)?;
        let record = Record::read(&row)?;
        Ok((row, record))
    }

    fn store(&self, row: &mut Sandbox, record: &Record) -> Result<(), VolumeError> {
        let fields = record.write_to(row)?;
        let stored = self.view().sandboxes().update(row, &fields);
        stored.map(drop).map_err(VolumeError::Record)
    }

    fn view(&self) -> View {
        self.core.db.namespace(&self.key.namespace)
    }

    fn folder(&self) -> PathBuf {
        files::folder(&self.core.pods.settings, &self.key).join(FOLDER)
    }

    fn place(&self, number: u32) -> PathBuf {
        self.folder().join(number.to_string())
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        let volumes = self.cell.volumes.lock();
        volumes.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of what a failed call could not take away; the pod's end tries again.
fn log_failures(key: &PodKey, failure: Option<VolumeError>) {
    if let Some(error) = failure {
        let error = orlop_types::chain(&error);
        tracing::warn!(pod = %key.pod, error, "an image's files stay mounted until the pod is stopped");
    }
}

/// The mounts of a volume's snapshot, which is made if it is not there.
fn snapshot(view: &View, volume: &Volume) -> Result<Vec<orlop_types::Mount>, VolumeError> {
    let snapshots = view.snapshots(&volume.snapshotter);
    let options = orlop_meta::SnapshotOptions {
        parent: Some(volume.parent.clone()),
        labels: orlop_types::Labels::new(),
    };
    match snapshots.view(&volume.snapshot, &options) {
        Err(error) if error.kind() == orlop_meta::ErrorKind::AlreadyExists => {
            snapshots.mounts(&volume.snapshot)
        }
        made => made,
    }
    .map_err(VolumeError::Snapshot)
}

fn name(number: u32) -> Name {
    Name::new(number.to_string()).expect("digits are one path component")
}

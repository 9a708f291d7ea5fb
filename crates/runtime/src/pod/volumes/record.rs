//! What the database keeps of a pod's volumes: an extension of its row, and references in the row's labels.
//!
//! - `orlop.dev/pod-volumes`, version 1: JSON of [`Record`]. Written before what it tells of is made, and after it is taken
//!   away; absent when there are none.
//! - `containerd.io/gc.ref.content/volume-<n>`: the image's manifest, and through it config and layers.
//! - `containerd.io/gc.ref.snapshot.<snapshotter>/volume-<n>`: the snapshot that is mounted.

use std::collections::{BTreeMap, BTreeSet};

use orlop_meta::{Sandbox, TypedBytes};
use orlop_types::{ContainerId, Digest, IdMaps, SandboxId, SnapshotKey, SnapshotterName};
use serde::{Deserialize, Serialize};

use super::{VolumeError, VolumeImage};

const EXTENSION: &str = "orlop.dev/pod-volumes";
const TYPE_V1: &str = "orlop.dev/pod-volumes/1";

const CONTENT_REFERENCE: &str = "containerd.io/gc.ref.content/volume-";
const SNAPSHOT_REFERENCE: &str = "containerd.io/gc.ref.snapshot.";

/// All volumes of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The number of the next one; none is used twice while there are others.
    next: u32,
    pub(super) volumes: Vec<Volume>,
}

/// What makes two mounts of an image one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VolumeKey {
    /// The image's manifest.
    pub(super) image: Digest,
    /// How the owners of its files are shown; absent for as they are.
    #[serde(default)]
    pub(super) id_maps: Option<IdMaps>,
    /// The SELinux label of its files; absent for none.
    #[serde(default)]
    pub(super) selinux_label: Option<String>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Volume {
    pub(super) number: u32,
    pub(super) key: VolumeKey,
    /// What the first who asked called the image, for people.
    pub(super) reference: String,
    pub(super) snapshotter: SnapshotterName,
    /// The read-only snapshot that is mounted.
    pub(super) snapshot: SnapshotKey,
    /// The image's snapshot, which that one is on top of.
    pub(super) parent: SnapshotKey,
    /// The containers that see it.
    pub(super) users: BTreeSet<ContainerId>,
}

impl Record {
    /// Notes that `user` sees an image, and gives the volume's number.
    pub(super) fn take(
        &mut self,
        key: VolumeKey,
        image: &VolumeImage,
        pod: &SandboxId,
        user: &ContainerId,
    ) -> u32 {
        if let Some(there) = self.volumes.iter_mut().find(|volume| volume.key == key) {
            there.users.insert(user.clone());
            return there.number;
        }
        let number = self.next;
        self.next += 1;
        let snapshot = SnapshotKey::new(format!("volume-{pod}-{number}"))
            .expect("a pod's id with a number is a sound key");
        self.volumes.push(Volume {
            number,
            key,
            reference: image.reference.clone(),
            snapshotter: image.snapshotter.clone(),
            snapshot,
            parent: image.snapshot.clone(),
            users: BTreeSet::from([user.clone()]),
        });
        number
    }

    /// Nothing on record is no volume.
    pub(super) fn read(row: &Sandbox) -> Result<Self, VolumeError> {
        let Some(kept) = row.extensions.get(EXTENSION) else {
            return Ok(Self::default());
        };
        if kept.type_url != TYPE_V1 {
            let unknown = format!("its version is {:?}", kept.type_url);
            return Err(VolumeError::ForeignRecord(serde::de::Error::custom(
                unknown,
            )));
        }
        serde_json::from_slice(&kept.value).map_err(VolumeError::ForeignRecord)
    }

    /// Puts record and references into a row, and says which fields of it change.
    pub(super) fn write_to(&self, row: &mut Sandbox) -> Result<Vec<String>, VolumeError> {
        let references = self.references();
        let mut fields = vec![format!("extensions.{EXTENSION}")];
        let old: Vec<String> = row.labels.iter().map(|(label, _)| label.clone()).collect();
        for label in old.into_iter().filter(|label| is_ours(label)) {
            if !references.contains_key(&label) {
                row.labels.remove(&label);
                fields.push(format!("labels.{label}"));
            }
        }
        for (label, value) in references {
            if row.labels.value(&label) == Some(value.as_str()) {
                continue;
            }
            fields.push(format!("labels.{label}"));
            let inserted = row.labels.insert(label, value);
            inserted.map_err(|_long| VolumeError::Refused("its snapshotter's name is too long"))?;
        }
        if self.volumes.is_empty() {
            row.extensions.remove(EXTENSION);
            return Ok(fields);
        }
        let value = serde_json::to_vec(self).expect("a record of volumes has only text keys");
        let record = TypedBytes {
            type_url: TYPE_V1.to_owned(),
            value,
        };
        row.extensions.insert(EXTENSION.to_owned(), record);
        Ok(fields)
    }

    fn references(&self) -> BTreeMap<String, String> {
        let both = |volume: &Volume| {
            let number = volume.number;
            let snapshotter = &volume.snapshotter;
            [
                (
                    format!("{CONTENT_REFERENCE}{number}"),
                    volume.key.image.to_string(),
                ),
                (
                    format!("{SNAPSHOT_REFERENCE}{snapshotter}/volume-{number}"),
                    volume.snapshot.to_string(),
                ),
            ]
        };
        self.volumes.iter().flat_map(both).collect()
    }
}

fn is_ours(label: &str) -> bool {
    let snapshot = label.strip_prefix(SNAPSHOT_REFERENCE);
    label.starts_with(CONTENT_REFERENCE) || snapshot.is_some_and(|rest| rest.contains("/volume-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(first: &str) -> VolumeImage {
        VolumeImage {
            reference: format!("r.example/{first}"),
            manifest: format!("sha256:{first:0<64}").parse().unwrap(),
            snapshot: SnapshotKey::new("sha256:top").unwrap(),
            snapshotter: SnapshotterName::new("overlayfs").unwrap(),
        }
    }

    fn key(image: &VolumeImage, label: Option<&str>) -> VolumeKey {
        VolumeKey {
            image: image.manifest,
            id_maps: None,
            selinux_label: label.map(str::to_owned),
        }
    }

    fn row() -> Sandbox {
        let runtime = orlop_meta::Runtime::default();
        Sandbox::new(SandboxId::new("pod").unwrap(), runtime)
    }

    fn taken() -> Record {
        let pod = SandboxId::new("pod").unwrap();
        let [one, two] = ["one", "two"].map(|id| ContainerId::new(id).unwrap());
        let mut record = Record::default();
        let (a, b) = (image("a"), image("b"));
        assert_eq!(record.take(key(&a, None), &a, &pod, &one), 0);
        assert_eq!(record.take(key(&a, None), &a, &pod, &two), 0, "shared");
        assert_eq!(record.take(key(&b, None), &b, &pod, &two), 1);
        assert_eq!(record.take(key(&a, Some("t")), &a, &pod, &two), 2);
        record
    }

    #[test]
    fn a_record_and_its_references_come_and_go_with_the_row() {
        let (record, mut row) = (taken(), row());
        assert_eq!(Record::read(&row).unwrap(), Record::default());
        let fields = record.write_to(&mut row).unwrap();
        assert_eq!(fields.len(), 7, "{fields:?}");
        let snapshot = row
            .labels
            .value("containerd.io/gc.ref.snapshot.overlayfs/volume-1");
        assert_eq!(snapshot, Some("volume-pod-1"));
        assert!(
            row.labels
                .value("containerd.io/gc.ref.content/volume-2")
                .is_some()
        );
        assert_eq!(Record::read(&row).unwrap(), record);
        let fields = record.write_to(&mut row).unwrap();
        assert_eq!(
            fields.len(),
            1,
            "unchanged references are not written again"
        );
        let fields = Record::default().write_to(&mut row).unwrap();
        assert_eq!(fields.len(), 7);
        assert!(row.labels.is_empty() && row.extensions.is_empty());
    }

    #[test]
    fn a_record_of_another_version_is_not_guessed_at() {
        let mut row = row();
        taken().write_to(&mut row).unwrap();
        row.extensions.get_mut(EXTENSION).unwrap().type_url = "orlop.dev/pod-volumes/9".into();
        let error = Record::read(&row).unwrap_err();
        assert_eq!(error.code(), "ORL-E6616");
        assert!(orlop_types::chain(&error).contains("pod-volumes/9"));
    }
}

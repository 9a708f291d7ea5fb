//! Snapshots as layers of the kernel's overlay: a snapshot holds only what differs from its parents.
//!
//! A layer's folder does not depend on its parents; only the mounts do. So the layers of an image are written side
//! by side, and their order is decided when they are committed.
//!
//! `index`, `redirect_dir` and `metacopy` are switched off in every mount, whatever the kernel's defaults are: with
//! any of them a layer would hold marks that mean something only above the very lower layers it was written on.

use std::path::Path;

use orlop_sys::fs::{Mode, Name, remove_tree_beneath};
use orlop_sys::mount::{self, Unmount, escape_layer, mount_all, unmount_all};
use orlop_types::{Mount, SnapshotterName};

use crate::store::{Store, VIEW, WORK, create_root};
use crate::{
    ApplyTarget, Cleaned, Error, Found, Kind, RemoveFailure, SnapshotNumber, Snapshotter, Usage,
    Whiteouts,
};

const NAME: &str = "overlayfs";

static PROBE: Name = Name::from_static("probe");

/// The parts of the trial mount, top layer first.
const PROBE_PARTS: [&str; 5] = ["upper", "work", "lower2", "lower1", "merged"];

/// The overlayfs backend.
#[derive(Debug)]
pub struct Overlayfs {
    name: SnapshotterName,
    store: Store,
    user_xattr: bool,
    extra_options: Vec<String>,
}

impl Overlayfs {
    /// Opens the backend in the folder `root`, creating it if need be, and tries a mount there.
    ///
    /// `extra_options` are added to every overlay, as containerd's `mount_options`; `volatile` is such an option,
    /// and not set unless asked for, since a crash would make the writable layer unusable.
    ///
    /// # Errors
    /// [`Error::Unsupported`], naming the reason, if this kernel or the file system of `root` cannot do it;
    /// [`Error::UnmountablePath`]; [`Error::Files`].
    pub fn open(root: &Path, extra_options: &[String]) -> Result<Self, Error> {
        let mut backend = Self {
            name: SnapshotterName::new(NAME).expect("the name is an identifier"),
            store: Store::open(root)?,
            user_xattr: is_in_user_namespace(),
            extra_options: extra_options.to_vec(),
        };
        match backend.probe() {
            // Kernels before 5.11 have no `userxattr`; some of them allow the mount without it.
            Err(Error::Unsupported { .. }) if backend.user_xattr => {
                backend.user_xattr = false;
                backend.probe()?;
            }
            other => other?,
        }
        Ok(backend)
    }

    /// Mounts a small overlay in the backend's own folder, so that a misfit shows now and not at the first pod.
    fn probe(&self) -> Result<(), Error> {
        let folder = self.store.incoming().path_of(&PROBE);
        let result = self
            .discard_probe(&folder)
            .and_then(|()| self.mount_probe(&folder));
        result.and(self.discard_probe(&folder))
    }

    fn mount_probe(&self, folder: &Path) -> Result<(), Error> {
        let probe = self
            .store
            .incoming()
            .create_dir(&PROBE, Mode::from_raw_mode(0o700))?;
        for part in PROBE_PARTS {
            probe.create_dir(&Name::from_static(part), Mode::from_raw_mode(0o700))?;
        }
        let [upper, work, lower2, lower1, merged] =
            PROBE_PARTS.map(|part| folder.join(part).to_string_lossy().into_owned());
        let trial = self.overlay(Some((upper, work)), &[lower2, lower1]);
        mount_all(std::slice::from_ref(&trial), Path::new(&merged))
            .map_err(|error| self.unsupported(&trial, &error))
    }

    fn discard_probe(&self, folder: &Path) -> Result<(), Error> {
        let how = Unmount {
            detach: true,
            recursive: true,
        };
        unmount_all(folder, how).map_err(|error| Error::Unsupported {
            backend: NAME,
            root: self.store.root().to_owned(),
            reason: orlop_types::chain(&error),
        })?;
        remove_tree_beneath(self.store.incoming(), &PROBE)?;
        Ok(())
    }

    fn unsupported(&self, trial: &Mount, error: &mount::MountError) -> Error {
        let faults = mount::preflight::overlay(trial);
        let reason = match faults.first() {
            Some(fault) => orlop_types::chain(fault),
            None => orlop_types::chain(error),
        };
        Error::Unsupported {
            backend: NAME,
            root: self.store.root().to_owned(),
            reason,
        }
    }

    fn overlay(&self, writable: Option<(String, String)>, lowers: &[String]) -> Mount {
        let mut options: Vec<String> = match self.user_xattr {
            // The kernel refuses to hear of the other two together with this one, and has them off.
            true => vec!["userxattr".to_owned(), "index=off".to_owned()],
            false => ["index=off", "redirect_dir=off", "metacopy=off"]
                .map(str::to_owned)
                .to_vec(),
        };
        options.extend(self.extra_options.iter().cloned());
        if let Some((upper, work)) = writable {
            options.push(format!("workdir={}", escape_layer(&work)));
            options.push(format!("upperdir={}", escape_layer(&upper)));
        }
        let lowers: Vec<_> = lowers.iter().map(|lower| escape_layer(lower)).collect();
        options.push(format!("lowerdir={}", lowers.join(":")));
        Mount {
            fs_type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options,
        }
    }

    /// The parents' folders, after a look that they are there.
    fn lowers(&self, parents: &[SnapshotNumber]) -> Result<Vec<String>, Error> {
        let lower = |&parent| {
            self.store.files(parent)?;
            Ok(self.store.path(parent, "fs"))
        };
        parents.iter().map(lower).collect()
    }

    fn read_only(&self, lowers: &[String]) -> Mount {
        match lowers {
            // The kernel wants two layers for an overlay without an upper one; one layer is what it is.
            [only] => Mount::bind(only, true),
            _ => self.overlay(None, lowers),
        }
    }
}

impl Snapshotter for Overlayfs {
    fn name(&self) -> &SnapshotterName {
        &self.name
    }

    fn parents_needed_at_prepare(&self) -> bool {
        false
    }

    fn prepare(&self, number: SnapshotNumber, parents: &[SnapshotNumber]) -> Result<(), Error> {
        self.store
            .create(number, Kind::Active, "prepare", |folder| {
                let parent = parents
                    .first()
                    .map(|&parent| self.store.files(parent))
                    .transpose()?;
                folder.create_dir(&WORK, Mode::from_raw_mode(0o711))?;
                // The top layer's root decides the mode of the mounted root.
                create_root(folder, parent.as_ref())
            })
    }

    fn view(&self, number: SnapshotNumber, parents: &[SnapshotNumber]) -> Result<(), Error> {
        self.store.create(number, Kind::View, "view", |folder| {
            self.lowers(parents)?;
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
        let mut lowers = self.lowers(parents)?;
        let own = self.store.path(number, "fs");
        Ok(vec![match kind {
            Kind::Active if lowers.is_empty() => Mount::bind(own, false),
            Kind::Active => self.overlay(Some((own, self.store.path(number, "work"))), &lowers),
            Kind::View if lowers.is_empty() => Mount::bind(self.store.path(number, "view"), true),
            Kind::View => self.read_only(&lowers),
            Kind::Committed => {
                lowers.insert(0, own);
                self.read_only(&lowers)
            }
        }])
    }

    fn apply_target(
        &self,
        number: SnapshotNumber,
        parents: &[SnapshotNumber],
    ) -> Result<ApplyTarget, Error> {
        self.store
            .require(number, Kind::Active, "write a layer to")?;
        Ok(ApplyTarget {
            root: self.store.path(number, "fs").into(),
            lowers: self.lowers(parents)?.into_iter().map(Into::into).collect(),
            whiteouts: Whiteouts::Overlay {
                user_xattr: self.user_xattr,
            },
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

/// Whether this process is root only in a user namespace of its own: then overlay may not write `trusted.*`.
fn is_in_user_namespace() -> bool {
    const INITIAL: [&str; 3] = ["0", "0", "4294967295"];
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| !map.split_whitespace().eq(INITIAL))
}

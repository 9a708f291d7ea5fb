//! Mounts on a folder: made, looked at, taken down.

use std::cmp::Reverse;
use std::error::Error as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use orlop_sys::beneath::{make_symlink, read_link};
use orlop_sys::fs::{Dir, FileKind, FsError, Mode, Name, remove_tree_beneath};
use orlop_sys::mount::{LoopDevice, MountError, MountTable, Unmount, mount_all, unmount_all};
use orlop_types::Mount;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::plan::{Maker, Plan, Step};
use crate::prepare::Roots;

/// The block device wanted where there is a file (errno.h): what erofs says before Linux 6.12.
const ENOTBLK: i32 = 15;
/// An option for whoever mounts, not for the kernel: the source is a file (mount(8)).
const LOOP_OPTION: &str = "loop";
const VERITY_OPTION: &str = "X-containerd.dmverity=";

/// A mount that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// As it was made.
    pub mount: Mount,
    /// The folder it is on, or the link to its loop device.
    pub mount_point: String,
    /// In nanoseconds since 1970.
    pub mounted_at_nanos: i64,
    /// The loop device that takes the place of a mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// What came of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// What was made, in order.
    pub active: Vec<Active>,
    /// What is left to make: a bind mount at least, for whoever only wants to look.
    pub system: Vec<Mount>,
}

/// The folder of all activations.
#[derive(Debug)]
pub struct Store {
    folder: Dir,
    roots: Roots,
}

/// Where one mount goes.
struct Place<'a> {
    own: &'a Dir,
    name: Name,
    path: String,
}

impl Store {
    /// Opens the store on `folder`, which is made if it is missing. New files and folders are made beneath `roots`, and
    /// beneath the folder itself.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub fn open(folder: &Path, roots: &[PathBuf]) -> Result<Self, Error> {
        Dir::create_all(folder, Mode::from_raw_mode(0o700))?;
        // As the mount table has it, free of links.
        let real = |path: &Path| {
            let found = path.canonicalize();
            found.map_err(|source| FsError::io("resolve", path, source))
        };
        let folder = real(folder)?;
        let mut all = roots
            .iter()
            .map(|root| real(root))
            .collect::<Result<Vec<_>, _>>()?;
        all.push(folder.clone());
        Ok(Self {
            folder: Dir::open(&folder)?,
            roots: Roots::new(all),
        })
    }

    /// Makes the mounts of `plan` under a number that is not in use.
    ///
    /// # Errors
    /// [`Error`]. What was made by then has been taken down, or is logged.
    pub fn make(&self, number: u64, plan: &Plan, now: SystemTime) -> Result<Made, Error> {
        let own = self
            .folder
            .create_dir(&name_of(number), Mode::from_raw_mode(0o700))?;
        let made = self.make_all(&own, plan, now);
        if made.is_err()
            && let Err(error) = self.remove(number)
        {
            tracing::warn!(number, %error, "mounts of a failed activation stay");
        }
        made
    }

    fn make_all(&self, own: &Dir, plan: &Plan, now: SystemTime) -> Result<Made, Error> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mounted_at_nanos = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let mut active: Vec<Active> = Vec::with_capacity(plan.made.len());
        for step in &plan.made {
            let mut mount = self.roots.prepare(step, &active)?;
            let place = place(own, step)?;
            let device = match step.maker {
                Maker::Loop => Some(place.attach(step, &mount)?),
                Maker::Kernel => place.mount(step, &mount).map(|()| None)?,
                Maker::Erofs => place.mount_erofs(step, &mut mount).map(|()| None)?,
            };
            active.push(Active {
                mount,
                mount_point: place.path,
                mounted_at_nanos,
                device,
            });
        }
        let left = plan.left.iter();
        let left = left.map(|step| self.roots.prepare(step, &active));
        let mut system = left.collect::<Result<Vec<_>, _>>()?;
        if let Some(last) = active.last().filter(|_| plan.temporary) {
            system.push(Mount {
                fs_type: "bind".to_owned(),
                source: last.mount_point.clone(),
                options: vec!["rbind".to_owned()],
                ..Mount::default()
            });
        }
        Ok(Made { active, system })
    }

    /// Takes down all that was made under a number. Nothing there is no error.
    ///
    /// # Errors
    /// [`Error::Busy`] and others. What lies beneath the mount at fault stays too: it is in use by it.
    pub fn remove(&self, number: u64) -> Result<(), Error> {
        let own = match self.folder.open_dir(&name_of(number)) {
            Ok(own) => own,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut names = own
            .entries()?
            .map(|entry| Ok(entry?.name))
            .collect::<Result<Vec<Name>, FsError>>()?;
        names.sort_unstable_by_key(|name| Reverse(name.clone()));
        for name in names {
            let path = own.path_of(&name);
            if own.stat(&name)?.kind == FileKind::Symlink {
                release(&own, &name)?;
            } else {
                unmount_all(&path, Unmount::default())
                    .map_err(|source| Error::Busy { number, source })?;
            }
        }
        remove_tree_beneath(&self.folder, &name_of(number))?;
        Ok(())
    }

    /// Whether all that was made is still there.
    #[must_use]
    pub fn is_whole(&self, active: &[Active], table: &MountTable) -> bool {
        active.iter().all(|made| match &made.device {
            Some(device) => {
                let link = Path::new(&made.mount_point);
                let is_linked = link.read_link().is_ok_and(|it| it == Path::new(device));
                let is_ours = || {
                    let opened = LoopDevice::open(Path::new(device));
                    opened.and_then(|it| it.is_tagged(&made.mount_point))
                };
                is_linked && is_ours().unwrap_or(false)
            }
            None => {
                let beneath = made.mount.target.trim_start_matches('/');
                let path = Path::new(&made.mount_point).join(beneath);
                table.iter().any(|entry| entry.mountpoint == path)
            }
        })
    }

    /// The numbers under which there is something.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub fn numbers(&self) -> Result<Vec<u64>, Error> {
        let mut numbers = Vec::new();
        for entry in self.folder.entries()? {
            let name = entry?.name;
            numbers.extend(name.as_str().and_then(|text| text.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// The mounts there are.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn table(&self) -> Result<MountTable, Error> {
        MountTable::read().map_err(Error::Table)
    }
}

impl Place<'_> {
    /// Makes a mount in a folder of its own.
    fn mount(&self, step: &Step, mount: &Mount) -> Result<(), Error> {
        if step.mount.fs_type.contains('/') {
            return Err(unsupported(step, "there is no such preparation".to_owned()));
        }
        let folder = self.own.create_dir(&self.name, Mode::from_raw_mode(0o700));
        folder?;
        let mut mount = mount.clone();
        let mut device = None;
        if mount.options.iter().any(|option| option == LOOP_OPTION) {
            mount.options.retain(|option| option != LOOP_OPTION);
            let made = self.device(&mount.source, is_read_only(&mount))?;
            mount.source = path_of(&made);
            device = Some(made);
        }
        self.attach_to_tree(step, &mount)?;
        // The mount holds the device from here on.
        drop(device);
        Ok(())
    }

    /// Makes a mount of a file with an erofs: as a file where the kernel can, else as a device.
    fn mount_erofs(&self, step: &Step, mount: &mut Mount) -> Result<(), Error> {
        if mount.options.iter().any(|it| it.starts_with(VERITY_OPTION)) {
            return Err(unsupported(step, "dm-verity is not set up here".to_owned()));
        }
        mount.options.retain(|option| option != LOOP_OPTION);
        let folder = self.own.create_dir(&self.name, Mode::from_raw_mode(0o700));
        folder?;
        match self.attach_to_tree(step, mount) {
            Err(Error::Mount { source, .. }) if is_not_a_device(&source) => {}
            other => return other,
        }
        let mut devices = vec![self.device(&mount.source, true)?];
        mount.source = path_of(&devices[0]);
        for option in &mut mount.options {
            if let Some(file) = option.strip_prefix("device=") {
                let device = self.device(file, true)?;
                *option = format!("device={}", path_of(&device));
                devices.push(device);
            }
        }
        self.attach_to_tree(step, mount)
    }

    fn attach_to_tree(&self, step: &Step, mount: &Mount) -> Result<(), Error> {
        let index = step.index;
        mount_all(std::slice::from_ref(mount), Path::new(&self.path))
            .map_err(|source| Error::Mount { index, source })
    }

    /// Makes a loop device that stays, and the link by which it is known. Returns its path.
    fn attach(&self, step: &Step, mount: &Mount) -> Result<String, Error> {
        if mount.source.is_empty() {
            return Err(invalid(step, "it has no source".to_owned()));
        }
        let device = self.device(&mount.source, is_read_only(mount))?;
        let path = path_of(&device);
        let failed = |operation| {
            let path = PathBuf::from(&self.path);
            move |source| Error::Loop {
                operation,
                path,
                source,
            }
        };
        make_symlink(self.own, self.name_bytes(), path.as_bytes())
            .map_err(failed("link a loop device"))?;
        // From here on it is found by its link, and need not go by itself any more.
        device.keep(true).map_err(failed("keep a loop device"))?;
        Ok(path)
    }

    /// A loop device of a file. It goes with its last user.
    fn device(&self, source: &str, read_only: bool) -> Result<LoopDevice, Error> {
        let attach = || {
            let file = open_regular(Path::new(source), read_only)?;
            LoopDevice::attach(&file, read_only, &self.path)
        };
        attach().map_err(|error| Error::Loop {
            operation: "make a loop device",
            path: source.into(),
            source: error,
        })
    }

    fn name_bytes(&self) -> &[u8] {
        self.name.as_bytes()
    }
}

/// A mount that can never be made as it was asked for.
pub(crate) fn invalid(step: &Step, reason: String) -> Error {
    Error::Invalid {
        index: step.index,
        fs_type: step.mount.fs_type.clone(),
        reason,
    }
}

/// A mount that is not made here.
pub(crate) fn unsupported(step: &Step, reason: String) -> Error {
    Error::Unsupported {
        index: step.index,
        fs_type: step.mount.fs_type.clone(),
        reason,
    }
}

fn name_of(number: u64) -> Name {
    Name::new(number.to_string()).expect("digits are a name")
}

fn place<'a>(own: &'a Dir, step: &Step) -> Result<Place<'a>, Error> {
    let name = Name::new(format!("{:03}", step.index)).expect("digits are a name");
    let path = own.path_of(&name);
    let path = path
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| unsupported(step, format!("the path {} is not UTF-8", path.display())))?;
    Ok(Place { own, name, path })
}

fn is_read_only(mount: &Mount) -> bool {
    mount.options.iter().any(|option| option == "ro")
}

fn path_of(device: &LoopDevice) -> String {
    device.path().to_string_lossy().into_owned()
}

fn is_not_a_device(error: &MountError) -> bool {
    let cause = error.source().and_then(|it| it.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.raw_os_error() == Some(ENOTBLK))
}

/// Opening a FIFO or a device could wait, or do something.
fn open_regular(path: &Path, read_only: bool) -> io::Result<File> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    OpenOptions::new().read(true).write(!read_only).open(path)
}

/// Lets a loop device go, if it still is the one that was made for this link, and then the link.
fn release(own: &Dir, name: &Name) -> Result<(), Error> {
    let link = own.path_of(name);
    let failed = |source| Error::Loop {
        operation: "release the loop device",
        path: link.clone(),
        source,
    };
    let target = read_link(own, name.as_bytes()).map_err(failed)?;
    let target = PathBuf::from(String::from_utf8_lossy(&target).into_owned());
    match LoopDevice::open(&target) {
        Ok(device) => {
            if device.is_tagged(&link.to_string_lossy()).map_err(failed)? {
                device.keep(false).map_err(failed)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    own.remove_file(name)?;
    Ok(())
}

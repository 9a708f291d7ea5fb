//! Mounts whose files appear with the owners that a user namespace maps them to. Nothing is changed on disk.
//!
//! A bind mount gets its map before it is attached. An overlay cannot be mapped itself, but its folders can (Linux 5.19):
//! the folder above all of them is cloned, mapped, and laid over itself in a mount namespace that only the thread has which
//! makes the overlay. So the overlay is told the folders' real paths, by which the mount table and those who read it know
//! them; no folder is made, nothing but that thread ever sees the clone, and it goes with the thread whatever happens.
//!
//! The upper folder is mapped as well: what a container writes is owned on disk by the ids that the container knows, and a
//! layer made of it fits any other map. The overlay's own files there have to have an owner too, so the thread that makes
//! it acts as the namespace's superuser.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use orlop_types::Mount;
use rustix::fs::{FileType, Mode, OFlags, StatVfsMountFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::attributes::{self, Depth};
use super::context::to_io;
use super::detached::{open_layer, unescaped};
use super::overlay::split_layers;
use super::{Detached, MountError};
use crate::credentials::on_thread_as;
use crate::namespace::user::UserNamespace;

impl Detached {
    /// Makes a mount without attaching it, with the owners of its files mapped. Of a recursive bind the mounts beneath are
    /// mapped as well if their file systems allow it, and stay as they are otherwise.
    ///
    /// # Errors
    /// As [`Detached::new`]; [`MountError::Attributes`] if the file system cannot be mapped.
    pub fn mapped(mount: &Mount, namespace: &UserNamespace) -> Result<Self, MountError> {
        if mount.fs_type != "overlay" {
            return map_bound(Self::new(mount)?, namespace);
        }
        let made = on_thread_as(namespace.superuser(), || overlay(mount, namespace));
        made.map_err(|source| MountError::Create {
            fs_type: mount.fs_type.clone(),
            messages: Vec::new(),
            source,
        })?
    }
}

/// Makes a mount with the owners of its files mapped, at `place`; if there is nothing, a folder or an empty file is made
/// there, as the mount is one or the other.
///
/// # Errors
/// As [`Detached::mapped`], or there is no room at `place`. A place that was made stays.
pub fn mount_mapped(
    mount: &Mount,
    namespace: &UserNamespace,
    place: &Path,
) -> Result<(), MountError> {
    let mapped = Detached::mapped(mount, namespace)?;
    let refused = |source| MountError::Target {
        operation: "open the mount target",
        target: place.to_owned(),
        source,
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::open(place, flags, Mode::empty());
    let target = match open() {
        Err(Errno::NOENT) => {
            make_place(place, &mapped).map_err(refused)?;
            open()
        }
        other => other,
    };
    mapped.attach(target.map_err(|errno| refused(to_io(errno)))?, place)
}

fn make_place(place: &Path, mount: &Detached) -> io::Result<()> {
    let stat = fstat(mount)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return std::fs::create_dir_all(place);
    }
    std::fs::create_dir_all(place.parent().unwrap_or(place))?;
    std::fs::File::create(place).map(drop)
}

/// The options of the mount that `path` is on which no user namespace can take off: whoever binds it from inside one has to
/// ask for them, too.
///
/// # Errors
/// The path cannot be looked at.
pub fn locked_options(path: &Path) -> io::Result<Vec<&'static str>> {
    let flags = rustix::fs::statvfs(path)?.f_flag;
    let known = [
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
    ];
    let set = known.into_iter().filter(|(flag, _)| flags.contains(*flag));
    Ok(set.map(|(_, word)| word).collect())
}

fn map_bound(mount: Detached, namespace: &UserNamespace) -> Result<Detached, MountError> {
    let (tree, users) = (mount.as_fd(), namespace.as_fd());
    attributes::map_ids(tree, users, Depth::Tree)
        .or_else(|_refused| attributes::map_ids(tree, users, Depth::One))?;
    Ok(mount)
}

/// On a thread of its own that acts as the namespace's superuser.
fn overlay(mount: &Mount, namespace: &UserNamespace) -> Result<Detached, MountError> {
    let folders = folders(mount);
    let above = above_all(&folders).ok_or_else(|| MountError::BadOption {
        fs_type: mount.fs_type.clone(),
        key: "lowerdir".to_owned(),
        reason: "the folders have none in common that could be mapped",
    })?;
    let before: Vec<_> = opened(&folders)?;
    let clone = Detached::clone_tree(&above, false)?;
    attributes::map_ids(clone.as_fd(), namespace.as_fd(), Depth::One)?;
    leave_mounts(&above)?;
    clone.attach(open_layer(&above.to_string_lossy())?, &above)?;
    for ((path, before), after) in folders.iter().zip(&before).zip(&opened(&folders)?) {
        check_same(path, before, after)?;
    }
    Detached::new(mount)
}

fn folders(mount: &Mount) -> Vec<String> {
    let lower = mount.option("lowerdir").map(split_layers);
    let others = ["upperdir", "workdir"]
        .into_iter()
        .filter_map(|key| mount.option(key).map(unescaped));
    lower.into_iter().flatten().chain(others).collect()
}

/// The deepest folder that all of them are in; none if that is the root, which cannot be laid over itself.
fn above_all(folders: &[String]) -> Option<PathBuf> {
    let mut parents = folders.iter().map(|folder| Path::new(folder).parent());
    let first = parents.next()??.to_owned();
    let common = parents.try_fold(first, |common, parent| {
        let parent = parent?;
        let above = common.ancestors().find(|above| parent.starts_with(above))?;
        Some(above.to_owned())
    })?;
    (common.is_absolute() && common.parent().is_some()).then_some(common)
}

fn opened(folders: &[String]) -> Result<Vec<OwnedFd>, MountError> {
    folders.iter().map(|folder| open_layer(folder)).collect()
}

/// A folder on another file system than the one above all is not in its clone.
fn check_same(path: &str, before: &OwnedFd, after: &OwnedFd) -> Result<(), MountError> {
    let failed = |source| MountError::Source {
        path: path.into(),
        source,
    };
    let identity = |folder: &OwnedFd| {
        let stat = fstat(folder).map_err(|errno| failed(to_io(errno)))?;
        Ok((stat.st_dev, stat.st_ino))
    };
    if identity(before)? == identity(after)? {
        return Ok(());
    }
    Err(failed(io::Error::new(
        io::ErrorKind::CrossesDevices,
        "it is on another file system than the other folders of the overlay",
    )))
}

/// Gives this thread a mount namespace of its own, from which nothing spreads.
fn leave_mounts(above: &Path) -> Result<(), MountError> {
    let failed = |errno| MountError::Target {
        operation: "make a mount namespace for",
        target: above.to_owned(),
        source: to_io(errno),
    };
    // SAFETY: only this thread changes its namespace, it holds nothing of the old one, and it ends soon.
    #[allow(unsafe_code, reason = "unshare is unsafe in general; see SAFETY")]
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.map_err(failed)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_above_all_is_the_deepest_that_holds_them() {
        for (folders, above) in [
            (&["/s/1/fs", "/s/2/fs", "/s/2/work"][..], Some("/s")),
            (&["/s/1/fs", "/s/1/work"], Some("/s/1")),
            (&["/s/1"], Some("/s")),
            (&["/s/10", "/s/1/fs"], Some("/s")),
            (&["/a/1", "/b/1"], None),
            (&["/a"], None),
            (&["a/b", "a/c"], None),
            (&[], None),
        ] {
            let folders: Vec<_> = folders.iter().map(|folder| (*folder).to_owned()).collect();
            assert_eq!(above_all(&folders), above.map(PathBuf::from), "{folders:?}");
        }
    }
}

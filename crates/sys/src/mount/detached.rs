//! Mounts that are nowhere yet, and how they get to a folder.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use orlop_types::Mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount,
};

use super::attributes::{self, Depth, Propagation};
use super::context::{FsContext, to_io};
use super::options::{Bind, Options, Parameter};
use super::overlay::split_layers;
use super::{MountError, legacy};

/// Makes all `mounts` at `target`, each on top of the one before; a mount's own target is a folder beneath, where
/// symbolic links cannot lead out of `target`. The folders must exist.
///
/// # Errors
/// The first mount that fails, naming the option if the kernel did. Those made before are taken down again.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<(), MountError> {
    let mut attached: Vec<Detached> = Vec::with_capacity(mounts.len());
    for mount in mounts {
        match mount_one(mount, target) {
            Ok(done) => attached.push(done),
            Err(error) => {
                attached.iter().rev().for_each(Detached::withdraw);
                return Err(error);
            }
        }
    }
    Ok(())
}

fn mount_one(mount: &Mount, target: &Path) -> Result<Detached, MountError> {
    // The folder is opened again for each mount: the mount before may have covered it.
    let (folder, path) = open_target(target, &mount.target)?;
    if legacy::is_needed_for(mount) {
        return legacy::mount_overlay(mount, folder.as_fd(), &path);
    }
    let detached = Detached::new(mount)?;
    detached.attach(&folder, &path)?;
    Ok(detached)
}

pub(super) fn open_target(target: &Path, beneath: &str) -> Result<(OwnedFd, PathBuf), MountError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let beneath = beneath.trim_start_matches('/');
    let path = target.join(beneath);
    let open = || {
        let root = openat2(CWD, target, flags, Mode::empty(), ResolveFlags::empty())?;
        if beneath.is_empty() {
            return Ok(root);
        }
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&root, beneath, flags, Mode::empty(), inside)
    };
    match open() {
        Ok(folder) => Ok((folder, path)),
        Err(errno) => Err(MountError::Target {
            operation: "open the mount target",
            target: path,
            source: to_io(errno),
        }),
    }
}

/// A mount that has a descriptor; unless attached, it goes away with it.
#[derive(Debug)]
pub struct Detached {
    descriptor: OwnedFd,
    propagation: Vec<(Propagation, Depth)>,
}

impl Detached {
    /// Makes a mount without attaching it. Its target is not looked at.
    ///
    /// # Errors
    /// [`MountError`], naming the option if there is one to blame.
    pub fn new(mount: &Mount) -> Result<Self, MountError> {
        let options = Options::parse(&mount.options);
        let bind = match (options.bind, mount.fs_type.as_str()) {
            (None, "bind") => Some(Bind::One),
            (None, "rbind") => Some(Bind::Recursive),
            (bind, _) => bind,
        };
        let descriptor = match bind {
            Some(bind) => bound(mount, bind, &options)?,
            None if legacy::is_needed_for(mount) => {
                return legacy::detached_overlay_at_once(mount);
            }
            None => created(mount, &options)?,
        };
        attributes::change(descriptor.as_fd(), options.tree_attributes, Depth::Tree)?;
        Ok(Self {
            descriptor,
            propagation: options.propagation,
        })
    }

    /// Clones the mount tree at `source`, without what is mounted beneath it unless `recursive`.
    ///
    /// # Errors
    /// [`MountError::Source`].
    pub fn clone_tree(source: &Path, recursive: bool) -> Result<Self, MountError> {
        let bind = if recursive {
            Bind::Recursive
        } else {
            Bind::One
        };
        Ok(Self {
            descriptor: clone_tree(source, bind)?,
            propagation: Vec::new(),
        })
    }

    /// Gives the whole tree the id map of `user_namespace` (Linux 5.12): files keep their owners on disk and appear
    /// mapped. To be called before [`Detached::attach`], once.
    ///
    /// # Errors
    /// [`MountError::Attributes`]: `EINVAL` if a file system in the tree cannot be mapped, or the namespace is the
    /// initial one; `EPERM` if the tree is mapped already.
    pub fn map_ids(self, user_namespace: impl AsFd) -> Result<Self, MountError> {
        attributes::map_ids(self.as_fd(), user_namespace.as_fd(), Depth::Tree)?;
        Ok(self)
    }

    /// Attaches the mount to the folder `target`, called `path` in errors, and sets its propagation.
    ///
    /// # Errors
    /// [`MountError::Target`] if it could not be attached; [`MountError::Attributes`], and then it is not attached.
    pub fn attach(&self, target: impl AsFd, path: &Path) -> Result<(), MountError> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.descriptor, "", target, "", flags).map_err(|errno| {
            MountError::Target {
                operation: "attach a mount at",
                target: path.to_owned(),
                source: to_io(errno),
            }
        })?;
        // What is attached takes over the propagation of the mount it is attached to, so this comes after.
        self.spread().inspect_err(|_| self.withdraw())
    }

    pub(super) fn spread(&self) -> Result<(), MountError> {
        let set = |&(propagation, depth)| attributes::propagate(self.as_fd(), propagation, depth);
        self.propagation.iter().try_for_each(set)
    }

    pub(super) fn from_parts(descriptor: OwnedFd, propagation: Vec<(Propagation, Depth)>) -> Self {
        Self {
            descriptor,
            propagation,
        }
    }

    /// The same as a mount with another descriptor.
    pub(super) fn with_descriptor(self, descriptor: OwnedFd) -> Self {
        Self { descriptor, ..self }
    }

    /// Takes an attached mount away again. The magic link names exactly this mount, whatever its path is now.
    pub(super) fn withdraw(&self) {
        let link = format!("/proc/self/fd/{}", self.descriptor.as_raw_fd());
        // Detaching what this process attached a moment ago fails only if somebody else has unmounted it already.
        unmount(link, UnmountFlags::DETACH).ok();
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn bound(mount: &Mount, bind: Bind, options: &Options) -> Result<OwnedFd, MountError> {
    if let Some(parameter) = options.parameters.first() {
        return Err(bad_option(
            mount,
            &parameter.key,
            "a bind mount has no file system to give it to",
        ));
    }
    let descriptor = clone_tree(Path::new(&mount.source), bind)?;
    let mut changes = options.attributes;
    // `rw` asks for nothing: as with mount(2), a bind of something read-only stays read-only.
    changes.clear &= !MountAttrFlags::MOUNT_ATTR_RDONLY;
    attributes::change(descriptor.as_fd(), changes, Depth::One)?;
    Ok(descriptor)
}

fn clone_tree(source: &Path, bind: Bind) -> Result<OwnedFd, MountError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if bind == Bind::Recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, source, flags).map_err(|errno| MountError::Source {
        path: source.to_owned(),
        source: to_io(errno),
    })
}

fn created(mount: &Mount, options: &Options) -> Result<OwnedFd, MountError> {
    let context = FsContext::open(&mount.fs_type)?;
    if !mount.source.is_empty() {
        context.set_text("source", &mount.source)?;
    }
    for parameter in &options.parameters {
        match &parameter.value {
            Some(value) if mount.fs_type == "overlay" => {
                set_overlay(mount, &context, &parameter.key, value)?
            }
            Some(_) | None => context.set(parameter)?,
        }
    }
    let flags = options.attributes.set;
    if flags.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        // A block device that cannot be written is refused unless the file system itself is read-only too.
        context.set(&Parameter {
            key: "ro".to_owned(),
            value: None,
        })?;
    }
    context.create(flags)
}

/// Overlay's folders: `lowerdir` is given one by one, which no page limits.
fn set_overlay(
    mount: &Mount,
    context: &FsContext,
    key: &str,
    value: &str,
) -> Result<(), MountError> {
    match key {
        "lowerdir" => {
            let layers = split_layers(value);
            if layers.iter().any(String::is_empty) {
                return Err(bad_option(mount, key, "one of its folders is empty"));
            }
            layers
                .iter()
                .try_for_each(|layer| set_layer(context, "lowerdir+", layer))
        }
        "upperdir" | "workdir" => set_layer(context, key, &unescaped(value)),
        _ => context.set_text(key, value),
    }
}

fn set_layer(context: &FsContext, key: &str, path: &str) -> Result<(), MountError> {
    let folder = open_layer(path)?;
    context.set_folder(key, path, folder.as_fd())
}

/// Opened first so that a missing folder is named, and for [`FsContext::set_folder`].
pub(super) fn open_layer(path: &str) -> Result<OwnedFd, MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| MountError::Source {
        path: path.into(),
        source: to_io(errno),
    })
}

/// `upperdir` and `workdir` hold one folder, in which a colon means itself, escaped or not.
pub(super) fn unescaped(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        });
    }
    plain
}

fn bad_option(mount: &Mount, key: &str, reason: &'static str) -> MountError {
    MountError::BadOption {
        fs_type: mount.fs_type.clone(),
        key: key.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_mount_with_an_option_of_a_file_system_is_refused_by_name() {
        let mut mount = Mount::bind("/", true);
        mount.options.push("size=5".to_owned());
        let error = Detached::new(&mount).unwrap_err();
        assert!(error.to_string().contains("size"), "{error}");
    }

    #[test]
    fn upper_folders_may_spell_colons_either_way() {
        assert_eq!(unescaped(r"/a:b"), "/a:b");
        assert_eq!(unescaped(r"/a\:b\\c"), r"/a:b\c");
    }
}

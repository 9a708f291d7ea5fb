//! Overlay on kernels before 6.7, which take lower folders only all at once (Debian 12 has 6.1).
//!
//! There `fsconfig` cuts a value at 256 bytes, so the one option string of mount(2) is left. Layers are opened and
//! named by descriptor, which keeps two hundred of them within its page however long their paths are.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use orlop_types::Mount;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
    fsconfig_set_flag, fsconfig_set_string, fsopen, mount_change, open_tree,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::attributes::{self, Attributes, Depth};
use super::context::to_io;
use super::detached::{open_layer, open_target, unescaped};
use super::options::{Options, Parameter};
use super::overlay::split_layers;
use super::{Detached, MountError};

/// Mounts an overlay with all options in one string, as [`super::mount_all`] does by itself on kernels before 6.7.
/// Public so that it can be tested on the kernels that do not need it.
///
/// # Errors
/// As [`super::mount_all`], but the kernel does not say which option it refuses.
pub fn mount_overlay_at_once(mount: &Mount, target: &Path) -> Result<(), MountError> {
    let (folder, path) = open_target(target, "")?;
    mount_overlay(mount, folder.as_fd(), &path).map(drop)
}

/// Whether `mount` cannot be configured key by key on this kernel.
pub(super) fn is_needed_for(mount: &Mount) -> bool {
    mount.fs_type == "overlay" && !appends_lower_folders()
}

/// Whether overlay takes lower folders one by one. Asked of the kernel once.
fn appends_lower_folders() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Ok(context) = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) else {
            // Without overlay the modern way gives the better error.
            return true;
        };
        // Kernels with the old parser take any key at this point, so one that no kernel has must be refused too.
        fsconfig_set_string(&context, "lowerdir+", "/").is_ok()
            && fsconfig_set_flag(&context, "orlop_no_such_option").is_err()
    })
}

/// Mounts an overlay straight onto `folder`, called `path` in errors.
pub(super) fn mount_overlay(
    mount: &Mount,
    folder: BorrowedFd<'_>,
    path: &Path,
) -> Result<Detached, MountError> {
    let options = Options::parse(&mount.options);
    let mut layers = Vec::new();
    let data = option_string(&options.parameters, &mut layers)?;
    let target = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let data = std::ffi::CString::new(data).map_err(|source| failed(mount, source.into()))?;
    rustix::mount::mount(
        &mount.source,
        &target,
        "overlay",
        MountFlags::empty(),
        data.as_c_str(),
    )
    .map_err(|errno| failed(mount, to_io(errno)))?;
    let attached = Detached::from_parts(reopened(&target, path)?, options.propagation);
    finish(&attached, options.attributes, options.tree_attributes)
        .inspect_err(|_| attached.withdraw())
        .map(|()| attached)
}

/// Makes an overlay that is attached nowhere, as [`Detached::new`] does by itself on kernels before 6.7. mount(2) wants a
/// place, so a thread with a mount namespace of its own lends one, which goes with the thread whatever happens.
/// Public so that it can be tested on the kernels that do not need it.
///
/// # Errors
/// As [`Detached::new`], but the kernel does not say which option it refuses.
pub fn detached_overlay_at_once(mount: &Mount) -> Result<Detached, MountError> {
    let made = std::thread::scope(|scope| scope.spawn(|| mount_apart(mount)).join());
    made.unwrap_or_else(|_panic| {
        let source = std::io::Error::other("the thread that makes the mount panicked");
        Err(failed(mount, source))
    })
}

/// On a thread of its own.
fn mount_apart(mount: &Mount) -> Result<Detached, MountError> {
    let refused = |errno| failed(mount, to_io(errno));
    // SAFETY: only this thread changes its namespace, it holds nothing of the old one, and it ends soon.
    #[allow(unsafe_code, reason = "unshare is unsafe in general; see SAFETY")]
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.map_err(refused)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(refused)?;
    // Any folder does; every overlay has a lower one.
    let (folder, path) = open_target(Path::new(&any_layer(mount)?), "")?;
    let attached = mount_overlay(mount, folder.as_fd(), &path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = open_tree(attached.as_fd(), "", flags).map_err(refused)?;
    Ok(attached.with_descriptor(copy))
}

fn any_layer(mount: &Mount) -> Result<String, MountError> {
    let parameters = Options::parse(&mount.options).parameters;
    let lower = parameters
        .iter()
        .find(|parameter| parameter.key == "lowerdir");
    let layers = lower.and_then(|parameter| parameter.value.as_deref().map(split_layers));
    layers
        .and_then(|layers| layers.into_iter().next())
        .ok_or_else(|| {
            let source =
                std::io::Error::new(std::io::ErrorKind::InvalidInput, "no lowerdir is given");
            failed(mount, source)
        })
}

fn finish(mount: &Detached, top: Attributes, tree: Attributes) -> Result<(), MountError> {
    let mut top = top;
    top.clear &= !MountAttrFlags::MOUNT_ATTR_RDONLY;
    attributes::change(mount.as_fd(), top, Depth::One)?;
    attributes::change(mount.as_fd(), tree, Depth::Tree)?;
    mount.spread()
}

/// Joins the options with descriptors for folders, which are pushed to `layers` to stay open until the mount.
fn option_string(
    parameters: &[Parameter],
    layers: &mut Vec<OwnedFd>,
) -> Result<String, MountError> {
    let mut data: Vec<String> = Vec::with_capacity(parameters.len());
    for parameter in parameters {
        let key = &parameter.key;
        data.push(match (key.as_str(), &parameter.value) {
            (_, None) => key.clone(),
            ("lowerdir", Some(value)) => {
                let names: Result<Vec<_>, _> = split_layers(value)
                    .iter()
                    .map(|layer| named(layer, layers))
                    .collect();
                format!("{key}={}", names?.join(":"))
            }
            ("upperdir" | "workdir", Some(value)) => {
                format!("{key}={}", named(&unescaped(value), layers)?)
            }
            (_, Some(value)) => format!("{key}={value}"),
        });
    }
    Ok(data.join(","))
}

fn named(path: &str, layers: &mut Vec<OwnedFd>) -> Result<String, MountError> {
    let layer = open_layer(path)?;
    let name = format!("/proc/self/fd/{}", layer.as_raw_fd());
    layers.push(layer);
    Ok(name)
}

/// The root of what has just been mounted: the old descriptor still names the folder beneath.
fn reopened(link: &str, path: &Path) -> Result<OwnedFd, MountError> {
    let behind = std::fs::read_link(link).map_err(|source| unreachable_target(path, source))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&behind, flags, Mode::empty())
        .map_err(|errno| unreachable_target(path, to_io(errno)))
}

fn unreachable_target(path: &Path, source: std::io::Error) -> MountError {
    MountError::Target {
        operation: "open what was mounted at",
        target: path.to_owned(),
        source,
    }
}

fn failed(mount: &Mount, source: std::io::Error) -> MountError {
    MountError::Create {
        fs_type: mount.fs_type.clone(),
        messages: Vec::new(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_layers_fit_the_page_of_an_option_string() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l".repeat(200));
        std::fs::create_dir(&path).unwrap();
        let lowers = vec![path.to_str().unwrap(); 200].join(":");
        let options = Options::parse(&[format!("lowerdir={lowers}"), "index=off".to_owned()]);
        let mut layers = Vec::new();
        let data = option_string(&options.parameters, &mut layers).unwrap();
        assert_eq!(layers.len(), 200);
        assert!(data.len() < 4096, "{} bytes", data.len());
        assert!(data.ends_with(",index=off"));
    }
}

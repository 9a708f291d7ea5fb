//! Mounting an image's files for a pod, and finding a folder among them.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use orlop_sys::fs::{Dir, Mode, OFlags};
use orlop_sys::mount::{Detached, MountTable};
use orlop_sys::namespace::user::UserNamespace;
use orlop_types::{IdMaps, Mount};

use super::VolumeError;
use super::record::VolumeKey;

/// What Kubernetes promises of volumes made of images, and what their files need not have.
const OPTIONS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// The kernel's limit of a path, in bytes.
const PATH_BYTES_MAX: usize = 4096;

/// Whether something is mounted exactly there. A mount is attached when it is whole, so it is the one meant.
pub(super) fn is_mounted(place: &Path) -> Result<bool, VolumeError> {
    let table = MountTable::read().map_err(VolumeError::Table)?;
    // The table has real paths; a folder that is not there has no mount.
    let Ok(place) = place.canonicalize() else {
        return Ok(false);
    };
    Ok(table.iter().any(|entry| entry.mountpoint == place))
}

/// Mounts a snapshot for reading at the folder `place`; `users` is the pod's user namespace and how it maps ids.
pub(super) fn mount(
    mounts: &[Mount],
    key: &VolumeKey,
    users: Option<&(PathBuf, IdMaps)>,
    place: &Path,
) -> Result<(), VolumeError> {
    let [mount] = mounts else {
        return Err(VolumeError::Mounts(mounts.len()));
    };
    let mount = read_only(mount.clone(), key.selinux_label.as_deref(), place);
    let made = match (&key.id_maps, users) {
        (None, _) => Detached::new(&mount),
        (Some(maps), Some((namespace, of_pod))) if maps == of_pod => {
            let namespace = UserNamespace::open(namespace, maps).map_err(VolumeError::Users)?;
            Detached::mapped(&mount, &namespace)
        }
        (Some(_), Some(_) | None) => {
            let fault = "its id maps are not those of the pod's user namespace";
            return Err(VolumeError::Refused(fault));
        }
    };
    let folder = Dir::open(place).map_err(VolumeError::Folder)?;
    made.and_then(|made| made.attach(&folder, place))
        .map_err(VolumeError::Mount)
}

/// A single layer is shown by a bind mount, which takes no SELinux label; an overlay of it and an empty folder does.
fn read_only(mut mount: Mount, selinux_label: Option<&str>, empty: &Path) -> Mount {
    if let Some(label) = selinux_label {
        if mount.fs_type != "overlay" {
            let escape = |path: &str| orlop_sys::mount::escape_layer(path);
            let lowers = [escape(&mount.source), escape(&empty.to_string_lossy())];
            mount = Mount {
                fs_type: "overlay".to_owned(),
                source: "overlay".to_owned(),
                target: String::new(),
                options: vec![format!("lowerdir={}", lowers.join(":"))],
            };
        }
        mount.options.push(format!("context=\"{label}\""));
    }
    mount.options.extend(OPTIONS.map(str::to_owned));
    mount
}

/// The folder at `sub_path` of what is mounted at `root`, links followed as long as they stay inside. Nothing can change
/// there any more, so the path stays true.
pub(super) fn resolve(root: &Path, sub_path: &str) -> Result<PathBuf, VolumeError> {
    if sub_path.is_empty() {
        return Ok(root.to_owned());
    }
    let refused = |fault, source| VolumeError::SubPath {
        sub_path: sub_path.to_owned(),
        fault,
        source,
    };
    if let Some(fault) = fault_of(sub_path) {
        return Err(refused(fault, None));
    }
    let root = Dir::open(root).map_err(VolumeError::Folder)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let folder = root
        .open_followed_beneath(Path::new(sub_path), flags, Mode::empty())
        .map_err(|error| {
            let kind = error.io_kind().unwrap_or(io::ErrorKind::Other);
            let source = io::Error::new(kind, error);
            let known = [
                (io::ErrorKind::NotFound, "does not exist"),
                (
                    io::ErrorKind::NotADirectory,
                    "is no folder; single files cannot be mounted",
                ),
                (io::ErrorKind::CrossesDevices, "leads out of the image"),
            ];
            let fault = known.into_iter().find(|(known, _)| *known == kind);
            let fault = fault.map_or("cannot be opened", |(_, fault)| fault);
            refused(fault, Some(source))
        })?;
    let link = format!("/proc/self/fd/{}", folder.as_raw_fd());
    std::fs::read_link(link).map_err(|source| refused("has no path", Some(source)))
}

fn fault_of(sub_path: &str) -> Option<&'static str> {
    let mut parts = Path::new(sub_path).components();
    if sub_path.len() > PATH_BYTES_MAX {
        return Some("is too long for a path");
    }
    if sub_path.contains('\0') {
        return Some("has a zero byte");
    }
    if sub_path.starts_with('/') {
        return Some("has to be relative");
    }
    parts
        .any(|part| part == Component::ParentDir)
        .then_some("must not contain \"..\"")
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test's own folder needs no durability"
)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("file"), "x").unwrap();
        for (name, target) in [
            ("inside", "a/b"),
            ("a/up", "../a/b"),
            ("out", "../.."),
            ("absolute", "/etc"),
            ("loop", "loop"),
        ] {
            symlink(target, root.path().join(name)).unwrap();
        }
        root
    }

    #[test]
    fn folders_of_the_image_are_found_also_behind_links() {
        let image = image();
        let root = image.path().canonicalize().unwrap();
        for (sub_path, found) in [
            ("", ""),
            ("a", "a"),
            ("a/./b/", "a/b"),
            ("inside", "a/b"),
            ("a/up", "a/b"),
            (".", ""),
        ] {
            let path = resolve(&root, sub_path).unwrap();
            assert_eq!(path, root.join(found), "{sub_path}");
        }
    }

    #[test]
    fn what_is_no_folder_of_the_image_is_refused_with_the_reason() {
        let image = image();
        for (sub_path, fault) in [
            ("nothing", "does not exist"),
            ("file", "is no folder"),
            ("file/x", "is no folder"),
            ("out", "leads out"),
            ("absolute", "leads out"),
            ("a/../a", "\"..\""),
            ("../a", "\"..\""),
            ("/a", "relative"),
            ("loop", "cannot be opened"),
            ("a\0", "zero byte"),
        ] {
            let error = resolve(image.path(), sub_path).unwrap_err();
            assert_eq!(error.code(), "ORL-E6613", "{sub_path:?}");
            assert!(error.to_string().contains(fault), "{error}");
        }
        let long = "a/".repeat(PATH_BYTES_MAX);
        assert!(
            resolve(image.path(), &long)
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
    }

    #[test]
    fn files_are_shown_without_programs_devices_and_writes() {
        let mount = read_only(Mount::bind("/layer", true), None, Path::new("/place"));
        assert_eq!(mount.fs_type, "bind");
        assert!(
            OPTIONS
                .iter()
                .all(|option| mount.options.iter().any(|has| has == option))
        );
    }

    #[test]
    fn an_selinux_label_makes_an_overlay_of_one_layer() {
        let mount = read_only(
            Mount::bind("/a:b", true),
            Some("s:o:t:s0:c1,c2"),
            Path::new("/place"),
        );
        assert_eq!(mount.fs_type, "overlay");
        assert_eq!(mount.options[0], r"lowerdir=/a\:b:/place");
        assert_eq!(mount.options[1], r#"context="s:o:t:s0:c1,c2""#);
    }
}

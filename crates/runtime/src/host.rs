//! What a container's spec needs to know of this machine. Everything blocks, and nothing is remembered: devices and
//! modules come and go.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::spec::{Architecture, Device, DeviceKind, Machine, SeccompMachine, SpecError};

/// A folder of devices holds at most this many; more is a mistake in the path.
const DEVICES_MAX: usize = 4096;

/// How deep a folder of devices may be nested.
const DEVICE_DEPTH_MAX: usize = 16;

/// What of `/dev` every container has of its own, or must not have (containerd `pkg/oci`).
const NOT_DEVICES: [&str; 8] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];

/// Permissions of a node, without its type.
pub(crate) const PERMISSION_BITS: u32 = 0o7777;

/// This machine; with all its devices if a privileged container is to get them.
pub(crate) fn machine(with_devices: bool) -> Machine {
    let devices = if with_devices {
        devices_below(Path::new("/dev"), Path::new("/dev"), "rwm").unwrap_or_default()
    } else {
        Vec::new()
    };
    Machine {
        capability_bits: own_capability_bits(),
        seccomp: SeccompMachine {
            architecture: Architecture::OWN,
            kernel: kernel_version(),
        },
        devices,
        limits_swap: limits_swap(),
    }
}

/// Whether there is one hierarchy of cgroups (version 2) rather than one for each controller.
pub(crate) fn has_unified_cgroups() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether huge pages can be limited.
pub(crate) fn limits_huge_pages() -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    match controllers {
        Ok(names) => names.split_whitespace().any(|name| name == "hugetlb"),
        Err(_version_1) => Path::new("/sys/fs/cgroup/hugetlb").is_dir(),
    }
}

/// Whether SELinux confines programs here.
pub(crate) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Whether the kernel divides caches and memory bandwidth (resctrl).
pub(crate) fn has_resctrl() -> bool {
    Path::new("/sys/fs/resctrl/schemata").exists()
}

/// The host's name.
pub(crate) fn name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// How soon this process is killed when the machine has no memory left.
pub(crate) fn own_oom_score_adjustment() -> Option<i32> {
    let text = fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    text.trim().parse().ok()
}

/// The devices at `path`, a node or a folder of nodes, as a container sees them at `target`.
///
/// # Errors
/// [`SpecError::BadDevice`]: there is no device, or the permissions are none.
pub(crate) fn devices(path: &Path, target: &Path, access: &str) -> Result<Vec<Device>, SpecError> {
    let bad = |fault: String| SpecError::BadDevice {
        path: path.to_string_lossy().into_owned(),
        fault,
    };
    let access = if access.is_empty() { "rwm" } else { access };
    if access.bytes().any(|letter| !b"rwm".contains(&letter)) {
        return Err(bad(format!("permissions {access:?} are not of r, w and m")));
    }
    if !path.is_absolute() || !target.is_absolute() {
        return Err(bad("its paths have to be absolute".to_owned()));
    }
    let real = fs::canonicalize(path).map_err(|error| bad(error.to_string()))?;
    let found = fs::metadata(&real).map_err(|error| bad(error.to_string()))?;
    if found.is_dir() {
        let devices = devices_below(&real, target, access);
        return devices.map_err(|error| bad(error.to_string()));
    }
    let device = device(&found, target.to_owned(), access);
    device
        .map(|device| vec![device])
        .ok_or_else(|| bad("it is no device".to_owned()))
}

/// The nodes of a folder and the folders in it; links and everything else are left out.
fn devices_below(folder: &Path, target: &Path, access: &str) -> io::Result<Vec<Device>> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), target.to_owned(), 0)];
    while let Some((folder, target, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if NOT_DEVICES.iter().any(|not| name == *not) {
                continue;
            }
            // A device that goes while its folder is read is not there.
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
                continue;
            };
            let target = target.join(&name);
            if metadata.is_dir() && depth < DEVICE_DEPTH_MAX {
                folders.push((entry.path(), target, depth + 1));
            } else if let Some(device) = device(&metadata, target, access) {
                found.push(device);
            }
            if found.len() > DEVICES_MAX {
                return Err(io::Error::other("it holds too many devices"));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn device(metadata: &fs::Metadata, path: PathBuf, access: &str) -> Option<Device> {
    let kind = if metadata.file_type().is_char_device() {
        DeviceKind::Character
    } else if metadata.file_type().is_block_device() {
        DeviceKind::Block
    } else {
        return None;
    };
    let (major, minor) = numbers(metadata.rdev());
    Some(Device {
        path,
        kind,
        major,
        minor,
        mode: metadata.mode() & PERMISSION_BITS,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

/// The two parts of a device's number, as the C library packs them (makedev(3)).
pub(crate) fn numbers(device: u64) -> (u32, u32) {
    let major = device >> 8 & 0xfff | device >> 32 & 0xffff_f000;
    let minor = device & 0xff | device >> 12 & 0xffff_ff00;
    let part = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (part(major), part(minor))
}

fn own_capability_bits() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    // Asking for too many is refused by the OCI runtime with a name; too few would go unnoticed.
    bits.unwrap_or(u64::MAX)
}

fn kernel_version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn limits_swap() -> bool {
    if !has_unified_cgroups() {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    // The root has no such file, so the own group is asked.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = Path::new("/sys/fs/cgroup").join(own.unwrap_or_default());
    own.join("memory.swap.max").exists()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_devices_number_is_taken_apart() {
        assert_eq!(numbers(0x0103), (1, 3));
        // makedev(0x12345, 0x6789a)
        assert_eq!(numbers(0x0001_2000_6783_459a), (0x12345, 0x6789a));
    }

    #[test]
    fn a_device_is_found_with_its_number_and_a_folder_of_them_with_all() {
        let null = devices(Path::new("/dev/null"), Path::new("/dev/nil"), "r").unwrap();
        assert_eq!(null.len(), 1);
        let null = &null[0];
        assert_eq!(
            (null.kind, null.major, null.minor),
            (DeviceKind::Character, 1, 3)
        );
        assert_eq!(
            (null.path.as_path(), null.access.as_str()),
            (Path::new("/dev/nil"), "r")
        );
        let all = devices(Path::new("/dev"), Path::new("/x"), "").unwrap();
        assert!(all.iter().any(|device| device.path == Path::new("/x/zero")));
        assert!(!all.iter().any(|device| device.path.starts_with("/x/pts")));
    }

    #[test]
    fn what_is_no_device_is_refused_by_name() {
        for (path, access, expected) in [
            ("/etc/passwd", "rwm", "no device"),
            ("/dev/null", "rwx", "permissions"),
            ("/dev/not-there", "r", "No such file"),
            ("dev/null", "r", "absolute"),
        ] {
            let error = devices(Path::new(path), Path::new("/dev/x"), access).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

//! SELinux: labels of files for labels of processes, and giving them to what a container mounts.
//!
//! Crash: a tree that was half relabelled is relabelled whole by the next try. Ordering: a folder before what is in it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use orlop_sys::beneath;
use orlop_sys::fs::Dir;

/// The attribute that holds a file's label.
const ATTRIBUTE: &[u8] = b"security.selinux";

/// The label of containers' files where the policy names none.
const FILE_LABEL: &str = "system_u:object_r:container_file_t:s0";

/// A tree deeper than this is none that a container mounts.
const DEPTH_MAX: usize = 256;

/// What belongs to the machine is not given to a container (container-selinux' rule).
const NEVER: [&str; 12] = [
    "/", "/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/usr", "/var",
];

/// The label of the files of processes with the label `process`, by this machine's policy.
pub(crate) fn file_label(process: &str) -> String {
    let config = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let policy = config
        .lines()
        .find_map(|line| line.strip_prefix("SELINUXTYPE="));
    let contexts =
        policy.map(|policy| format!("/etc/selinux/{}/contexts/lxc_contexts", policy.trim()));
    let contexts = contexts.and_then(|path| fs::read_to_string(path).ok());
    file_label_of(process, &contexts.unwrap_or_default())
}

/// User and level are the process's, where it says them; role and type are the policy's for files of containers.
fn file_label_of(process: &str, contexts: &str) -> String {
    let of_policy = contexts.lines().find_map(|line| {
        let value = line
            .trim()
            .strip_prefix("file")?
            .trim_start()
            .strip_prefix('=')?;
        Some(value.trim().trim_matches('"'))
    });
    let mut file = parts(of_policy.unwrap_or(FILE_LABEL));
    let process = parts(process);
    for at in [0, 3] {
        if !process[at].is_empty() {
            file[at] = process[at];
        }
    }
    file.join(":")
}

/// User, role, type and level; a level holds colons itself.
fn parts(label: &str) -> [&str; 4] {
    let mut parts = label.splitn(4, ':');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Gives a file, or a folder with everything in it, a label. Links are labelled themselves. Blocks.
///
/// # Errors
/// It belongs to the machine, or the kernel refuses. A file system without labels is left as it is.
pub(crate) fn relabel(path: &Path, label: &str) -> io::Result<()> {
    if NEVER.iter().any(|never| Path::new(never) == path) {
        return Err(io::Error::other(
            "it belongs to the machine, and is not relabelled",
        ));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let parent = Dir::open(parent).map_err(io::Error::other)?;
    let mut value = label.as_bytes().to_vec();
    // As libselinux writes it.
    value.push(0);
    match relabel_at(&parent, name, (ATTRIBUTE, &value), 0) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        other => other.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{}: {error}", PathBuf::from(path).display()),
            )
        }),
    }
}

fn relabel_at(
    parent: impl AsFd,
    name: &[u8],
    label: (&[u8], &[u8]),
    depth: usize,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("it is nested too deeply"));
    }
    match beneath::set_attribute(&parent, name, label.0, label.1) {
        // Something may be gone before its turn.
        Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return Ok(()),
        other => other?,
    }
    let Ok(folder) = beneath::open_directory_beneath(&parent, name) else {
        return Ok(());
    };
    for name in beneath::list_directory(&folder)? {
        relabel_at(&folder, &name, label, depth + 1)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests write files"
)]
mod tests {
    use super::*;

    #[test]
    fn files_get_user_and_level_of_their_processes_and_the_policys_type() {
        let policy = "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:svirt_file_t:s0\"\n";
        for (process, contexts, expected) in [
            (
                "a_u:a_r:a_t:s0:c1,c2",
                "",
                "a_u:object_r:container_file_t:s0:c1,c2",
            ),
            (
                "::a_t:s0:c1,c2",
                policy,
                "system_u:object_r:svirt_file_t:s0:c1,c2",
            ),
            (":::", policy, "system_u:object_r:svirt_file_t:s0"),
        ] {
            assert_eq!(file_label_of(process, contexts), expected);
        }
    }

    /// With an attribute that needs no rights.
    #[test]
    fn a_folder_is_relabelled_with_everything_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("in");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::write(inside.join("a/b/file"), "").unwrap();
        fs::write(folder.path().join("beside"), "").unwrap();
        let parent = Dir::open(folder.path()).unwrap();
        let attribute = b"user.orlop-test";
        relabel_at(&parent, b"in", (attribute, b"label"), 0).unwrap();
        let label = |path: &str| {
            let path = folder.path().join(path);
            let parent = Dir::open(path.parent().unwrap()).unwrap();
            let name = path.file_name().unwrap().as_bytes();
            beneath::attribute(&parent, name, attribute).unwrap()
        };
        for path in ["in", "in/a", "in/a/b", "in/a/b/file"] {
            assert_eq!(label(path).as_deref(), Some(&b"label"[..]), "{path}");
        }
        assert_eq!(label("beside"), None);
    }

    #[test]
    fn what_belongs_to_the_machine_keeps_its_labels() {
        for path in ["/", "/usr", "/etc"] {
            assert!(relabel(Path::new(path), "x").is_err(), "{path}");
        }
    }
}

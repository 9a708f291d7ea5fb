//! Where a pod's processes are accounted for.
//!
//! A pod's cgroup belongs to whoever named it: the kubelet makes, limits and removes it. A pod that names none gets one of
//! the engine's own, which OCI runtimes make as the parent of containers' groups and nobody but the engine would remove.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use orlop_sys::mount::MountTable;

use super::error::PodError;

/// The end of the names of systemd's groups.
const SLICE: &str = ".slice";

/// A group of version 1 without CPUs of its own takes no process; the first process of a pod needs no place there.
const NOT_FOR_PROCESSES: &str = "cpuset";

/// How long a group may stay busy: groups of containers go a moment after the containers have ended.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// Between two tries to remove a busy one.
const BUSY_INTERVAL: Duration = Duration::from_millis(10);

/// What containers' cgroups are below, from what the pod asks for: kubelet names a slice by its whole path.
pub(super) fn parent(asked: &str) -> PathBuf {
    let path = Path::new(asked);
    let slice = path
        .file_name()
        .filter(|name| name.to_string_lossy().ends_with(SLICE));
    slice.map_or_else(|| path.to_owned(), PathBuf::from)
}

/// What the containers' cgroups of a pod that asks for nothing are below.
pub(super) fn own_parent(namespace_parent: &Path, pod: &str) -> PathBuf {
    let text = namespace_parent.to_string_lossy();
    match text.strip_suffix(SLICE) {
        Some(slice) => format!("{slice}-pod{pod}{SLICE}").into(),
        None => namespace_parent.join(format!("pod{pod}")),
    }
}

/// From the controllers' root: a slice is below those that its name begins with (systemd.slice(5)).
pub(super) fn path(parent: &Path) -> PathBuf {
    let text = parent.to_string_lossy();
    let Some(slice) = text.strip_suffix(SLICE) else {
        return parent.to_owned();
    };
    let mut path = PathBuf::from("/");
    for (at, _) in slice.match_indices('-') {
        path.push(format!("{}{SLICE}", &slice[..at]));
    }
    path.push(&*text);
    path
}

/// Makes a cgroup in every hierarchy that takes processes, and returns the files into which their ids go.
pub(super) fn create(cgroup: &Path) -> Result<Vec<PathBuf>, PodError> {
    let mut files = Vec::new();
    for folder in folders(cgroup)? {
        if folder
            .components()
            .any(|part| part == Component::Normal(NOT_FOR_PROCESSES.as_ref()))
        {
            continue;
        }
        std::fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        files.push(folder.join("cgroup.procs"));
    }
    Ok(files)
}

/// Removes a cgroup from every hierarchy. One that is not there is removed. Blocks, for up to two seconds if something is
/// still in it.
pub(super) fn remove(cgroup: &Path) -> Result<(), PodError> {
    let deadline = Instant::now() + BUSY_MAX;
    let mut outcome = Ok(());
    for folder in folders(cgroup)? {
        let removed = remove_folder(&folder, deadline).map_err(failed("remove", &folder));
        outcome = outcome.and(removed);
    }
    outcome
}

fn remove_folder(folder: &Path, deadline: Instant) -> std::io::Result<()> {
    loop {
        // Only the group itself: one that still has processes or groups below is refused by the kernel.
        match std::fs::remove_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(BUSY_INTERVAL);
            }
            removed => return removed,
        }
    }
}

/// The cgroup's folder in each mounted hierarchy.
fn folders(cgroup: &Path) -> Result<Vec<PathBuf>, PodError> {
    let below: PathBuf = cgroup
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    if below.as_os_str().is_empty() {
        // The root itself is never made and never removed.
        return Ok(Vec::new());
    }
    let table =
        MountTable::read().map_err(|error| failed("find", cgroup)(std::io::Error::other(error)))?;
    let hierarchies = table
        .iter()
        .filter(|entry| matches!(entry.fs_type.as_str(), "cgroup" | "cgroup2"));
    Ok(hierarchies
        .map(|entry| entry.mountpoint.join(&below))
        .collect())
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(std::io::Error) -> PodError {
    let path = path.to_owned();
    move |source| PodError::Cgroup {
        operation,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_spelled_out_and_a_path_stays() {
        let table = [
            ("/kubepods/pod1", "/kubepods/pod1"),
            ("system.slice", "/system.slice"),
            (
                "kubepods-burstable-pod1_2.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            ),
        ];
        for (parent, expected) in table {
            assert_eq!(path(Path::new(parent)), Path::new(expected));
        }
    }

    #[test]
    fn the_kubelets_path_of_a_slice_is_the_slice() {
        let asked = "/kubepods.slice/kubepods-pod1.slice";
        assert_eq!(parent(asked), Path::new("kubepods-pod1.slice"));
        assert_eq!(parent("/kubepods/pod1"), Path::new("/kubepods/pod1"));
    }

    #[test]
    fn a_pod_that_asks_for_nothing_is_below_its_namespace() {
        assert_eq!(
            own_parent(Path::new("/orlop/k8s.io"), "abc"),
            Path::new("/orlop/k8s.io/podabc")
        );
        assert_eq!(
            own_parent(Path::new("orlop-k8s.io.slice"), "abc"),
            Path::new("orlop-k8s.io-podabc.slice")
        );
    }

    #[test]
    fn the_root_is_not_a_pods_cgroup() {
        assert!(folders(Path::new("/")).unwrap().is_empty());
        assert!(folders(Path::new("/..")).unwrap().is_empty());
    }
}

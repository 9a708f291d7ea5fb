//! Finding and taking away what a run left: processes, mounts, cgroups.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use orlop_sys::mount::{MountTable, Unmount, unmount_all};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::daemon::wait_for_end;

/// Kills the shims and containers of daemons on `folder`, and names them. Shims have it on their command line;
/// containers have a mount namespace that is not ours and whose root lies in a snapshot below `folder`.
pub(crate) fn end_processes(folder: &Path) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    for (pid, line) in processes_of(folder)? {
        let Some(process) = Pid::from_raw(pid) else {
            continue;
        };
        let Ok(descriptor) = pidfd_open(process, PidfdFlags::empty()) else {
            continue;
        };
        // The id may have gone to another process between the look and the opening: look again.
        if !belongs(pid, folder) {
            continue;
        }
        if pidfd_send_signal(&descriptor, Signal::KILL).is_ok() {
            wait_for_end(&descriptor, std::time::Duration::from_secs(5));
            ended.push(format!("process {pid}: {line}"));
        }
    }
    Ok(ended)
}

/// The processes of `folder` with their command lines, without our own.
pub(crate) fn processes_of(folder: &Path) -> Result<Vec<(i32, String)>> {
    let entries = std::fs::read_dir("/proc").context("cannot list processes")?;
    let own = std::process::id().to_string();
    let ids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let others = ids
        .filter(|name| *name != own)
        .filter_map(|name| name.parse().ok());
    let found = others.filter(|pid| belongs(*pid, folder));
    Ok(found.map(|pid| (pid, command_line(pid))).collect())
}

fn belongs(pid: i32, folder: &Path) -> bool {
    let folder = folder.to_string_lossy();
    let line = command_line(pid);
    let program = line.split(' ').next().unwrap_or_default();
    if program.contains("containerd-shim-") && line.contains(&*folder) {
        return true;
    }
    let namespace = |name: &str| std::fs::read_link(format!("/proc/{name}/ns/mnt")).ok();
    if namespace(&pid.to_string()).is_none_or(|its| Some(its) == namespace("self")) {
        return false;
    }
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"));
    root.is_some_and(|line| line.contains(&*folder))
}

fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    text.trim_end().to_owned()
}

/// Takes down every mount below `folder` and names them.
pub(crate) fn unmount(folder: &Path) -> Result<Vec<String>> {
    let table = MountTable::read().context("cannot read the mount table")?;
    let found: Vec<String> = table
        .beneath(folder)
        .map(|mount| format!("mount {}", mount.mountpoint.display()))
        .collect();
    let how = Unmount {
        detach: true,
        recursive: true,
    };
    unmount_all(folder, how)?;
    Ok(found)
}

/// Removes empty cgroups named after the scratch folder, in every hierarchy, and names those that stay.
pub(crate) fn remove_cgroups(name: &str) -> Vec<String> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    let controllers = std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    roots.extend(controllers.map(|entry| entry.path()));
    let groups = roots.into_iter().map(|root| root.join(name));
    groups
        .filter(|group| group.is_dir())
        .filter_map(|group| {
            let inner = std::fs::read_dir(&group).into_iter().flatten().flatten();
            for container in inner.filter(|entry| entry.path().is_dir()) {
                // One that is not empty keeps its parent, which is told.
                std::fs::remove_dir(container.path()).ok();
            }
            let error = std::fs::remove_dir(&group).err()?;
            Some(format!("cgroup {}: {error}", group.display()))
        })
        .collect()
}

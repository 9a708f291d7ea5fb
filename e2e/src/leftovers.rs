//! Finding and taking away what a run left: processes, mounts, cgroups.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use orlop_sys::mount::{MountTable, Unmount, unmount_all};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::daemon::wait_for_end;

/// How long a helper may take to show up: it may have come and gone before the first look.
const HELPER_PATIENCE: Duration = Duration::from_secs(2);

/// What the daemon has others do, each a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// `start` of a shim: it tells the daemon where the server is, and ends. Killed in its last moments, it has done so.
    ShimStart,
    /// The server that a shim's `start` left behind.
    ShimServer,
    /// `runc`.
    OciRuntime,
    /// A CNI plugin.
    CniPlugin,
}

impl Helper {
    /// Whether a process is this helper of the daemon `daemon` on `folder`.
    fn is(self, pid: i32, daemon: i32, folder: &str) -> bool {
        let line = command_line(pid);
        let program = line.split(' ').next().unwrap_or_default();
        match self {
            // `start` and server have the same command line: only one is the daemon's child.
            Self::ShimStart | Self::ShimServer => {
                program.contains("containerd-shim-")
                    && line.contains(folder)
                    && (parent(pid) == Some(daemon)) == (self == Self::ShimStart)
            }
            Self::OciRuntime => program.contains("runc") && line.contains(folder),
            // Plugins have no arguments: their parent tells whose they are.
            Self::CniPlugin => program.ends_with("/bridge") && parent(pid) == Some(daemon),
        }
    }
}

/// Waits for a helper of the daemon, lets it live for `delay`, and kills it. Gives whether there was one to kill.
pub(crate) fn kill_helper(
    helper: Helper,
    daemon: i32,
    name: &str,
    delay: Duration,
) -> Result<bool> {
    let deadline = Instant::now() + HELPER_PATIENCE;
    while Instant::now() < deadline {
        let found = processes()?.find(|pid| helper.is(*pid, daemon, name));
        let Some((pid, process)) = found.and_then(|pid| Some((pid, Pid::from_raw(pid)?))) else {
            continue;
        };
        let Ok(descriptor) = pidfd_open(process, PidfdFlags::empty()) else {
            continue;
        };
        std::thread::sleep(delay);
        // The id may have gone to another process before it was opened; later it cannot.
        return Ok(
            helper.is(pid, daemon, name) && pidfd_send_signal(&descriptor, Signal::KILL).is_ok()
        );
    }
    Ok(false)
}

/// The processes whose parent is `daemon`.
pub(crate) fn children(daemon: i32) -> Result<Vec<String>> {
    let found = processes()?.filter(|pid| parent(*pid) == Some(daemon));
    Ok(found
        .map(|pid| format!("process {pid} of the daemon: {}", command_line(pid)))
        .collect())
}

fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

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
            wait_for_end(&descriptor, Duration::from_secs(5));
            ended.push(format!("process {pid}: {line}"));
        }
    }
    Ok(ended)
}

/// The processes of `folder` with their command lines, without our own.
pub(crate) fn processes_of(folder: &Path) -> Result<Vec<(i32, String)>> {
    let found = processes()?.filter(|pid| belongs(*pid, folder));
    Ok(found.map(|pid| (pid, command_line(pid))).collect())
}

/// The processes of this machine without our own.
fn processes() -> Result<impl Iterator<Item = i32>> {
    let entries = std::fs::read_dir("/proc").context("cannot list processes")?;
    let own = i32::try_from(std::process::id()).ok();
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let ids = names.filter_map(|name| name.parse().ok());
    Ok(ids.filter(move |pid| Some(*pid) != own))
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

//! Control groups of version 1, version 2 and both at once.
//!
//! Purpose: find the groups of a process, read their figures and their memory faults, and be told of an OOM kill.
//! One reader for the shim, the runtime and the doctor.
//!
//! Non-goals: creating or limiting groups: the OCI runtime does that, and removes them; [`Cgroup::remove_empty`] is for what
//! one that was killed has left.
//!
//! Invariants: a file or controller that is missing is an absent figure, never a zero; nothing in here is followed
//! out of a mounted hierarchy.
//!
//! Ordering: figures of one [`Cgroup::stats`] are read one after the other, not at one moment. Crash: nothing is kept.
//!
//! Entry points: [`Cgroup::of_process`], [`Cgroup::stats`], [`Cgroup::memory_chain`], [`OomWatch`].

mod locate;
mod memory;
mod parse;
mod stats;
mod watch;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use locate::Hierarchies;
pub use memory::MemoryCounters;
pub use stats::{
    CpuStats, HugetlbStats, IoStats, MemoryStats, OomControl, PidStats, Pressure, Stats,
};
pub use watch::OomWatch;

/// Which version accounts for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Memory is a hierarchy of its own; a unified one may exist beside it ("hybrid").
    V1,
    /// One hierarchy for all.
    V2,
}

/// The most bytes read of one file of the kernel.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The groups of one process, one folder per controller (version 1) or one for all (version 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    version: Version,
    groups: Vec<Group>,
}

/// A folder of a hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    /// Controllers of version 1; empty for the unified hierarchy.
    controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    mount_point: PathBuf,
    dir: PathBuf,
}

impl Cgroup {
    /// The groups a process is in now.
    ///
    /// # Errors
    /// The process is gone, or no hierarchy is mounted.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Hierarchies::mounted()?.of_process(pid)
    }

    /// Which version accounts for memory.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The folder of a controller.
    #[must_use]
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        self.group(controller).map(|group| group.dir.as_path())
    }

    /// The group's path below the hierarchy that accounts for memory, such as `/kubepods/pod1/abc`.
    #[must_use]
    pub fn path(&self) -> String {
        self.group("memory")
            .map(|group| relative(&group.mount_point, &group.dir))
            .unwrap_or_default()
    }

    /// Whether the group still exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.groups.iter().any(|group| group.dir.exists())
    }

    /// Moves a process with all its threads into the groups that are there.
    ///
    /// # Errors
    /// There are none, the process is gone, or the kernel refuses.
    pub fn add_process(&self, pid: i32) -> io::Result<()> {
        let mut there = self
            .groups
            .iter()
            .filter(|group| group.dir.exists())
            .peekable();
        there.peek().ok_or(io::ErrorKind::NotFound)?;
        for group in there {
            let procs = group.dir.join("cgroup.procs");
            let mut file = fs::OpenOptions::new().write(true).open(procs)?;
            file.write_all(pid.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// Removes the groups that have neither processes nor groups below them; what is gone already is as good.
    ///
    /// # Errors
    /// The first of what went wrong; the other hierarchies were tried all the same.
    pub fn remove_empty(&self) -> io::Result<()> {
        let mut outcome = Ok(());
        for group in &self.groups {
            // The kernel refuses a folder with anything in it, and its files are no obstacle.
            match fs::remove_dir(&group.dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound && outcome.is_ok() => {
                    outcome = Err(error);
                }
                Ok(()) | Err(_) => {}
            }
        }
        outcome
    }

    /// All processes of the group and the groups below it.
    ///
    /// # Errors
    /// The group is gone.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let group = ["pids", "devices", "memory"]
            .iter()
            .find_map(|controller| self.group(controller))
            .or_else(|| self.groups.first())
            .ok_or(io::ErrorKind::NotFound)?;
        let mut pids = Vec::new();
        collect_processes(&group.dir, &mut pids, 0)?;
        Ok(pids)
    }

    /// All figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        stats::read(self)
    }

    /// Memory faults of the group and of every group above it, the group first. Empty when memory is not accounted.
    #[must_use]
    pub fn memory_chain(&self) -> Vec<MemoryCounters> {
        memory::chain(self)
    }

    /// Processes killed for want of memory in the group itself: one figure of [`Cgroup::memory_chain`] without the rest.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        memory::oom_kills(self)
    }

    fn group(&self, controller: &str) -> Option<&Group> {
        self.groups.iter().find(|group| match self.version {
            Version::V1 => group.controllers.iter().any(|name| name == controller),
            Version::V2 => group.controllers.is_empty(),
        })
    }

    /// A file of a controller, if both exist.
    fn read(&self, controller: &str, file: &str) -> Option<String> {
        read_file(&self.dir(controller)?.join(file))
    }
}

fn read_file(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn relative(mount_point: &Path, dir: &Path) -> String {
    let below = dir.strip_prefix(mount_point).unwrap_or(dir);
    format!("/{}", below.display())
}

fn collect_processes(dir: &Path, pids: &mut Vec<i32>, depth: usize) -> io::Result<()> {
    const DEPTH_MAX: usize = 32;
    let text = fs::read_to_string(dir.join("cgroup.procs"))?;
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth >= DEPTH_MAX {
        return Ok(());
    }
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match collect_processes(&entry.path(), pids, depth + 1) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // A group below that went away meanwhile has no processes.
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_lists_this_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let cgroup = Cgroup::of_process(own).unwrap();
        assert!(cgroup.exists());
        assert!(cgroup.path().starts_with('/'));
        assert!(cgroup.processes().unwrap().contains(&own));
    }

    #[test]
    fn a_process_that_is_gone_has_no_group() {
        assert!(Cgroup::of_process(i32::MAX).is_err());
    }
}

//! Being told of an OOM, instead of asking.
//!
//! Version 1: an eventfd per group, from the group to the root. The kernel tells the group whose limit led to the OOM and
//! all groups below it, so a group that was told while its parent was not is the one at fault. Version 2: inotify
//! on `memory.events`, whose counters say the rest.
//!
//! Ordering: a notification may come before the counters have moved; read them again after the process has ended.
//! Cancellation: dropping the watch. Crash: the kernel forgets it with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use super::{Cgroup, Version, relative};

/// Groups above a container that are watched; pods lie three or four deep.
const GROUPS_MAX: usize = 8;

/// Watches one group for OOMs.
#[derive(Debug)]
pub struct OomWatch {
    version: Version,
    /// The group itself, then those above it (version 1).
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    path: String,
    fd: File,
    /// Version 1 ties the notification to this descriptor's life.
    _control: Option<File>,
    told: u64,
}

impl OomWatch {
    /// Starts to watch the memory group of `cgroup`.
    ///
    /// # Errors
    /// Memory is not accounted, or the kernel refuses.
    pub fn new(cgroup: &Cgroup) -> io::Result<Self> {
        let group = cgroup.group("memory").ok_or(io::ErrorKind::Unsupported)?;
        let sources = match cgroup.version {
            Version::V2 => vec![Source::of_v2(&group.dir)?],
            Version::V1 => {
                let mut sources = vec![Source::of_v1(&group.dir, &group.mount_point)?];
                let above = group.dir.ancestors().skip(1);
                let above = above.take_while(|dir| {
                    dir.starts_with(&group.mount_point) && *dir != group.mount_point
                });
                // A group above that cannot be watched only weakens what can be said about it.
                sources.extend(
                    above
                        .take(GROUPS_MAX)
                        .map_while(|dir| Source::of_v1(dir, &group.mount_point).ok()),
                );
                sources
            }
        };
        Ok(Self {
            version: cgroup.version,
            sources,
        })
    }

    /// Takes in what the kernel has told since, and says whether there was anything about the group itself. In version 1
    /// the end of the group is told as well, so look at the counters.
    pub fn drain(&mut self) -> bool {
        let mut own = false;
        for (index, source) in self.sources.iter_mut().enumerate() {
            own |= source.drain(self.version) && index == 0;
        }
        own
    }

    /// How often each group's own limit led to an OOM, as far as the kernel told (version 1), the group first.
    ///
    /// A group is told of its own and of all OOMs above it, so what the group above was told is taken off. The groups are
    /// told one after the other, bottom last: call after the victim has ended.
    #[must_use]
    pub fn local_ooms(&self) -> Vec<(&str, u64)> {
        if self.version == Version::V2 {
            return Vec::new();
        }
        let above = self.sources.iter().skip(1).map(|source| source.told);
        self.sources
            .iter()
            .zip(above.chain([0]))
            .map(|(source, above)| (source.path.as_str(), source.told.saturating_sub(above)))
            .collect()
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // `new` never leaves the list empty.
        self.sources
            .first()
            .expect("a watch has at least its own group")
            .fd
            .as_fd()
    }
}

impl Source {
    fn of_v1(dir: &Path, mount_point: &Path) -> io::Result<Self> {
        let fd: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = File::open(dir.join("memory.oom_control"))?;
        let mut registry = OpenOptions::new()
            .write(true)
            .open(dir.join("cgroup.event_control"))?;
        let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
        registry.write_all(line.as_bytes())?;
        Ok(Self {
            path: relative(mount_point, dir),
            fd: fd.into(),
            _control: Some(control),
            told: 0,
        })
    }

    fn of_v2(dir: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
        Ok(Self {
            path: String::new(),
            fd: fd.into(),
            _control: None,
            told: 0,
        })
    }

    fn drain(&mut self, version: Version) -> bool {
        let mut buffer = [0; 512];
        let mut any = false;
        while let Ok(count) = self.fd.read(&mut buffer) {
            if count == 0 {
                break;
            }
            any = true;
            if version == Version::V1
                && let Some(number) = buffer.first_chunk()
            {
                self.told += u64::from_ne_bytes(*number);
            }
        }
        any
    }
}

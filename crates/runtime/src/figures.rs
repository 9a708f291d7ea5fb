//! What containers and pods use, straight from the kernel: no shim is asked, so a shim that hangs hides nothing.
//!
//! Nothing is kept here; figures of one call are read one after the other, not at one moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orlop_base::blocking;
use orlop_sys::cgroup::{Cgroup, Hierarchies};

use crate::Error;
use crate::runtime::Runtime;

pub use orlop_sys::cgroup::{CpuStats, IoStats, MemoryStats, PidStats, Pressure, Stats};

/// Whose figures are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The cgroup that a process is in, and the network it sees if `network` is set.
    Process {
        /// The process, in the host's pid namespace.
        pid: u32,
        /// Whether its network is wanted: not for a process in the host's.
        network: bool,
        /// Whether its open files are wanted, for which each of them is looked at.
        descriptors: bool,
    },
    /// A cgroup by its path below the hierarchies.
    Cgroup(PathBuf),
}

/// What one subject uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// When they were read.
    pub taken_at: SystemTime,
    /// The cgroup's.
    pub cgroup: Stats,
    /// The network interfaces', by name, without the loopback.
    pub interfaces: BTreeMap<String, InterfaceFigures>,
    /// Open files of the process, and how many of those are sockets; absent unless asked for.
    pub descriptors: Option<(u64, u64)>,
}

/// Counters of one network interface (proc_net(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceFigures {
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets that came with an error.
    pub receive_errors: u64,
    /// Packets dropped on receipt.
    pub receive_drops: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Packets dropped on sending.
    pub send_drops: u64,
}

impl Runtime {
    /// The cgroup that a process is in, from the root of the hierarchy that accounts for memory; `None` for one that is
    /// gone.
    pub async fn cgroup_path(&self, pid: u32) -> Option<String> {
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
        let look = move || Cgroup::of_process(pid).map(|cgroup| cgroup.path());
        blocking::run("read cgroup", look).await.ok()?.ok()
    }

    /// The figures of every subject, in order; `None` for one that is gone.
    ///
    /// # Errors
    /// The daemon ends, or no cgroups are mounted.
    pub async fn figures(&self, subjects: Vec<Subject>) -> Result<Vec<Option<Figures>>, Error> {
        let now = self.core.now();
        let measured = blocking::run("read figures", move || {
            let hierarchies = Hierarchies::mounted()?;
            let figures = subjects
                .iter()
                .map(|subject| measure(&hierarchies, subject, now));
            Ok(figures.collect())
        });
        measured
            .await
            .map_err(Error::Daemon)?
            .map_err(|source| Error::Figures { source })
    }
}

fn measure(hierarchies: &Hierarchies, subject: &Subject, now: SystemTime) -> Option<Figures> {
    let (cgroup, interfaces, descriptors) = match subject {
        Subject::Process {
            pid,
            network,
            descriptors,
        } => {
            let cgroup = hierarchies.of_process(i32::try_from(*pid).ok()?).ok()?;
            let process = Path::new("/proc").join(pid.to_string());
            let table = std::fs::read_to_string(process.join("net/dev")).ok();
            let interfaces = table.filter(|_| *network).as_deref().map(interfaces);
            let files = descriptors.then(|| open_files(&process.join("fd")));
            (cgroup, interfaces, files.flatten())
        }
        Subject::Cgroup(path) => (hierarchies.at(path.to_str()?)?, None, None),
    };
    Some(Figures {
        taken_at: now,
        cgroup: cgroup.stats(),
        interfaces: interfaces.unwrap_or_default(),
        descriptors,
    })
}

/// Open files and sockets of one process.
fn open_files(folder: &Path) -> Option<(u64, u64)> {
    let mut counts = (0, 0);
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        counts.0 += 1;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(b"socket:")
        {
            counts.1 += 1;
        }
    }
    Some(counts)
}

/// `/proc/PID/net/dev`: two lines of headings, then `NAME: ` with eight counters for each direction.
fn interfaces(table: &str) -> BTreeMap<String, InterfaceFigures> {
    let row = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let [
            received_bytes,
            received_packets,
            receive_errors,
            receive_drops,
            _,
            _,
            _,
            _,
            sent_bytes,
            sent_packets,
            send_errors,
            send_drops,
            ..,
        ] = counters[..]
        else {
            return None;
        };
        let figures = InterfaceFigures {
            received_bytes,
            received_packets,
            receive_errors,
            receive_drops,
            sent_bytes,
            sent_packets,
            send_errors,
            send_drops,
        };
        Some((name.trim().to_owned(), figures))
    };
    let rows = table.lines().skip(2).filter_map(row);
    rows.filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_and_the_loopback_is_left_out() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n\
            \u{20}   lo:  100  1 0 0 0 0 0 0  100 1 0 0 0 0 0 0\n\
            \u{20} eth0: 1500 10 1 2 0 0 0 0 900 9 3 4 0 0 0 0\n broken: 1 2\n";
        let found = interfaces(table);
        let eth0 = InterfaceFigures {
            received_bytes: 1500,
            received_packets: 10,
            receive_errors: 1,
            receive_drops: 2,
            sent_bytes: 900,
            sent_packets: 9,
            send_errors: 3,
            send_drops: 4,
        };
        assert_eq!(found, BTreeMap::from([("eth0".to_owned(), eth0)]));
    }

    #[test]
    fn a_process_that_is_gone_has_no_figures() {
        let hierarchies = Hierarchies::mounted().unwrap();
        let subject = |pid| Subject::Process {
            pid,
            network: true,
            descriptors: true,
        };
        let now = SystemTime::UNIX_EPOCH;
        assert!(measure(&hierarchies, &subject(u32::MAX), now).is_none());
        let own = measure(&hierarchies, &subject(std::process::id()), now).unwrap();
        assert!(own.descriptors.is_some_and(|(files, _)| files > 0));
        let nowhere = Subject::Cgroup("/orlop-no-such-group".into());
        assert!(measure(&hierarchies, &nowhere, now).is_none());
    }
}

//! How a process of a container ended: what the shim writes to `exit.json` in the bundle, and what follows from it.
//!
//! ```text
//! <bundle>/exit.json   { version, container_id, namespace, init: ExitRecord | null, execs: { exec id: ExitRecord } }
//! ```
//!
//! The file is replaced atomically, before the container's cgroup goes and before anyone is told of the end, so that a
//! daemon that was not there learns it later. A reader refuses a `version` it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name of the file in the bundle.
pub const EXIT_FILE: &str = "exit.json";
/// The version written today.
pub const EXIT_VERSION: u32 = 1;

/// All ends known of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFile {
    /// [`EXIT_VERSION`].
    pub version: u32,
    /// The container.
    pub container_id: String,
    /// Its namespace.
    pub namespace: String,
    /// The container's own process.
    #[serde(default)]
    pub init: Option<ExitRecord>,
    /// Further processes, by exec id. Only the latest few are kept.
    #[serde(default)]
    pub execs: BTreeMap<String, ExitRecord>,
}

/// The end of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Its process id on the host.
    pub pid: i32,
    /// The status as `wait(2)` gave it; absent when nobody could reap the process. It alone tells exit(137) from a kill.
    pub raw_status: Option<i32>,
    /// The number containerd's API carries: the code, or 128 plus the signal.
    pub exit_status: u32,
    /// When it was started.
    pub started_at: Moment,
    /// When its end was noticed.
    pub exited_at: Moment,
    /// What ended it.
    pub cause: ExitCause,
    /// Memory faults during its life: its own group first, then each above.
    #[serde(default)]
    pub memory: Vec<MemoryDelta>,
    /// OOM kills on the whole machine during its life (`/proc/vmstat`), those of any group's limit included.
    #[serde(default)]
    pub host_oom_kills: Option<u64>,
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Nanoseconds since 1970, which may jump.
    pub wall_ns: i64,
    /// Nanoseconds since the machine started, which may not.
    pub boot_ns: u64,
}

/// How the counters of one group changed during a process's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryDelta {
    /// The group below its hierarchy's root.
    pub path: String,
    /// OOMs that this very group's limit led to; absent when that cannot be known.
    pub oom: Option<u64>,
    /// Processes killed in it.
    pub oom_kill: Option<u64>,
    /// Times its limit was reached, which alone kills nobody.
    pub limit_hits: Option<u64>,
    /// Its limit in bytes at the end.
    pub limit_bytes: Option<u64>,
    /// The most it ever used, in bytes.
    pub peak_bytes: Option<u64>,
}

/// What ended a process. Everything but [`ExitCause::Unknown`] has evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The container reached its own memory limit.
    WorkloadOom,
    /// A group above it, such as the pod, reached its limit.
    AncestorOom,
    /// The machine ran out of memory.
    HostOom,
    /// The shim died, and its clean-up ended the container.
    ShimCrash,
    /// The shim was killed for memory, and its clean-up ended the container.
    ShimOom,
    /// A signal this engine was asked to send.
    KilledByRuntime,
    /// A signal from elsewhere.
    KilledByOther,
    /// The process ended by itself, with whatever code: 137 too.
    Exited,
    /// The evidence does not decide.
    Unknown,
}

/// What is known about an end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Whether the process was the container's own.
    pub is_init: bool,
    /// The last signal this engine sent to it.
    pub sent_signal: Option<i32>,
    /// OOM kills counted in its group before that signal was sent.
    pub oom_kills_before_signal: u64,
    /// Whether its group's counters could be read at the end.
    pub counters_known: bool,
    /// How long before the end the last OOM kill was seen, in nanoseconds; absent if it was first seen at the end.
    pub oom_kill_age_ns: Option<u64>,
    /// Changes of counters, its own group first.
    pub memory: &'a [MemoryDelta],
}

const SIGKILL: i32 = 9;
/// An OOM kill seen this much earlier than the end was someone else's.
const OOM_WINDOW_NS: u64 = 2_000_000_000;
/// Signals the kernel sends for faults of the program itself, and that others may send as well.
const FAULT_SIGNALS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];

/// Decides what ended a process, on evidence alone.
#[must_use]
pub fn decide_cause(evidence: &Evidence<'_>) -> ExitCause {
    let Some(signal) = evidence.signal else {
        return ExitCause::Exited;
    };
    let oom_kills = evidence
        .memory
        .first()
        .and_then(|own| own.oom_kill)
        .unwrap_or(0);
    let sent_by_us = evidence.sent_signal == Some(signal);
    if signal != SIGKILL {
        return match (sent_by_us, FAULT_SIGNALS.contains(&signal)) {
            (true, _) => ExitCause::KilledByRuntime,
            (false, true) => ExitCause::Unknown,
            (false, false) => ExitCause::KilledByOther,
        };
    }
    if sent_by_us {
        // An OOM kill after our signal may have been first: the counters cannot tell.
        return if oom_kills <= evidence.oom_kills_before_signal {
            ExitCause::KilledByRuntime
        } else {
            ExitCause::Unknown
        };
    }
    let earlier_victim = evidence
        .oom_kill_age_ns
        .is_some_and(|age| age > OOM_WINDOW_NS);
    if oom_kills > 0 && !earlier_victim {
        // The counters name a group, not a victim: of several processes only init's end is explained by them.
        return if evidence.is_init {
            whose_limit(evidence.memory)
        } else {
            ExitCause::Unknown
        };
    }
    if evidence.counters_known && evidence.is_init {
        ExitCause::KilledByOther
    } else {
        ExitCause::Unknown
    }
}

/// Somebody in the own group was killed: by whose limit?
fn whose_limit(memory: &[MemoryDelta]) -> ExitCause {
    let Some((own, above)) = memory.split_first() else {
        return ExitCause::Unknown;
    };
    let led_to_oom = |group: &MemoryDelta| group.oom.unwrap_or(0) > 0;
    match (led_to_oom(own), above.iter().any(led_to_oom)) {
        (true, false) => ExitCause::WorkloadOom,
        (false, true) => ExitCause::AncestorOom,
        (true, true) => ExitCause::Unknown,
        // Counters of every limited group are known and none led to it: only the machine is left.
        (false, false)
            if memory
                .iter()
                .all(|group| group.limit_bytes.is_none() || group.oom.is_some()) =>
        {
            ExitCause::HostOom
        }
        (false, false) => ExitCause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(oom: Option<u64>, oom_kill: u64) -> MemoryDelta {
        MemoryDelta {
            oom,
            oom_kill: Some(oom_kill),
            limit_bytes: Some(1 << 20),
            ..MemoryDelta::default()
        }
    }

    fn killed(memory: &[MemoryDelta]) -> Evidence<'_> {
        Evidence {
            signal: Some(SIGKILL),
            is_init: true,
            counters_known: true,
            memory,
            ..Evidence::default()
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table with one row per case")]
    fn the_cause_follows_from_the_counters() {
        let none = [group(Some(0), 0), group(Some(0), 0)];
        let own_limit = [group(Some(1), 1), group(Some(0), 0)];
        let pod_limit = [group(Some(0), 1), group(Some(1), 0)];
        let global = [group(Some(0), 1), group(Some(0), 0)];
        let both = [group(Some(1), 1), group(Some(1), 0)];
        let unseen = [group(None, 1), group(None, 0)];
        let table = [
            ("own limit", killed(&own_limit), ExitCause::WorkloadOom),
            ("pod's limit", killed(&pod_limit), ExitCause::AncestorOom),
            ("no limit reached", killed(&global), ExitCause::HostOom),
            ("both limits", killed(&both), ExitCause::Unknown),
            ("limits not observable", killed(&unseen), ExitCause::Unknown),
            (
                "kill -9 from outside",
                killed(&none),
                ExitCause::KilledByOther,
            ),
            (
                "no counters at all",
                Evidence {
                    counters_known: false,
                    ..killed(&[])
                },
                ExitCause::Unknown,
            ),
            (
                "our kill",
                Evidence {
                    sent_signal: Some(9),
                    ..killed(&none)
                },
                ExitCause::KilledByRuntime,
            ),
            (
                "our kill after a child's OOM",
                Evidence {
                    sent_signal: Some(9),
                    oom_kills_before_signal: 1,
                    ..killed(&own_limit)
                },
                ExitCause::KilledByRuntime,
            ),
            (
                "our kill racing an OOM",
                Evidence {
                    sent_signal: Some(9),
                    ..killed(&own_limit)
                },
                ExitCause::Unknown,
            ),
            (
                "a child's OOM long ago, then kill -9",
                Evidence {
                    oom_kill_age_ns: Some(OOM_WINDOW_NS + 1),
                    ..killed(&own_limit)
                },
                ExitCause::KilledByOther,
            ),
            (
                "an exec among victims",
                Evidence {
                    is_init: false,
                    ..killed(&own_limit)
                },
                ExitCause::Unknown,
            ),
            (
                "our TERM",
                Evidence {
                    signal: Some(15),
                    sent_signal: Some(15),
                    ..killed(&none)
                },
                ExitCause::KilledByRuntime,
            ),
            (
                "a foreign TERM",
                Evidence {
                    signal: Some(15),
                    ..killed(&none)
                },
                ExitCause::KilledByOther,
            ),
            (
                "a fault",
                Evidence {
                    signal: Some(11),
                    ..killed(&none)
                },
                ExitCause::Unknown,
            ),
            (
                "exit(137) beside a child's OOM",
                Evidence {
                    signal: None,
                    ..killed(&own_limit)
                },
                ExitCause::Exited,
            ),
        ];
        for (name, evidence, expected) in table {
            assert_eq!(decide_cause(&evidence), expected, "{name}");
        }
    }

    #[test]
    fn causes_are_written_as_the_documents_name_them() {
        let json = serde_json::to_string(&ExitCause::KilledByRuntime).unwrap();
        assert_eq!(json, "\"killed_by_runtime\"");
    }
}

//! What is told of a member's end: one word for programs, one sentence for people. Pure.
//!
//! The word follows from the cause and its evidence, never from the exit code alone: exit(137) and a kill for memory look
//! alike to a shell.

use std::time::{Duration, SystemTime};

use orlop_base::units::ByteSize;
use orlop_types::exit::{ExitCause, MemoryDelta};

use super::record::FailedStart;
use super::{MemberEnd, signal};
use crate::machine::Exit;

/// The process ended by itself with code 0.
const COMPLETED: &str = "Completed";
/// It ended in any other way.
const ERROR: &str = "Error";
/// The kernel killed it for memory.
const OUT_OF_MEMORY: &str = "OOMKilled";
/// It could not be started.
const START_ERROR: &str = "StartError";
/// Nobody saw its end.
const UNKNOWN: &str = "ContainerStatusUnknown";

/// What a start that failed is told to have ended with, as in containerd.
const START_ERROR_CODE: u32 = 128;
/// What an end that nobody saw is told to have ended with, as in containerd.
const UNKNOWN_CODE: u32 = 255;
/// What a shell ends with whose child was killed.
const KILLED_CODE: u32 = 128 + signal::KILL;

/// What happened around an end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Circumstances {
    /// When the process was started.
    pub(super) started_at: Option<SystemTime>,
    /// When this machine was.
    pub(super) booted_at: Option<SystemTime>,
    /// When somebody first asked it to end.
    pub(super) stop_asked_at: Option<SystemTime>,
}

/// The end of a process.
pub(super) fn of_exit(exit: &Exit, around: Circumstances) -> MemberEnd {
    let (code, reason, message) = if is_unseen(exit) {
        (UNKNOWN_CODE, UNKNOWN, unseen(around))
    } else {
        let (reason, message) = seen(exit, around);
        (exit.code, reason, message)
    };
    MemberEnd {
        at: exit.at,
        code,
        reason,
        message,
        exit: Some(exit.clone()),
    }
}

/// The end of a start that came to nothing.
pub(super) fn of_failed_start(failed: &FailedStart) -> MemberEnd {
    MemberEnd {
        at: failed.at,
        code: START_ERROR_CODE,
        reason: START_ERROR,
        message: failed.message.clone(),
        exit: None,
    }
}

/// Whether the code is made up: no shim told of the end, or its successor found the process gone.
fn is_unseen(exit: &Exit) -> bool {
    match &exit.record {
        Some(record) => record.raw_status.is_none() && exit.cause == ExitCause::Unknown,
        None => matches!(exit.cause, ExitCause::ShimCrash | ExitCause::ShimOom),
    }
}

fn unseen(around: Circumstances) -> String {
    let rebooted = matches!((around.started_at, around.booted_at), (Some(started), Some(booted)) if started < booted);
    if rebooted {
        "nobody saw the end: the machine was restarted while the container ran".to_owned()
    } else {
        "nobody saw the end: the container's shim died and left no record, so the code is made up"
            .to_owned()
    }
}

fn seen(exit: &Exit, around: Circumstances) -> (&'static str, String) {
    let groups = exit
        .record
        .as_ref()
        .map_or(&[][..], |record| &record.memory);
    let asked = around.stop_asked_at.map_or("", |_| ", as was asked for");
    match exit.cause {
        ExitCause::WorkloadOom => (OUT_OF_MEMORY, memory("the container's", groups)),
        ExitCause::AncestorOom => (
            OUT_OF_MEMORY,
            memory("a group above the container's", groups),
        ),
        ExitCause::HostOom => (
            OUT_OF_MEMORY,
            "the kernel killed it because the machine had no memory left; no limit was reached"
                .to_owned(),
        ),
        ExitCause::Exited if exit.code == 0 => (COMPLETED, String::new()),
        ExitCause::Exited if exit.code == KILLED_CODE && oom_kills(groups) > 0 => (
            OUT_OF_MEMORY,
            format!(
                "a child was killed for memory and its parent ended with code {KILLED_CODE}: {}",
                memory("the container's", groups)
            ),
        ),
        ExitCause::Exited => (ERROR, ended_by_itself(exit.code, oom_kills(groups))),
        ExitCause::KilledByRuntime => (
            ERROR,
            format!("ended by {} from this engine{asked}", signal_of(exit)),
        ),
        ExitCause::KilledByOther => (
            ERROR,
            format!(
                "ended by {}, which this engine did not send",
                signal_of(exit)
            ),
        ),
        ExitCause::ShimCrash => (
            ERROR,
            "its shim died, and what was left of it was killed in cleaning up".to_owned(),
        ),
        ExitCause::ShimOom => (
            ERROR,
            "its shim was killed for memory, and what was left of it was killed in cleaning up"
                .to_owned(),
        ),
        ExitCause::Unknown if exit.code == 0 => (COMPLETED, String::new()),
        ExitCause::Unknown => (
            ERROR,
            format!(
                "ended with code {}; the evidence does not say why",
                exit.code
            ),
        ),
    }
}

fn ended_by_itself(code: u32, oom_kills: u64) -> String {
    let aside = match oom_kills {
        0 => String::new(),
        count => format!("; {count} of its processes had been killed for memory during its life"),
    };
    format!("ended by itself with code {code}{aside}")
}

/// The signal that ended it, from the raw status if there is one.
fn signal_of(exit: &Exit) -> String {
    let raw = exit.record.as_ref().and_then(|record| record.raw_status);
    let number = raw
        .and_then(|raw| u32::try_from(raw & 0x7f).ok())
        .filter(|number| *number != 0)
        .unwrap_or_else(|| exit.code.saturating_sub(128));
    signal::name(number)
}

fn oom_kills(groups: &[MemoryDelta]) -> u64 {
    groups.first().and_then(|own| own.oom_kill).unwrap_or(0)
}

/// `the container's memory limit of 64MiB was reached in /kubepods/pod1/c1 (most used 64MiB, 1 process killed)`.
fn memory(whose: &str, groups: &[MemoryDelta]) -> String {
    let full = groups.iter().find(|group| group.oom.unwrap_or(0) > 0);
    let Some(group) = full.or(groups.first()) else {
        return format!("{whose} memory limit was reached");
    };
    let size = |bytes: Option<u64>| {
        bytes.map_or_else(
            || "unknown size".to_owned(),
            |bytes| ByteSize::bytes(bytes).to_string(),
        )
    };
    format!(
        "{whose} memory limit of {} was reached in {} (most used {}, processes killed {})",
        size(group.limit_bytes),
        group.path,
        size(group.peak_bytes),
        oom_kills(groups),
    )
}

/// When this machine was started.
pub(super) fn booted_at(now: SystemTime) -> Option<SystemTime> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    now.checked_sub(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use orlop_types::exit::{ExitRecord, Moment};

    use super::*;

    fn exit(code: u32, raw_status: Option<i32>, cause: ExitCause) -> Exit {
        let record = ExitRecord {
            pid: 1,
            raw_status,
            exit_status: code,
            started_at: Moment::default(),
            exited_at: Moment::default(),
            cause,
            memory: Vec::new(),
            host_oom_kills: None,
        };
        Exit {
            code,
            at: SystemTime::UNIX_EPOCH,
            cause,
            record: Some(record),
        }
    }

    fn with_oom(mut exit: Exit) -> Exit {
        exit.record.as_mut().unwrap().memory = vec![MemoryDelta {
            path: "/pods/p/c".into(),
            oom: Some(1),
            oom_kill: Some(1),
            limit_bytes: Some(64 << 20),
            peak_bytes: Some(64 << 20),
            ..MemoryDelta::default()
        }];
        exit
    }

    #[test]
    fn the_word_follows_from_the_cause_and_not_from_the_code() {
        use ExitCause::{
            AncestorOom, Exited, HostOom, KilledByOther, KilledByRuntime, ShimCrash, Unknown,
            WorkloadOom,
        };
        let table = [
            (exit(0, Some(0), Exited), COMPLETED, 0, ""),
            (
                exit(3, Some(0x300), Exited),
                ERROR,
                3,
                "by itself with code 3",
            ),
            (
                exit(137, Some(0x8900), Exited),
                ERROR,
                137,
                "by itself with code 137",
            ),
            (
                with_oom(exit(137, Some(0x8900), Exited)),
                OUT_OF_MEMORY,
                137,
                "a child was killed",
            ),
            (
                with_oom(exit(1, Some(0x100), Exited)),
                ERROR,
                1,
                "1 of its processes",
            ),
            (
                with_oom(exit(137, Some(9), WorkloadOom)),
                OUT_OF_MEMORY,
                137,
                "/pods/p/c",
            ),
            (
                with_oom(exit(137, Some(9), AncestorOom)),
                OUT_OF_MEMORY,
                137,
                "above the container's",
            ),
            (
                exit(137, Some(9), HostOom),
                OUT_OF_MEMORY,
                137,
                "machine had no memory",
            ),
            (
                exit(137, Some(9), KilledByOther),
                ERROR,
                137,
                "SIGKILL, which this engine did not",
            ),
            (
                exit(143, Some(15), KilledByRuntime),
                ERROR,
                143,
                "SIGTERM from this engine",
            ),
            (exit(137, None, ShimCrash), ERROR, 137, "shim died"),
            (exit(137, None, Unknown), UNKNOWN, 255, "nobody saw"),
            (exit(139, Some(11), Unknown), ERROR, 139, "does not say why"),
        ];
        for (exit, reason, code, sentence) in table {
            let end = of_exit(&exit, Circumstances::default());
            assert_eq!((end.reason, end.code), (reason, code), "{exit:?}");
            assert!(end.message.contains(sentence), "{}", end.message);
        }
    }

    #[test]
    fn an_end_that_nobody_saw_is_said_to_be_one() {
        let unseen = crate::exit::unseen(SystemTime::UNIX_EPOCH);
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let crash = of_exit(&unseen, Circumstances::default());
        assert_eq!((crash.code, crash.reason), (255, UNKNOWN));
        assert!(crash.message.contains("shim died"));
        let around = Circumstances {
            started_at: at(1),
            booted_at: at(2),
            stop_asked_at: None,
        };
        let reboot = of_exit(&unseen, around);
        assert!(reboot.message.contains("machine was restarted"));
    }

    #[test]
    fn a_start_that_failed_has_the_code_the_kubelet_knows() {
        let failed = FailedStart {
            at: SystemTime::UNIX_EPOCH,
            message: "no such program".into(),
        };
        let end = of_failed_start(&failed);
        assert_eq!(
            (end.code, end.reason, end.message.as_str()),
            (128, "StartError", "no such program")
        );
    }
}

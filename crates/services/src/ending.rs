//! How a start went and how a process ended, as `orlop.v1` tells it.

use orlop_api::orlop::v1 as api;
use orlop_meta::Event;
use orlop_runtime::machine::{Exit, Transition};
use orlop_types::exit::{ExitCause, ExitRecord, MemoryDelta};

use crate::translate::timestamp;

/// One step of a start.
pub(crate) fn transition(step: &Transition) -> api::StartTransition {
    let took = step.ended.map(|ended| ended.duration_since(step.began));
    api::StartTransition {
        step: step.step.to_string(),
        started_at: Some(timestamp(step.began)),
        // The clock may have been set back meanwhile.
        duration: took.and_then(|took| took.unwrap_or_default().try_into().ok()),
        error: step.error.clone().unwrap_or_default(),
        undone: false,
    }
}

/// The end of a container's first process.
pub(crate) fn exit(pid: u32, exit: &Exit) -> api::Exit {
    let record = exit.record.as_ref();
    let own = record.and_then(|record| record.memory.first());
    api::Exit {
        pid,
        exit_code: exit.code,
        signal: record.and_then(signal).unwrap_or(0),
        wait_status: record
            .and_then(|record| record.raw_status)
            .and_then(|status| u32::try_from(status).ok()),
        exited_at: Some(timestamp(exit.at)),
        cause: cause(exit.cause).into(),
        evidence: record.map(evidence).unwrap_or_default(),
        oom_kills: own.and_then(|own| own.oom_kill).unwrap_or(0),
        memory_peak_bytes: own.and_then(|own| own.peak_bytes).unwrap_or(0),
        memory_limit_bytes: own.and_then(|own| own.limit_bytes).unwrap_or(0),
        cpu_usage_nanos: 0,
    }
}

/// The signal in a raw wait status (wait(2)).
fn signal(record: &ExitRecord) -> Option<u32> {
    u32::try_from(record.raw_status? & 0x7f).ok()
}

/// What ended a container, of the event that tells it.
pub(crate) fn told_cause(event: &Event) -> api::ExitCause {
    let Event::TaskExit {
        cause: Some(word), ..
    } = event
    else {
        return api::ExitCause::Unspecified;
    };
    // Records and events spell it alike.
    let known = serde_json::from_value(serde_json::Value::from(word.as_str()));
    known.map_or(api::ExitCause::Unspecified, cause)
}

const fn cause(cause: ExitCause) -> api::ExitCause {
    match cause {
        ExitCause::WorkloadOom => api::ExitCause::WorkloadOom,
        ExitCause::AncestorOom => api::ExitCause::AncestorOom,
        ExitCause::HostOom => api::ExitCause::HostOom,
        ExitCause::ShimCrash => api::ExitCause::ShimCrash,
        ExitCause::ShimOom => api::ExitCause::ShimOom,
        ExitCause::KilledByRuntime => api::ExitCause::KilledByRuntime,
        ExitCause::KilledByOther => api::ExitCause::KilledByOther,
        ExitCause::Exited => api::ExitCause::Exited,
        ExitCause::Unknown => api::ExitCause::Unknown,
    }
}

/// The facts behind the cause, one sentence each.
fn evidence(record: &ExitRecord) -> Vec<String> {
    let status = record.raw_status.map_or_else(
        || "Nobody could collect the wait status.".to_owned(),
        |status| format!("The raw wait status was {status:#x}."),
    );
    let host = record.host_oom_kills.filter(|kills| *kills > 0);
    let host = host.map(|kills| format!("The whole machine counted {kills} OOM kills meanwhile."));
    std::iter::once(status)
        .chain(record.memory.iter().filter_map(memory))
        .chain(host)
        .collect()
}

/// What a group counted, if it counted anything.
fn memory(group: &MemoryDelta) -> Option<String> {
    let kills = group.oom_kill.filter(|kills| *kills > 0)?;
    let limit = group
        .limit_bytes
        .map(|limit| format!(" at a limit of {limit} bytes"))
        .unwrap_or_default();
    Some(format!(
        "Group {} counted {kills} OOM kills{limit}.",
        group.path
    ))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use orlop_types::exit::Moment;

    use super::*;

    fn ended(raw_status: Option<i32>, memory: Vec<MemoryDelta>) -> api::Exit {
        let record = ExitRecord {
            pid: 7,
            raw_status,
            exit_status: 137,
            started_at: Moment::default(),
            exited_at: Moment::default(),
            cause: ExitCause::WorkloadOom,
            memory,
            host_oom_kills: None,
        };
        let end = Exit {
            code: 137,
            at: SystemTime::UNIX_EPOCH,
            cause: record.cause,
            record: Some(record),
        };
        exit(7, &end)
    }

    #[test]
    fn an_exit_with_137_and_a_kill_are_told_apart() {
        assert_eq!(ended(Some(137 << 8), Vec::new()).signal, 0);
        assert_eq!(ended(Some(9), Vec::new()).signal, 9);
        assert_eq!(ended(None, Vec::new()).wait_status, None);
    }

    #[test]
    fn the_groups_counters_are_the_evidence() {
        let group = MemoryDelta {
            path: "/orlop/web".to_owned(),
            oom_kill: Some(1),
            limit_bytes: Some(4096),
            ..MemoryDelta::default()
        };
        let exit = ended(Some(9), vec![group]);
        assert_eq!((exit.oom_kills, exit.memory_limit_bytes), (1, 4096));
        assert_eq!(
            exit.evidence[1],
            "Group /orlop/web counted 1 OOM kills at a limit of 4096 bytes."
        );
    }
}

//! What a container may use. In CRI zero leaves a limit as it is.

use orlop_api::runtime::v1 as api;
use orlop_runtime::spec::Limits;
use tonic::Status;

use crate::status;

/// Limits of a message; a negative amount of swap or processor time is any.
///
/// # Errors
/// `INVALID_ARGUMENT` for a number that no limit can be.
pub(crate) fn limits(message: api::LinuxContainerResources) -> Result<Limits, Status> {
    let pages = message.hugepage_limits.into_iter();
    Ok(Limits {
        memory_bytes_max: amount("memory_limit_in_bytes", message.memory_limit_in_bytes)?,
        memory_and_swap_bytes_max: match message.memory_swap_limit_in_bytes {
            -1 => Some(u64::MAX),
            bytes => amount("memory_swap_limit_in_bytes", bytes)?,
        },
        cpu_quota_micros: Some(message.cpu_quota).filter(|quota| *quota != 0),
        cpu_period_micros: amount("cpu_period", message.cpu_period)?,
        cpu_shares: amount("cpu_shares", message.cpu_shares)?,
        cpuset_cpus: Some(message.cpuset_cpus).filter(|list| !list.is_empty()),
        cpuset_mems: Some(message.cpuset_mems).filter(|list| !list.is_empty()),
        // The kubelet names every size there is, most with zero pages.
        hugepage_bytes_max: pages.map(|page| (page.page_size, page.limit)).collect(),
        unified: message.unified,
        oom_score_adjustment: Some(
            i32::try_from(message.oom_score_adj)
                .map_err(|_error| out_of_range("oom_score_adj", message.oom_score_adj))?,
        ),
        ..Limits::default()
    })
}

/// Limits as a message.
pub(super) fn message(limits: &Limits) -> api::LinuxContainerResources {
    let signed = |value: Option<u64>| value.map_or(0, |value| i64::try_from(value).unwrap_or(-1));
    let pages = limits.hugepage_bytes_max.iter();
    api::LinuxContainerResources {
        cpu_period: signed(limits.cpu_period_micros),
        cpu_quota: limits.cpu_quota_micros.unwrap_or(0),
        cpu_shares: signed(limits.cpu_shares),
        memory_limit_in_bytes: signed(limits.memory_bytes_max),
        oom_score_adj: limits.oom_score_adjustment.map_or(0, i64::from),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: pages
            .map(|(page_size, limit)| api::HugepageLimit {
                page_size: page_size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: limits.unified.clone(),
        memory_swap_limit_in_bytes: signed(limits.memory_and_swap_bytes_max),
    }
}

fn amount(field: &str, value: i64) -> Result<Option<u64>, Status> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_negative) => Err(out_of_range(field, value)),
    }
}

fn out_of_range(field: &str, value: i64) -> Status {
    status::invalid_text(format!("{field} cannot be {value}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn limits_come_back_as_they_went() {
        let given = api::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: -998,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![api::HugepageLimit {
                page_size: "2MB".into(),
                limit: 4,
            }],
            unified: [("memory.high".to_owned(), "max".to_owned())].into(),
            memory_swap_limit_in_bytes: -1,
        };
        assert_eq!(message(&limits(given.clone()).unwrap()), given);
        let none = limits(api::LinuxContainerResources::default()).unwrap();
        let expected = Limits {
            oom_score_adjustment: Some(0),
            ..Limits::default()
        };
        assert_eq!(none, expected);
    }

    #[test]
    fn negative_amounts_are_refused_by_name() {
        let given = api::LinuxContainerResources {
            cpu_shares: -2,
            ..api::LinuxContainerResources::default()
        };
        let refused = limits(given).unwrap_err();
        assert!(refused.message().contains("cpu_shares cannot be -2"));
    }
}

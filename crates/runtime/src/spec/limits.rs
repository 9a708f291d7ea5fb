//! What a container may use.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemoryBuilder,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use serde::{Deserialize, Serialize};

use super::SpecError;

/// The period over which processor quota is counted, in microseconds (the kernel's and Docker's default).
const CPU_PERIOD_MICROS: u64 = 100_000;

/// runc itself needs about this much inside the limit before the process starts (Docker's and containerd's bound).
const MEMORY_BYTES_LEAST: u64 = 6 << 20;

/// The range the kernel takes for the adjustment of the OOM score (proc(5)).
const OOM_SCORE_RANGE: std::ops::RangeInclusive<i32> = -1000..=1000;

/// Limits on what a container may use; what is absent leaves the kernel's default. Kept as JSON with a pod's container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes_max: Option<u64>,
    /// Memory and swap together in bytes, `u64::MAX` for any amount; the memory limit otherwise, so that there is no swap
    /// on top.
    pub memory_and_swap_bytes_max: Option<u64>,
    /// Processor time in thousandths of a processor; a quota goes before it.
    pub cpu_millis_max: Option<u32>,
    /// Processor time in each period, in microseconds; negative for any amount.
    pub cpu_quota_micros: Option<i64>,
    /// The period over which the quota is counted, in microseconds.
    pub cpu_period_micros: Option<u64>,
    /// The weight against others when processors are busy; 1024 is one processor's.
    pub cpu_shares: Option<u64>,
    /// Processors to run on, as in `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to take memory from, as in `0-1`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// Huge pages in bytes, by page size as in `2MB`.
    pub hugepage_bytes_max: BTreeMap<String, u64>,
    /// Files of the cgroup and what is written into them; cgroup v2 only.
    pub unified: BTreeMap<String, String>,
    /// How soon it is killed when the machine has no memory left: -1000 (never) to 1000.
    pub oom_score_adjustment: Option<i32>,
}

impl Limits {
    /// Refuses a memory limit in which no OCI runtime is sure to start anything. Kubernetes allows such limits, and some
    /// programs live with them, so that this is for people's own containers.
    ///
    /// # Errors
    /// [`SpecError::MemoryTooSmall`].
    pub fn check_room(&self) -> Result<(), SpecError> {
        match self.memory_bytes_max {
            Some(given) if given < MEMORY_BYTES_LEAST => Err(SpecError::MemoryTooSmall {
                given,
                least: MEMORY_BYTES_LEAST,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses what the kernel would refuse, by name.
    ///
    /// # Errors
    /// [`SpecError::BadLimit`].
    pub fn check(&self) -> Result<(), SpecError> {
        let bad = |name: &str, fault| SpecError::BadLimit {
            name: name.to_owned(),
            fault,
        };
        let both = (self.memory_bytes_max, self.memory_and_swap_bytes_max);
        if let (Some(memory), Some(with_swap)) = both
            && with_swap < memory
        {
            return Err(bad("memory and swap", "it is below the memory limit"));
        }
        if self
            .cpu_period_micros
            .is_some_and(|micros| !(1_000..=1_000_000).contains(&micros))
        {
            return Err(bad("processor period", "it has to be 1 ms to 1 s"));
        }
        if self
            .cpu_quota_micros
            .is_some_and(|micros| (0..1_000).contains(&micros))
        {
            return Err(bad("processor quota", "it has to be 1 ms or more"));
        }
        if self
            .oom_score_adjustment
            .is_some_and(|score| !OOM_SCORE_RANGE.contains(&score))
        {
            return Err(bad("OOM score adjustment", "it has to be -1000 to 1000"));
        }
        let lists = [
            ("processors", &self.cpuset_cpus),
            ("memory nodes", &self.cpuset_mems),
        ];
        for (name, list) in lists {
            if list.as_deref().is_some_and(|list| !is_number_list(list)) {
                return Err(bad(name, "it has to be a list such as 0-2,7"));
            }
        }
        let is_file = |name: &String| name.contains('.') && !name.contains('/');
        match self.unified.keys().find(|name| !is_file(name)) {
            Some(name) => Err(bad(name, "it is not the name of a cgroup's file")),
            None => Ok(()),
        }
    }

    /// These limits, and what is absent in them from `before`.
    #[must_use]
    pub fn over(self, before: &Self) -> Self {
        let before = before.clone();
        // A new memory limit alone sets swap anew as well, as at the container's start.
        let swap_before = match self.memory_bytes_max {
            Some(_) => None,
            None => before.memory_and_swap_bytes_max,
        };
        Self {
            memory_bytes_max: self.memory_bytes_max.or(before.memory_bytes_max),
            memory_and_swap_bytes_max: self.memory_and_swap_bytes_max.or(swap_before),
            cpu_millis_max: self.cpu_millis_max.or(before.cpu_millis_max),
            cpu_quota_micros: self.cpu_quota_micros.or(before.cpu_quota_micros),
            cpu_period_micros: self.cpu_period_micros.or(before.cpu_period_micros),
            cpu_shares: self.cpu_shares.or(before.cpu_shares),
            cpuset_cpus: self.cpuset_cpus.or(before.cpuset_cpus),
            cpuset_mems: self.cpuset_mems.or(before.cpuset_mems),
            pids_max: self.pids_max.or(before.pids_max),
            hugepage_bytes_max: merged(before.hugepage_bytes_max, self.hugepage_bytes_max),
            unified: merged(before.unified, self.unified),
            oom_score_adjustment: self.oom_score_adjustment.or(before.oom_score_adjustment),
        }
    }

    /// The part of an OCI spec, without devices.
    pub(crate) fn resources(&self, limits_swap: bool) -> Result<LinuxResources, SpecError> {
        self.check()?;
        let mut resources = LinuxResourcesBuilder::default().build().map_err(model)?;
        if let Some(bytes) = self.memory_bytes_max {
            let mut memory = LinuxMemoryBuilder::default()
                .limit(signed(bytes))
                .build()
                .map_err(model)?;
            let swap = self.memory_and_swap_bytes_max.unwrap_or(bytes);
            memory.set_swap(limits_swap.then_some(signed(swap)));
            resources.set_memory(Some(memory));
        }
        self.set_cpu(&mut resources)?;
        if let Some(count) = self.pids_max {
            let pids = LinuxPidsBuilder::default().limit(i64::from(count));
            resources.set_pids(Some(pids.build().map_err(model)?));
        }
        if !self.hugepage_bytes_max.is_empty() {
            let limits = self.hugepage_bytes_max.iter().map(hugepages);
            resources.set_hugepage_limits(Some(limits.collect::<Result<_, _>>()?));
        }
        if !self.unified.is_empty() {
            let unified = self.unified.clone().into_iter().collect();
            resources.set_unified(Some(unified));
        }
        Ok(resources)
    }

    fn set_cpu(&self, resources: &mut LinuxResources) -> Result<(), SpecError> {
        let of_millis = self.cpu_millis_max.map(|millis| i64::from(millis) * 100);
        let quota = self.cpu_quota_micros.or(of_millis);
        let period = self
            .cpu_period_micros
            .or(of_millis.map(|_| CPU_PERIOD_MICROS));
        let mut cpu = LinuxCpuBuilder::default().build().map_err(model)?;
        cpu.set_quota(quota)
            .set_period(period)
            .set_shares(self.cpu_shares)
            .set_cpus(self.cpuset_cpus.clone())
            .set_mems(self.cpuset_mems.clone());
        if cpu != LinuxCpuBuilder::default().build().map_err(model)? {
            resources.set_cpu(Some(cpu));
        }
        Ok(())
    }
}

fn hugepages((size, bytes): (&String, &u64)) -> Result<LinuxHugepageLimit, SpecError> {
    LinuxHugepageLimitBuilder::default()
        .page_size(size.clone())
        .limit(signed(*bytes))
        .build()
        .map_err(model)
}

/// More than half of what 64 bits count is any amount: -1 for OCI runtimes.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(-1)
}

/// `0-2,7` (cpuset(7), "List format").
fn is_number_list(list: &str) -> bool {
    list.split(',').all(|part| {
        let mut ends = part.splitn(2, '-').map(str::parse::<u32>);
        match (ends.next(), ends.next()) {
            (Some(Ok(_)), None) => true,
            (Some(Ok(first)), Some(Ok(last))) => first <= last,
            _ => false,
        }
    })
}

fn merged<V>(mut before: BTreeMap<String, V>, over: BTreeMap<String, V>) -> BTreeMap<String, V> {
    before.extend(over);
    before
}

const fn model(source: oci_spec::OciSpecError) -> SpecError {
    SpecError::Model {
        part: "resources",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(limits: &Limits) -> serde_json::Value {
        let mut json = serde_json::to_value(limits.resources(true).unwrap()).unwrap();
        json.as_object_mut().unwrap().remove("devices");
        json
    }

    #[test]
    fn every_limit_has_its_place_in_the_spec() {
        let limits = Limits {
            memory_bytes_max: Some(64 << 20),
            cpu_quota_micros: Some(50_000),
            cpu_period_micros: Some(100_000),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids_max: Some(9),
            hugepage_bytes_max: BTreeMap::from([("2MB".into(), 4 << 20)]),
            unified: BTreeMap::from([("memory.high".into(), "1".into())]),
            ..Limits::default()
        };
        let expected = serde_json::json!({
            "memory": {"limit": 67_108_864, "swap": 67_108_864},
            "cpu": {"quota": 50_000, "period": 100_000, "shares": 512, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 9},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
            "unified": {"memory.high": "1"},
        });
        assert_eq!(json(&limits), expected);
        assert_eq!(json(&Limits::default()), serde_json::json!({}));
    }

    #[test]
    fn swap_without_end_is_minus_one_and_absent_where_it_cannot_be_limited() {
        let limits = Limits {
            memory_bytes_max: Some(1 << 30),
            memory_and_swap_bytes_max: Some(u64::MAX),
            ..Limits::default()
        };
        assert_eq!(json(&limits)["memory"]["swap"], -1);
        let without = limits.resources(false).unwrap();
        assert_eq!(without.memory().unwrap().swap(), None);
    }

    #[test]
    fn thousandths_of_a_processor_become_a_quota() {
        let limits = Limits {
            cpu_millis_max: Some(1500),
            ..Limits::default()
        };
        assert_eq!(
            json(&limits)["cpu"],
            serde_json::json!({"quota": 150_000, "period": 100_000})
        );
    }

    #[test]
    fn impossible_limits_are_named() {
        let none = Limits::default;
        let table = [
            (
                Limits {
                    memory_bytes_max: Some(2),
                    memory_and_swap_bytes_max: Some(1),
                    ..none()
                },
                "swap",
            ),
            (
                Limits {
                    cpu_period_micros: Some(10),
                    ..none()
                },
                "period",
            ),
            (
                Limits {
                    cpu_quota_micros: Some(10),
                    ..none()
                },
                "quota",
            ),
            (
                Limits {
                    oom_score_adjustment: Some(1001),
                    ..none()
                },
                "OOM score",
            ),
            (
                Limits {
                    cpuset_cpus: Some("2-1".into()),
                    ..none()
                },
                "processors",
            ),
            (
                Limits {
                    cpuset_mems: Some("x".into()),
                    ..none()
                },
                "memory nodes",
            ),
            (
                Limits {
                    unified: BTreeMap::from([("../x.y".into(), String::new())]),
                    ..none()
                },
                "../x.y",
            ),
        ];
        for (limits, expected) in table {
            let error = limits.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let negative = Limits {
            cpu_quota_micros: Some(-1),
            ..none()
        };
        assert!(negative.check().is_ok());
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let before = Limits {
            memory_bytes_max: Some(100),
            memory_and_swap_bytes_max: Some(200),
            cpu_shares: Some(5),
            ..Limits::default()
        };
        let more_cpu = Limits {
            cpu_shares: Some(7),
            ..Limits::default()
        };
        let after = more_cpu.over(&before);
        assert_eq!(
            (after.cpu_shares, after.memory_and_swap_bytes_max),
            (Some(7), Some(200))
        );
        let more_memory = Limits {
            memory_bytes_max: Some(300),
            ..Limits::default()
        };
        let after = more_memory.over(&before);
        assert_eq!(
            (after.memory_bytes_max, after.memory_and_swap_bytes_max),
            (Some(300), None)
        );
    }
}

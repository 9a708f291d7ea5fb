//! What containers and pods use, as CRI's messages have it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use orlop_api::runtime::v1 as api;
use orlop_runtime::figures::{Figures, Pressure};

use crate::translate::nanos;

/// Rates over less than this are noise.
const RATE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Samples of what has not been asked for in this time are forgotten.
const SAMPLE_LIFETIME: Duration = Duration::from_secs(600);

/// Processor time at the last sample of everything that was asked for lately, so that rates can be told.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<String, Sample>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    taken_at: SystemTime,
    used_nanos: u64,
    nanos_per_second: Option<u64>,
}

impl Rates {
    /// Nanoseconds of processor time per second since the last sample of `id`; `None` at the first.
    fn rate(&self, id: &str, taken_at: SystemTime, used_nanos: u64) -> Option<u64> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|_, sample| elapsed(sample.taken_at, taken_at) < SAMPLE_LIFETIME);
        let last = samples.get(id).copied();
        let rate = match last {
            Some(last) if elapsed(last.taken_at, taken_at) < RATE_INTERVAL_MIN => {
                return last.nanos_per_second;
            }
            Some(last) => rate_between(last, taken_at, used_nanos),
            None => None,
        };
        let sample = Sample {
            taken_at,
            used_nanos,
            nanos_per_second: rate,
        };
        samples.insert(id.to_owned(), sample);
        rate
    }
}

fn elapsed(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

fn rate_between(last: Sample, taken_at: SystemTime, used_nanos: u64) -> Option<u64> {
    let used = u128::from(used_nanos.checked_sub(last.used_nanos)?);
    let elapsed = elapsed(last.taken_at, taken_at).as_nanos();
    u64::try_from(used * 1_000_000_000 / elapsed.max(1)).ok()
}

/// A number that may be absent.
pub(crate) fn value(value: Option<u64>) -> Option<api::UInt64Value> {
    value.map(|value| api::UInt64Value { value })
}

/// Processor time of `id`.
pub(crate) fn cpu(rates: &Rates, id: &str, figures: &Figures) -> Option<api::CpuUsage> {
    let cpu = figures.cgroup.cpu.as_ref()?;
    Some(api::CpuUsage {
        timestamp: nanos(Some(figures.taken_at)),
        usage_core_nano_seconds: value(Some(cpu.usage_ns)),
        usage_nano_cores: value(rates.rate(id, figures.taken_at, cpu.usage_ns)),
        psi: cpu.pressure.map(pressure),
    })
}

/// Memory. The working set leaves out the file cache that the kernel drops first, as the kubelet's evictions count.
pub(crate) fn memory(figures: &Figures) -> Option<api::MemoryUsage> {
    let memory = figures.cgroup.memory.as_ref()?;
    // Version 1 has the sums over children under names of their own.
    let detail = |name: &str| {
        let total = memory.details.get(&format!("total_{name}"));
        total.or_else(|| memory.details.get(name)).copied()
    };
    let working_set = memory
        .usage_bytes
        .saturating_sub(detail("inactive_file").unwrap_or(0));
    let available = memory
        .limit_bytes
        .map(|limit| limit.saturating_sub(working_set));
    Some(api::MemoryUsage {
        timestamp: nanos(Some(figures.taken_at)),
        working_set_bytes: value(Some(working_set)),
        available_bytes: value(available),
        usage_bytes: value(Some(memory.usage_bytes)),
        rss_bytes: value(detail("rss").or_else(|| detail("anon"))),
        page_faults: value(detail("pgfault")),
        major_page_faults: value(detail("pgmajfault")),
        psi: memory.pressure.map(pressure),
    })
}

/// Swap. Version 1 accounts it together with memory only, so memory is taken off there.
pub(crate) fn swap(figures: &Figures) -> Option<api::SwapUsage> {
    let memory = figures.cgroup.memory.as_ref()?;
    let has_own_figure = figures.cgroup.oom_control.is_none();
    let alone = |both: u64, memory_bytes: u64| {
        if has_own_figure {
            both
        } else {
            both.saturating_sub(memory_bytes)
        }
    };
    let used = memory
        .swap_usage_bytes
        .map(|bytes| alone(bytes, memory.usage_bytes));
    let limit = memory
        .swap_limit_bytes
        .map(|bytes| alone(bytes, memory.limit_bytes.unwrap_or(0)));
    let available = limit
        .zip(used)
        .map(|(limit, used)| limit.saturating_sub(used));
    Some(api::SwapUsage {
        timestamp: nanos(Some(figures.taken_at)),
        swap_available_bytes: value(available),
        swap_usage_bytes: value(used),
    })
}

/// The interfaces of a pod; `eth0` is the one that counts.
pub(crate) fn network(figures: &Figures) -> Option<api::NetworkUsage> {
    let mut interfaces: Vec<_> = figures
        .interfaces
        .iter()
        .map(|(name, interface)| api::NetworkInterfaceUsage {
            name: name.clone(),
            rx_bytes: value(Some(interface.received_bytes)),
            rx_errors: value(Some(interface.receive_errors)),
            tx_bytes: value(Some(interface.sent_bytes)),
            tx_errors: value(Some(interface.send_errors)),
        })
        .collect();
    let default = interfaces
        .iter()
        .position(|interface| interface.name == "eth0")
        .unwrap_or(0);
    if interfaces.is_empty() {
        return None;
    }
    let default_interface = Some(interfaces.swap_remove(default));
    Some(api::NetworkUsage {
        timestamp: nanos(Some(figures.taken_at)),
        default_interface,
        interfaces,
    })
}

/// Processes and threads.
pub(crate) fn processes(figures: &Figures) -> Option<api::ProcessUsage> {
    let pids = figures.cgroup.pids.as_ref()?;
    Some(api::ProcessUsage {
        timestamp: nanos(Some(figures.taken_at)),
        process_count: value(Some(pids.current)),
    })
}

/// Shares of time in per cent; totals in nanoseconds, where the kernel has microseconds.
fn pressure(of: Pressure) -> api::PsiStats {
    let data = |(avg10, avg60, avg300, total_micros): (f64, f64, f64, u64)| api::PsiData {
        total: total_micros.saturating_mul(1000),
        avg10,
        avg60,
        avg300,
    };
    api::PsiStats {
        full: Some(data(of.full)),
        some: Some(data(of.some)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use orlop_runtime::figures::{InterfaceFigures, MemoryStats, Stats};

    use super::*;

    fn figures(cgroup: Stats) -> Figures {
        Figures {
            taken_at: SystemTime::UNIX_EPOCH,
            cgroup,
            interfaces: BTreeMap::new(),
            descriptors: None,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_rate_is_told_from_the_second_sample_on() {
        let rates = Rates::default();
        assert_eq!(rates.rate("a", at(0), 0), None);
        assert_eq!(rates.rate("a", at(2), 1_000_000_000), Some(500_000_000));
        assert_eq!(
            rates.rate("a", at(2), 9_000_000_000),
            Some(500_000_000),
            "too soon"
        );
        assert_eq!(
            rates.rate("a", at(3), 0),
            None,
            "the container was restarted"
        );
        assert_eq!(rates.rate("b", at(3), 7), None);
    }

    #[test]
    fn the_working_set_leaves_out_inactive_files_in_both_versions() {
        for name in ["inactive_file", "total_inactive_file"] {
            let memory = MemoryStats {
                usage_bytes: 100,
                limit_bytes: Some(200),
                details: BTreeMap::from([(name.to_owned(), 30)]),
                ..MemoryStats::default()
            };
            let stats = Stats {
                memory: Some(memory),
                ..Stats::default()
            };
            let usage = memory_usage(stats);
            assert_eq!(usage.working_set_bytes.unwrap().value, 70);
            assert_eq!(usage.available_bytes.unwrap().value, 130);
        }
    }

    fn memory_usage(stats: Stats) -> api::MemoryUsage {
        memory(&figures(stats)).unwrap()
    }

    #[test]
    fn eth0_is_the_default_interface() {
        let mut of = figures(Stats::default());
        assert!(network(&of).is_none());
        for name in ["eth0", "bond0"] {
            of.interfaces
                .insert(name.to_owned(), InterfaceFigures::default());
        }
        let usage = network(&of).unwrap();
        assert_eq!(usage.default_interface.unwrap().name, "eth0");
        assert_eq!(usage.interfaces.len(), 1);
    }
}

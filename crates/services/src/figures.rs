//! Figures of running containers, from the cgroup messages that shims send.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use orlop_api::io::containerd::cgroups::{v1, v2};
use orlop_api::orlop::v1 as api;
use orlop_api::{Any, any};
use orlop_base::clock::SharedClock;
use orlop_runtime::Runtime;
use orlop_types::{ContainerId, Namespace};
use tonic::Status;

use crate::status;
use crate::translate::{parse, timestamp};

/// The shortest time between two samples: each asks every shim.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Cgroups write "no limit" as the largest number, or close to it.
const NO_LIMIT: u64 = 1 << 62;

/// Takes samples of one namespace's containers.
pub(crate) struct Sampler {
    pub(crate) runtime: Runtime,
    pub(crate) clock: SharedClock,
    pub(crate) namespace: Namespace,
}

/// What was asked for.
struct Sampling {
    sampler: Sampler,
    /// Empty: every running container.
    ids: Vec<ContainerId>,
    interval: Option<Duration>,
    taken: VecDeque<api::StatsResponse>,
    has_begun: bool,
}

/// One sample for each container, or one each interval.
///
/// # Errors
/// An id or the interval is not valid.
pub(crate) fn samples(
    sampler: Sampler,
    wanted: api::StatsRequest,
) -> Result<impl Stream<Item = Result<api::StatsResponse, Status>> + Send, Status> {
    let ids = wanted.ids.iter().map(|id| parse(id));
    let interval = wanted.interval.map(Duration::try_from).transpose();
    let interval = interval.map_err(|error| status::invalid(&error))?;
    let sampling = Sampling {
        sampler,
        ids: ids.collect::<Result<_, _>>()?,
        interval: interval.map(|interval| interval.max(INTERVAL_MIN)),
        taken: VecDeque::new(),
        has_begun: false,
    };
    Ok(stream::unfold(sampling, |mut sampling| async move {
        let sample = sampling.next().await?;
        Some((Ok(sample), sampling))
    }))
}

impl Sampling {
    async fn next(&mut self) -> Option<api::StatsResponse> {
        loop {
            if let Some(sample) = self.taken.pop_front() {
                return Some(sample);
            }
            if self.has_begun {
                self.sampler.clock.sleep(self.interval?).await;
            }
            self.has_begun = true;
            self.taken = self.sampler.round(&self.ids).await;
            if self.interval.is_none() && self.taken.is_empty() {
                return None;
            }
        }
    }
}

impl Sampler {
    async fn round(&self, ids: &[ContainerId]) -> VecDeque<api::StatsResponse> {
        let mut taken = VecDeque::new();
        for task in self.runtime.list(&self.namespace) {
            let is_wanted = ids.is_empty() || ids.contains(&task.container);
            if is_wanted && task.exit.is_none() {
                taken.extend(self.sample(&task.container).await);
            }
        }
        taken
    }

    /// A sample of one container; nothing for one that is going away.
    async fn sample(&self, id: &ContainerId) -> Option<api::StatsResponse> {
        match self.runtime.stats(&self.namespace, id).await {
            Ok(figures) => {
                let mut sample = decode(&figures?, id, self.clock.wall())?;
                let shim = self.runtime.shim_memory(&self.namespace, id).await;
                // A shim that goes away in between takes its container's next sample along.
                sample.shim_memory_bytes = shim.ok().flatten().unwrap_or(0);
                Some(sample)
            }
            Err(error) => {
                tracing::debug!(%error, container = %id, "a task has no figures");
                None
            }
        }
    }
}

fn decode(figures: &Any, id: &ContainerId, now: SystemTime) -> Option<api::StatsResponse> {
    let sample = if any::is::<v2::Metrics>(figures) {
        of_v2(&any::unpack(figures).ok()?)
    } else {
        of_v1(&any::unpack(figures).ok()?)
    };
    Some(api::StatsResponse {
        time: Some(timestamp(now)),
        id: id.to_string(),
        ..sample
    })
}

fn of_v2(metrics: &v2::Metrics) -> api::StatsResponse {
    let cpu = metrics.cpu.unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let devices = metrics.io.iter().flat_map(|io| &io.usage);
    api::StatsResponse {
        cpu_usage_nanos: cpu.usage_usec.saturating_mul(1000),
        cpu_throttled_nanos: cpu.throttled_usec.saturating_mul(1000),
        memory_bytes: memory.usage,
        memory_working_set_bytes: memory.usage.saturating_sub(memory.inactive_file),
        memory_peak_bytes: memory.max_usage,
        memory_limit_bytes: limit(memory.usage_limit),
        oom_kills: metrics
            .memory_events
            .as_ref()
            .map_or(0, |events| events.oom_kill),
        pids: metrics.pids.as_ref().map_or(0, |pids| pids.current),
        io_read_bytes: devices.clone().map(|device| device.rbytes).sum(),
        io_written_bytes: devices.map(|device| device.wbytes).sum(),
        ..api::StatsResponse::default()
    }
}

fn of_v1(metrics: &v1::Metrics) -> api::StatsResponse {
    let cpu = metrics.cpu.clone().unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let usage = memory.usage.unwrap_or_default();
    let control = metrics.memory_oom_control.as_ref();
    api::StatsResponse {
        cpu_usage_nanos: cpu.usage.map_or(0, |usage| usage.total),
        cpu_throttled_nanos: cpu.throttling.map_or(0, |throttle| throttle.throttled_time),
        memory_bytes: usage.usage,
        memory_working_set_bytes: usage.usage.saturating_sub(memory.total_inactive_file),
        memory_peak_bytes: usage.max,
        memory_limit_bytes: limit(usage.limit),
        oom_kills: control.map_or(0, |control| control.oom_kill),
        pids: metrics.pids.as_ref().map_or(0, |pids| pids.current),
        io_read_bytes: transferred(metrics, "read"),
        io_written_bytes: transferred(metrics, "write"),
        ..api::StatsResponse::default()
    }
}

/// Bytes of one kind of operation over all devices.
fn transferred(metrics: &v1::Metrics, operation: &str) -> u64 {
    let entries = metrics.blkio.iter();
    let entries = entries.flat_map(|io| &io.io_service_bytes_recursive);
    let matching = entries.filter(|entry| entry.op.eq_ignore_ascii_case(operation));
    matching.map(|entry| entry.value).sum()
}

const fn limit(bytes: u64) -> u64 {
    if bytes >= NO_LIMIT { 0 } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(figures: &Any) -> api::StatsResponse {
        let id = "web".parse().unwrap();
        decode(figures, &id, SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn both_versions_of_cgroups_give_the_same_figures() {
        let first = v1::Metrics {
            memory: Some(v1::MemoryStat {
                total_inactive_file: 30,
                usage: Some(v1::MemoryEntry {
                    limit: 1 << 63,
                    usage: 100,
                    max: 120,
                    failcnt: 0,
                }),
                ..v1::MemoryStat::default()
            }),
            cpu: Some(v1::CpuStat {
                usage: Some(v1::CpuUsage {
                    total: 5000,
                    ..v1::CpuUsage::default()
                }),
                throttling: None,
            }),
            ..v1::Metrics::default()
        };
        let second = v2::Metrics {
            memory: Some(v2::MemoryStat {
                inactive_file: 30,
                usage: 100,
                max_usage: 120,
                usage_limit: u64::MAX,
                ..v2::MemoryStat::default()
            }),
            cpu: Some(v2::CpuStat {
                usage_usec: 5,
                ..v2::CpuStat::default()
            }),
            ..v2::Metrics::default()
        };
        let sample = decoded(&any::pack(&first));
        assert_eq!(sample, decoded(&any::pack(&second)));
        assert_eq!(sample.memory_working_set_bytes, 70);
        assert_eq!(
            (sample.memory_limit_bytes, sample.cpu_usage_nanos),
            (0, 5000)
        );
    }

    #[test]
    fn figures_of_an_unknown_kind_are_left_out() {
        let id = "web".parse().unwrap();
        let other = Any::default();
        assert_eq!(decode(&other, &id, SystemTime::UNIX_EPOCH), None);
    }
}

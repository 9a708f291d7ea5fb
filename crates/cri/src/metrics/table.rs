//! The metrics, one line each.

use std::time::SystemTime;

use orlop_api::runtime::v1 as api;
use orlop_api::runtime::v1::MetricType::{Counter, Gauge};
use orlop_runtime::figures::{Figures, InterfaceFigures, IoStats};

use super::{BASE_LABELS, ContainerSample};

/// Values with the labels that tell them apart. A metric that the kernel here does not account has none.
type Points = Vec<(Vec<String>, u64)>;

/// A metric of what `S` is a sample of.
pub(super) struct Metric<S> {
    pub(super) name: &'static str,
    help: &'static str,
    pub(super) kind: api::MetricType,
    /// Labels beyond [`BASE_LABELS`].
    labels: &'static [&'static str],
    pub(super) read: fn(&S) -> Points,
}

impl<S> Metric<S> {
    pub(super) fn descriptor(&self) -> api::MetricDescriptor {
        let keys = BASE_LABELS.iter().chain(self.labels);
        api::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: keys.map(|key| (*key).to_owned()).collect(),
        }
    }
}

const fn metric<S>(
    name: &'static str,
    kind: api::MetricType,
    help: &'static str,
    read: fn(&S) -> Points,
) -> Metric<S> {
    labelled(name, kind, &[], help, read)
}

const fn labelled<S>(
    name: &'static str,
    kind: api::MetricType,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&S) -> Points,
) -> Metric<S> {
    Metric {
        name,
        help,
        kind,
        labels,
        read,
    }
}

/// What a pod's containers share: its network.
#[rustfmt::skip]
pub(super) const OF_PODS: &[Metric<Figures>] = &[
    labelled("container_network_receive_bytes_total", Counter, INTERFACE, "Bytes received.", |f| per_interface(f, |i| i.received_bytes)),
    labelled("container_network_receive_packets_total", Counter, INTERFACE, "Packets received.", |f| per_interface(f, |i| i.received_packets)),
    labelled("container_network_receive_packets_dropped_total", Counter, INTERFACE, "Packets dropped on receipt.", |f| per_interface(f, |i| i.receive_drops)),
    labelled("container_network_receive_errors_total", Counter, INTERFACE, "Packets received with an error.", |f| per_interface(f, |i| i.receive_errors)),
    labelled("container_network_transmit_bytes_total", Counter, INTERFACE, "Bytes sent.", |f| per_interface(f, |i| i.sent_bytes)),
    labelled("container_network_transmit_packets_total", Counter, INTERFACE, "Packets sent.", |f| per_interface(f, |i| i.sent_packets)),
    labelled("container_network_transmit_packets_dropped_total", Counter, INTERFACE, "Packets dropped on sending.", |f| per_interface(f, |i| i.send_drops)),
    labelled("container_network_transmit_errors_total", Counter, INTERFACE, "Packets that could not be sent.", |f| per_interface(f, |i| i.send_errors)),
];

/// What each container has for itself.
#[rustfmt::skip]
pub(super) const OF_CONTAINERS: &[Metric<ContainerSample>] = &[
    metric("container_last_seen", Gauge, "When the container was last seen, in seconds since 1970.", |s| one(seconds_since_epoch(s.figures.taken_at))),
    metric("container_start_time_seconds", Gauge, "When the container was started, in seconds since 1970.", |s| maybe(s.started_at.map(seconds_since_epoch))),
    metric("container_cpu_usage_seconds_total", Counter, "Processor time used, in seconds.", |s| cpu(s, |cpu| seconds(cpu.usage_ns))),
    metric("container_cpu_user_seconds_total", Counter, "Processor time used in user mode, in seconds.", |s| cpu(s, |cpu| seconds(cpu.user_ns))),
    metric("container_cpu_system_seconds_total", Counter, "Processor time used in the kernel, in seconds.", |s| cpu(s, |cpu| seconds(cpu.system_ns))),
    metric("container_cpu_cfs_periods_total", Counter, "Periods of the processor quota that passed.", |s| cpu(s, |cpu| cpu.periods)),
    metric("container_cpu_cfs_throttled_periods_total", Counter, "Periods in which the processor quota was used up.", |s| cpu(s, |cpu| cpu.throttled_periods)),
    metric("container_cpu_cfs_throttled_seconds_total", Counter, "Time spent waiting for the next period, in seconds.", |s| cpu(s, |cpu| seconds(cpu.throttled_ns))),
    metric("container_memory_cache", Gauge, "File cache, in bytes.", |s| detail(s, &["total_cache", "file"])),
    metric("container_memory_rss", Gauge, "Anonymous memory, in bytes.", |s| detail(s, &["total_rss", "anon"])),
    metric("container_memory_kernel_usage", Gauge, "Kernel memory, in bytes.", |s| match memory(s, |m| m.kernel_usage_bytes) { points if points.is_empty() => detail(s, &["kernel"]), points => points }),
    metric("container_memory_mapped_file", Gauge, "Mapped files, in bytes.", |s| detail(s, &["total_mapped_file", "file_mapped"])),
    metric("container_memory_swap", Gauge, "Swap, in bytes.", swap),
    metric("container_memory_failcnt", Counter, "Times the memory limit was reached (cgroup version 1).", |s| memory(s, |m| m.limit_hits)),
    metric("container_memory_usage_bytes", Gauge, "Memory in use with all caches, in bytes.", |s| memory(s, |m| Some(m.usage_bytes))),
    metric("container_memory_max_usage_bytes", Gauge, "The most memory ever in use, in bytes.", |s| memory(s, |m| m.peak_bytes)),
    metric("container_memory_working_set_bytes", Gauge, "Memory in use without caches that are dropped first, in bytes.", working_set),
    metric("container_memory_total_active_file_bytes", Gauge, "File cache used lately, in bytes.", |s| detail(s, &["total_active_file", "active_file"])),
    metric("container_memory_total_inactive_file_bytes", Gauge, "File cache not used lately, in bytes.", |s| detail(s, &["total_inactive_file", "inactive_file"])),
    labelled("container_memory_failures_total", Counter, &["failure_type", "scope"], "Page faults.", page_faults),
    metric("container_oom_events_total", Counter, "Processes killed because the memory limit was reached.", oom_kills),
    labelled("container_fs_usage_bytes", Gauge, DEVICE, "Bytes of the writable layer.", |s| writable_layer(s, |bytes, _| bytes)),
    labelled("container_fs_inodes_used", Gauge, DEVICE, "Inodes of the writable layer.", |s| writable_layer(s, |_, inodes| inodes)),
    labelled("container_fs_reads_bytes_total", Counter, DEVICE, "Bytes read.", |s| per_device(s, |io| io.read_bytes)),
    labelled("container_fs_reads_total", Counter, DEVICE, "Reads.", |s| per_device(s, |io| io.reads)),
    labelled("container_fs_writes_bytes_total", Counter, DEVICE, "Bytes written.", |s| per_device(s, |io| io.write_bytes)),
    labelled("container_fs_writes_total", Counter, DEVICE, "Writes.", |s| per_device(s, |io| io.writes)),
    labelled("container_blkio_device_usage_total", Counter, BLOCK_DEVICE, "Bytes read and written.", block_devices),
    metric("container_processes", Gauge, "Processes and threads.", |s| maybe(s.figures.cgroup.pids.as_ref().map(|pids| pids.current))),
    metric("container_threads", Gauge, "Processes and threads.", |s| maybe(s.figures.cgroup.pids.as_ref().map(|pids| pids.current))),
    metric("container_threads_max", Gauge, "The most processes and threads allowed; none if there is no limit.", |s| maybe(s.figures.cgroup.pids.as_ref().and_then(|pids| pids.limit))),
    metric("container_file_descriptors", Gauge, "Open files of the first process.", |s| maybe(s.figures.descriptors.map(|(files, _)| files))),
    metric("container_sockets", Gauge, "Open sockets of the first process.", |s| maybe(s.figures.descriptors.map(|(_, sockets)| sockets))),
    metric("container_spec_memory_limit_bytes", Gauge, "The memory limit in bytes; 0 for none.", |s| memory(s, |m| Some(m.limit_bytes.unwrap_or(0)))),
    metric("container_spec_memory_swap_limit_bytes", Gauge, "The limit of memory and swap in bytes; 0 for none.", |s| memory(s, |m| Some(m.swap_limit_bytes.unwrap_or(0)))),
];

const INTERFACE: &[&str] = &["interface"];
const DEVICE: &[&str] = &["device"];
const BLOCK_DEVICE: &[&str] = &["device", "major", "minor", "operation"];

fn one(value: u64) -> Points {
    vec![(Vec::new(), value)]
}

fn maybe(value: Option<u64>) -> Points {
    value.map(one).unwrap_or_default()
}

const fn seconds(nanos: u64) -> u64 {
    nanos / 1_000_000_000
}

fn seconds_since_epoch(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn per_interface(figures: &Figures, read: fn(&InterfaceFigures) -> u64) -> Points {
    let interfaces = figures.interfaces.iter();
    let points = interfaces.map(|(name, interface)| (vec![name.clone()], read(interface)));
    points.collect()
}

fn cpu(sample: &ContainerSample, read: fn(&orlop_runtime::figures::CpuStats) -> u64) -> Points {
    maybe(sample.figures.cgroup.cpu.as_ref().map(read))
}

fn memory(
    sample: &ContainerSample,
    read: fn(&orlop_runtime::figures::MemoryStats) -> Option<u64>,
) -> Points {
    maybe(sample.figures.cgroup.memory.as_ref().and_then(read))
}

/// The first of several names that `memory.stat` has: versions 1 and 2 call them differently.
fn detail_of(sample: &ContainerSample, names: &[&str]) -> Option<u64> {
    let details = &sample.figures.cgroup.memory.as_ref()?.details;
    names.iter().find_map(|name| details.get(*name)).copied()
}

fn detail(sample: &ContainerSample, names: &[&str]) -> Points {
    maybe(detail_of(sample, names))
}

fn working_set(sample: &ContainerSample) -> Points {
    let usage = crate::figures::memory(&sample.figures);
    maybe(
        usage
            .and_then(|usage| usage.working_set_bytes)
            .map(|bytes| bytes.value),
    )
}

fn swap(sample: &ContainerSample) -> Points {
    let usage = crate::figures::swap(&sample.figures);
    maybe(
        usage
            .and_then(|usage| usage.swap_usage_bytes)
            .map(|bytes| bytes.value),
    )
}

/// The first scope is the container itself, the second everything below its cgroup; only version 1 tells them apart.
fn page_faults(sample: &ContainerSample) -> Points {
    let kinds = [("pgfault", "pgfault"), ("pgmajfault", "pgmajfault")];
    let scopes = [("container", ""), ("hierarchy", "total_")];
    let point = |(kind, name): (&str, &str), (scope, prefix): (&str, &str)| {
        let value = detail_of(sample, &[&format!("{prefix}{name}"), name])?;
        Some((vec![kind.to_owned(), scope.to_owned()], value))
    };
    kinds
        .iter()
        .flat_map(|kind| scopes.iter().filter_map(move |scope| point(*kind, *scope)))
        .collect()
}

fn oom_kills(sample: &ContainerSample) -> Points {
    let cgroup = &sample.figures.cgroup;
    let first = cgroup.oom_control.as_ref().map(|control| control.kills);
    maybe(first.or_else(|| cgroup.memory_events.get("oom_kill").copied()))
}

fn writable_layer(sample: &ContainerSample, read: fn(u64, u64) -> u64) -> Points {
    let usage = sample.writable_layer;
    let point = usage.map(|usage| (vec![String::new()], read(usage.bytes, usage.inodes)));
    point.into_iter().collect()
}

fn device(io: &IoStats) -> String {
    format!("{}:{}", io.major, io.minor)
}

fn per_device(sample: &ContainerSample, read: fn(&IoStats) -> u64) -> Points {
    let devices = sample.figures.cgroup.io.iter();
    devices.map(|io| (vec![device(io)], read(io))).collect()
}

fn block_devices(sample: &ContainerSample) -> Points {
    let point = |io: &IoStats, operation: &str, value| {
        let labels = vec![
            device(io),
            io.major.to_string(),
            io.minor.to_string(),
            operation.to_owned(),
        ];
        (labels, value)
    };
    let devices = sample.figures.cgroup.io.iter();
    let points = devices.flat_map(|io| {
        [
            point(io, "Read", io.read_bytes),
            point(io, "Write", io.write_bytes),
        ]
    });
    points.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::descriptors;

    #[test]
    fn every_metric_is_described_once_with_its_labels() {
        let all = descriptors();
        let names: BTreeSet<_> = all.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        for metric in &all {
            assert!(metric.name.starts_with("container_"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            assert_eq!(metric.label_keys[..5], super::BASE_LABELS);
        }
    }
}

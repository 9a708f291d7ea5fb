//! Namespaces, cgroup limits, devices and hidden paths.

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use orlop_types::ContainerId;

use super::{ContainerOptions, Limits, Network, SpecError, cgroup_path};

/// The period over which processor quota is counted, in microseconds (the kernel's and Docker's default).
const CPU_PERIOD_MICROS: u64 = 100_000;

/// runc itself needs about this much inside the limit before the process starts (Docker's and containerd's bound).
const MEMORY_BYTES_LEAST: u64 = 6 << 20;

/// Kernel paths that tell too much, hidden (Docker's and containerd's list).
const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// Kernel paths that would change the host, read-only (Docker's and containerd's list).
const READ_ONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn build(id: &ContainerId, options: &ContainerOptions) -> Result<Linux, SpecError> {
    let words = |list: &[&str]| {
        list.iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    LinuxBuilder::default()
        .namespaces(namespaces(&options.network)?)
        .cgroups_path(cgroup_path(&options.cgroup_parent, id))
        .resources(resources(&options.limits)?)
        .masked_paths(words(MASKED_PATHS))
        .readonly_paths(words(READ_ONLY_PATHS))
        .build()
        .map_err(|source| SpecError::Model {
            part: "linux",
            source,
        })
}

fn namespaces(network: &Network) -> Result<Vec<LinuxNamespace>, SpecError> {
    let mut kinds = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Mount,
    ];
    if *network != Network::Host {
        kinds.extend([LinuxNamespaceType::Uts, LinuxNamespaceType::Network]);
    }
    kinds
        .into_iter()
        .map(|kind| namespace(kind, network))
        .collect()
}

fn namespace(kind: LinuxNamespaceType, network: &Network) -> Result<LinuxNamespace, SpecError> {
    let builder = LinuxNamespaceBuilder::default().typ(kind);
    let builder = match network {
        Network::Pinned(path) if kind == LinuxNamespaceType::Network => builder.path(path.clone()),
        Network::Pinned(_) | Network::Host | Network::None => builder,
    };
    builder.build().map_err(|source| SpecError::Model {
        part: "namespaces",
        source,
    })
}

fn resources(limits: &Limits) -> Result<LinuxResources, SpecError> {
    let model = |source| SpecError::Model {
        part: "resources",
        source,
    };
    let mut builder = LinuxResourcesBuilder::default().devices(vec![no_other_devices()?]);
    if let Some(bytes) = limits.memory_bytes_max {
        let limit = memory_limit(bytes)?;
        let swap = limits.memory_and_swap_bytes_max.map_or(limit, |both| {
            i64::try_from(both.max(bytes)).unwrap_or(i64::MAX)
        });
        builder = builder.memory(
            LinuxMemoryBuilder::default()
                .limit(limit)
                .swap(swap)
                .build()
                .map_err(model)?,
        );
    }
    if limits.cpu_millis_max.is_some() || limits.cpuset_cpus.is_some() {
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(millis) = limits.cpu_millis_max {
            let quota_micros = i64::from(millis) * 100;
            cpu = cpu.quota(quota_micros).period(CPU_PERIOD_MICROS);
        }
        if let Some(cpus) = &limits.cpuset_cpus {
            cpu = cpu.cpus(cpus.clone());
        }
        builder = builder.cpu(cpu.build().map_err(model)?);
    }
    if let Some(count) = limits.pids_max {
        builder = builder.pids(
            LinuxPidsBuilder::default()
                .limit(i64::from(count))
                .build()
                .map_err(model)?,
        );
    }
    builder.build().map_err(model)
}

fn memory_limit(bytes: u64) -> Result<i64, SpecError> {
    if bytes < MEMORY_BYTES_LEAST {
        return Err(SpecError::MemoryTooSmall {
            given: bytes,
            least: MEMORY_BYTES_LEAST,
        });
    }
    // More than the address space holds is the same as no limit.
    Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Everything is denied first; the OCI runtime adds the standard devices on top (runtime-spec, "Default Devices").
fn no_other_devices() -> Result<LinuxDeviceCgroup, SpecError> {
    LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .typ(LinuxDeviceType::A)
        .access("rwm")
        .build()
        .map_err(|source| SpecError::Model {
            part: "devices",
            source,
        })
}

//! Figures of a cgroup as containerd's clients expect them.

use orlop_api::Any;
use orlop_api::any::pack;
use orlop_api::io::containerd::cgroups::{v1, v2};
use orlop_sys::cgroup::{Cgroup, MemoryStats, Pressure, Stats, Version};

/// What version 1 shows where there is no limit.
const NO_LIMIT: u64 = u64::MAX;

/// Reads and packs.
pub(crate) fn metrics(cgroup: &Cgroup) -> Any {
    let stats = cgroup.stats();
    match cgroup.version() {
        Version::V1 => pack(&version_1(&stats)),
        Version::V2 => pack(&version_2(&stats)),
    }
}

fn version_1(stats: &Stats) -> v1::Metrics {
    v1::Metrics {
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|page| v1::HugetlbStat {
                usage: page.usage_bytes,
                max: page.max_bytes,
                failcnt: page.limit_hits,
                pagesize: page.page_size.clone(),
            })
            .collect(),
        pids: stats.pids.as_ref().map(|pids| v1::PidsStat {
            current: pids.current,
            limit: pids.limit.unwrap_or(0),
        }),
        cpu: stats.cpu.as_ref().map(|cpu| v1::CpuStat {
            usage: Some(v1::CpuUsage {
                total: cpu.usage_ns,
                kernel: cpu.system_ns,
                user: cpu.user_ns,
                per_cpu: cpu.per_cpu_ns.clone(),
            }),
            throttling: Some(v1::Throttle {
                periods: cpu.periods,
                throttled_periods: cpu.throttled_periods,
                throttled_time: cpu.throttled_ns,
            }),
        }),
        memory: stats.memory.as_ref().map(memory_1),
        blkio: Some(blkio(stats)),
        memory_oom_control: stats.oom_control.as_ref().map(|oom| v1::MemoryOomControl {
            oom_kill_disable: oom.kill_disable,
            under_oom: oom.under_oom,
            oom_kill: oom.kills,
        }),
        ..v1::Metrics::default()
    }
}

fn memory_1(memory: &MemoryStats) -> v1::MemoryStat {
    let detail = |key: &str| memory.details.get(key).copied().unwrap_or(0);
    let entry = |usage: Option<u64>, limit: Option<u64>| {
        usage.map(|usage| v1::MemoryEntry {
            usage,
            limit: limit.unwrap_or(NO_LIMIT),
            ..v1::MemoryEntry::default()
        })
    };
    v1::MemoryStat {
        cache: detail("cache"),
        rss: detail("rss"),
        rss_huge: detail("rss_huge"),
        mapped_file: detail("mapped_file"),
        dirty: detail("dirty"),
        writeback: detail("writeback"),
        pg_pg_in: detail("pgpgin"),
        pg_pg_out: detail("pgpgout"),
        pg_fault: detail("pgfault"),
        pg_maj_fault: detail("pgmajfault"),
        inactive_anon: detail("inactive_anon"),
        active_anon: detail("active_anon"),
        inactive_file: detail("inactive_file"),
        active_file: detail("active_file"),
        unevictable: detail("unevictable"),
        hierarchical_memory_limit: detail("hierarchical_memory_limit"),
        hierarchical_swap_limit: detail("hierarchical_memsw_limit"),
        total_cache: detail("total_cache"),
        total_rss: detail("total_rss"),
        total_rss_huge: detail("total_rss_huge"),
        total_mapped_file: detail("total_mapped_file"),
        total_dirty: detail("total_dirty"),
        total_writeback: detail("total_writeback"),
        total_pg_pg_in: detail("total_pgpgin"),
        total_pg_pg_out: detail("total_pgpgout"),
        total_pg_fault: detail("total_pgfault"),
        total_pg_maj_fault: detail("total_pgmajfault"),
        total_inactive_anon: detail("total_inactive_anon"),
        total_active_anon: detail("total_active_anon"),
        total_inactive_file: detail("total_inactive_file"),
        total_active_file: detail("total_active_file"),
        total_unevictable: detail("total_unevictable"),
        usage: Some(v1::MemoryEntry {
            usage: memory.usage_bytes,
            limit: memory.limit_bytes.unwrap_or(NO_LIMIT),
            max: memory.peak_bytes.unwrap_or(0),
            failcnt: memory.limit_hits.unwrap_or(0),
        }),
        swap: entry(memory.swap_usage_bytes, memory.swap_limit_bytes),
        kernel: entry(memory.kernel_usage_bytes, None),
        ..v1::MemoryStat::default()
    }
}

fn blkio(stats: &Stats) -> v1::BlkIoStat {
    let mut blkio = v1::BlkIoStat::default();
    for device in &stats.io {
        let entry = |op: &str, value| v1::BlkIoEntry {
            op: op.to_owned(),
            device: String::new(),
            major: device.major,
            minor: device.minor,
            value,
        };
        blkio.io_service_bytes_recursive.extend([
            entry("Read", device.read_bytes),
            entry("Write", device.write_bytes),
        ]);
        blkio
            .io_serviced_recursive
            .extend([entry("Read", device.reads), entry("Write", device.writes)]);
    }
    blkio
}

fn version_2(stats: &Stats) -> v2::Metrics {
    const NS_PER_US: u64 = 1000;
    let event = |key: &str| stats.memory_events.get(key).copied().unwrap_or(0);
    v2::Metrics {
        pids: stats.pids.as_ref().map(|pids| v2::PidsStat {
            current: pids.current,
            limit: pids.limit.unwrap_or(u64::MAX),
        }),
        cpu: stats.cpu.as_ref().map(|cpu| v2::CpuStat {
            usage_usec: cpu.usage_ns / NS_PER_US,
            user_usec: cpu.user_ns / NS_PER_US,
            system_usec: cpu.system_ns / NS_PER_US,
            nr_periods: cpu.periods,
            nr_throttled: cpu.throttled_periods,
            throttled_usec: cpu.throttled_ns / NS_PER_US,
            psi: cpu.pressure.map(psi),
            ..v2::CpuStat::default()
        }),
        memory: stats.memory.as_ref().map(memory_2),
        io: Some(v2::IoStat {
            usage: stats
                .io
                .iter()
                .map(|device| v2::IoEntry {
                    major: device.major,
                    minor: device.minor,
                    rbytes: device.read_bytes,
                    wbytes: device.write_bytes,
                    rios: device.reads,
                    wios: device.writes,
                })
                .collect(),
            ..v2::IoStat::default()
        }),
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|page| v2::HugeTlbStat {
                current: page.usage_bytes,
                max: page.max_bytes,
                pagesize: page.page_size.clone(),
                failcnt: page.limit_hits,
            })
            .collect(),
        memory_events: Some(v2::MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            oom_group_kill: event("oom_group_kill"),
        }),
        ..v2::Metrics::default()
    }
}

fn memory_2(memory: &MemoryStats) -> v2::MemoryStat {
    let detail = |key: &str| memory.details.get(key).copied().unwrap_or(0);
    v2::MemoryStat {
        anon: detail("anon"),
        file: detail("file"),
        kernel_stack: detail("kernel_stack"),
        slab: detail("slab"),
        sock: detail("sock"),
        shmem: detail("shmem"),
        file_mapped: detail("file_mapped"),
        file_dirty: detail("file_dirty"),
        file_writeback: detail("file_writeback"),
        anon_thp: detail("anon_thp"),
        inactive_anon: detail("inactive_anon"),
        active_anon: detail("active_anon"),
        inactive_file: detail("inactive_file"),
        active_file: detail("active_file"),
        unevictable: detail("unevictable"),
        slab_reclaimable: detail("slab_reclaimable"),
        slab_unreclaimable: detail("slab_unreclaimable"),
        pgfault: detail("pgfault"),
        pgmajfault: detail("pgmajfault"),
        workingset_refault: detail("workingset_refault_anon") + detail("workingset_refault_file"),
        workingset_activate: detail("workingset_activate_anon")
            + detail("workingset_activate_file"),
        workingset_nodereclaim: detail("workingset_nodereclaim"),
        pgrefill: detail("pgrefill"),
        pgscan: detail("pgscan"),
        pgsteal: detail("pgsteal"),
        pgactivate: detail("pgactivate"),
        pgdeactivate: detail("pgdeactivate"),
        pglazyfree: detail("pglazyfree"),
        pglazyfreed: detail("pglazyfreed"),
        thp_fault_alloc: detail("thp_fault_alloc"),
        thp_collapse_alloc: detail("thp_collapse_alloc"),
        usage: memory.usage_bytes,
        usage_limit: memory.limit_bytes.unwrap_or(NO_LIMIT),
        max_usage: memory.peak_bytes.unwrap_or(0),
        swap_usage: memory.swap_usage_bytes.unwrap_or(0),
        swap_limit: memory.swap_limit_bytes.unwrap_or(NO_LIMIT),
        psi: memory.pressure.map(psi),
        ..v2::MemoryStat::default()
    }
}

fn psi(pressure: Pressure) -> v2::PsiStats {
    let data = |(avg10, avg60, avg300, total)| v2::PsiData {
        avg10,
        avg60,
        avg300,
        total,
    };
    v2::PsiStats {
        some: Some(data(pressure.some)),
        full: Some(data(pressure.full)),
    }
}

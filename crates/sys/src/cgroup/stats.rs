//! What a group uses.

use std::collections::BTreeMap;

use super::{Cgroup, Version, parse};

/// Figures of one group; what the kernel does not account is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<PidStats>,
    /// Block devices.
    pub io: Vec<IoStats>,
    /// Huge pages, per size.
    pub hugetlb: Vec<HugetlbStats>,
    /// OOM switches and kills (version 1).
    pub oom_control: Option<OomControl>,
    /// `memory.events` (version 2).
    pub memory_events: BTreeMap<String, u64>,
}

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuStats {
    /// All of it.
    pub usage_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Periods of the quota that passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled_ns: u64,
    /// Per processor (version 1).
    pub per_cpu_ns: Vec<u64>,
    /// Stalls (version 2).
    pub pressure: Option<Pressure>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryStats {
    /// In use.
    pub usage_bytes: u64,
    /// The most ever in use.
    pub peak_bytes: Option<u64>,
    /// The limit, if there is one.
    pub limit_bytes: Option<u64>,
    /// Times the limit was reached (version 1).
    pub limit_hits: Option<u64>,
    /// Swap in use; memory and swap together in version 1.
    pub swap_usage_bytes: Option<u64>,
    /// The limit of that.
    pub swap_limit_bytes: Option<u64>,
    /// Kernel memory (version 1).
    pub kernel_usage_bytes: Option<u64>,
    /// `memory.stat`, under the kernel's names.
    pub details: BTreeMap<String, u64>,
    /// Stalls (version 2).
    pub pressure: Option<Pressure>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidStats {
    /// Now.
    pub current: u64,
    /// At most, if limited.
    pub limit: Option<u64>,
}

/// One block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugetlbStats {
    /// As the kernel writes it: `2MB`.
    pub page_size: String,
    /// In use, in bytes.
    pub usage_bytes: u64,
    /// At most, in bytes: the limit in version 2, the most ever used in version 1.
    pub max_bytes: u64,
    /// Refusals.
    pub limit_hits: u64,
}

/// `memory.oom_control` of version 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OomControl {
    /// 1: nobody is killed, processes wait instead.
    pub kill_disable: u64,
    /// 1: processes wait for memory now.
    pub under_oom: u64,
    /// Processes killed.
    pub kills: u64,
}

/// Pressure stall information: shares of time in per cent, and the sum in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some tasks waited: averages over 10, 60, 300 s and the total.
    pub some: (f64, f64, f64, u64),
    /// All tasks waited.
    pub full: (f64, f64, f64, u64),
}

pub(super) fn read(cgroup: &Cgroup) -> Stats {
    let pids = read_pids(cgroup);
    match cgroup.version {
        Version::V1 => Stats {
            cpu: cpu_v1(cgroup),
            memory: memory_v1(cgroup),
            pids,
            io: io_v1(cgroup),
            hugetlb: hugetlb(cgroup),
            oom_control: oom_control(cgroup),
            memory_events: BTreeMap::new(),
        },
        Version::V2 => Stats {
            cpu: cpu_v2(cgroup),
            memory: memory_v2(cgroup),
            pids,
            io: io_v2(cgroup),
            hugetlb: hugetlb(cgroup),
            oom_control: None,
            memory_events: cgroup
                .read("memory", "memory.events")
                .map(|text| parse::flat(&text))
                .unwrap_or_default(),
        },
    }
}

fn read_pids(cgroup: &Cgroup) -> Option<PidStats> {
    let current = parse::number(&cgroup.read("pids", "pids.current")?)?;
    let limit = cgroup
        .read("pids", "pids.max")
        .and_then(|text| parse::limit(&text));
    Some(PidStats { current, limit })
}

fn cpu_v1(cgroup: &Cgroup) -> Option<CpuStats> {
    let usage = |file| {
        cgroup
            .read("cpuacct", file)
            .and_then(|text| parse::number(&text))
    };
    let usage_ns = usage("cpuacct.usage")?;
    let throttling = cgroup.read("cpu", "cpu.stat").unwrap_or_default();
    let count = |key| parse::flat_key(&throttling, key).unwrap_or(0);
    let per_cpu = cgroup
        .read("cpuacct", "cpuacct.usage_percpu")
        .unwrap_or_default();
    Some(CpuStats {
        usage_ns,
        user_ns: usage("cpuacct.usage_user").unwrap_or(0),
        system_ns: usage("cpuacct.usage_sys").unwrap_or(0),
        periods: count("nr_periods"),
        throttled_periods: count("nr_throttled"),
        throttled_ns: count("throttled_time"),
        per_cpu_ns: per_cpu
            .split_whitespace()
            .filter_map(parse::number)
            .collect(),
        pressure: None,
    })
}

fn cpu_v2(cgroup: &Cgroup) -> Option<CpuStats> {
    let stat = parse::flat(&cgroup.read("cpu", "cpu.stat")?);
    let count = |key: &str| stat.get(key).copied().unwrap_or(0);
    let time_ns = |key: &str| count(key).saturating_mul(1000);
    Some(CpuStats {
        usage_ns: time_ns("usage_usec"),
        user_ns: time_ns("user_usec"),
        system_ns: time_ns("system_usec"),
        periods: count("nr_periods"),
        throttled_periods: count("nr_throttled"),
        throttled_ns: time_ns("throttled_usec"),
        per_cpu_ns: Vec::new(),
        pressure: pressure(cgroup, "cpu.pressure"),
    })
}

fn memory_v1(cgroup: &Cgroup) -> Option<MemoryStats> {
    let figure = |file| {
        cgroup
            .read("memory", file)
            .and_then(|text| parse::number(&text))
    };
    let limit = |file| {
        cgroup
            .read("memory", file)
            .and_then(|text| parse::limit(&text))
    };
    Some(MemoryStats {
        usage_bytes: figure("memory.usage_in_bytes")?,
        peak_bytes: figure("memory.max_usage_in_bytes"),
        limit_bytes: limit("memory.limit_in_bytes"),
        limit_hits: figure("memory.failcnt"),
        swap_usage_bytes: figure("memory.memsw.usage_in_bytes"),
        swap_limit_bytes: limit("memory.memsw.limit_in_bytes"),
        kernel_usage_bytes: figure("memory.kmem.usage_in_bytes"),
        details: details(cgroup),
        pressure: None,
    })
}

fn memory_v2(cgroup: &Cgroup) -> Option<MemoryStats> {
    let figure = |file| {
        cgroup
            .read("memory", file)
            .and_then(|text| parse::number(&text))
    };
    let limit = |file| {
        cgroup
            .read("memory", file)
            .and_then(|text| parse::limit(&text))
    };
    Some(MemoryStats {
        usage_bytes: figure("memory.current")?,
        peak_bytes: figure("memory.peak"),
        limit_bytes: limit("memory.max"),
        limit_hits: None,
        swap_usage_bytes: figure("memory.swap.current"),
        swap_limit_bytes: limit("memory.swap.max"),
        kernel_usage_bytes: None,
        details: details(cgroup),
        pressure: pressure(cgroup, "memory.pressure"),
    })
}

fn details(cgroup: &Cgroup) -> BTreeMap<String, u64> {
    let text = cgroup.read("memory", "memory.stat");
    text.map(|text| parse::flat(&text)).unwrap_or_default()
}

fn oom_control(cgroup: &Cgroup) -> Option<OomControl> {
    let text = cgroup.read("memory", "memory.oom_control")?;
    let figure = |key| parse::flat_key(&text, key).unwrap_or(0);
    Some(OomControl {
        kill_disable: figure("oom_kill_disable"),
        under_oom: figure("under_oom"),
        kills: figure("oom_kill"),
    })
}

fn io_v1(cgroup: &Cgroup) -> Vec<IoStats> {
    let mut devices = BTreeMap::new();
    for (file, is_bytes) in [
        ("blkio.throttle.io_service_bytes_recursive", true),
        ("blkio.throttle.io_serviced_recursive", false),
    ] {
        let text = cgroup.read("blkio", file).unwrap_or_default();
        for line in text.lines() {
            add_v1_line(&mut devices, line, is_bytes);
        }
    }
    devices.into_values().collect()
}

/// `8:0 Read 4096`
fn add_v1_line(
    devices: &mut BTreeMap<(u64, u64), IoStats>,
    line: &str,
    is_bytes: bool,
) -> Option<()> {
    let mut words = line.split(' ');
    let (major, minor) = parse::device(words.next()?)?;
    let operation = words.next()?;
    let value = parse::number(words.next()?)?;
    let device = devices.entry((major, minor)).or_default();
    (device.major, device.minor) = (major, minor);
    match (operation, is_bytes) {
        ("Read", true) => device.read_bytes = value,
        ("Write", true) => device.write_bytes = value,
        ("Read", false) => device.reads = value,
        ("Write", false) => device.writes = value,
        _ => {}
    }
    Some(())
}

fn io_v2(cgroup: &Cgroup) -> Vec<IoStats> {
    let text = cgroup.read("io", "io.stat").unwrap_or_default();
    text.lines().filter_map(io_v2_line).collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
fn io_v2_line(line: &str) -> Option<IoStats> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = parse::device(device)?;
    let mut found = IoStats {
        major,
        minor,
        ..IoStats::default()
    };
    for (key, value) in rest.split(' ').filter_map(|word| word.split_once('=')) {
        let value = parse::number(value).unwrap_or(0);
        match key {
            "rbytes" => found.read_bytes = value,
            "wbytes" => found.write_bytes = value,
            "rios" => found.reads = value,
            "wios" => found.writes = value,
            _ => {}
        }
    }
    Some(found)
}

fn hugetlb(cgroup: &Cgroup) -> Vec<HugetlbStats> {
    let Some(dir) = cgroup.dir("hugetlb") else {
        return Vec::new();
    };
    let (current, max, hits) = match cgroup.version {
        Version::V1 => ("usage_in_bytes", "max_usage_in_bytes", "failcnt"),
        Version::V2 => ("current", "max", "events"),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let page_size = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugetlb."))
            .and_then(|name| name.strip_suffix(current))
            .and_then(|name| name.strip_suffix('.'));
        let Some(page_size) = page_size.filter(|size| !size.contains('.')) else {
            continue;
        };
        let file = |what: &str| cgroup.read("hugetlb", &format!("hugetlb.{page_size}.{what}"));
        let figure = |what| file(what).and_then(|text| parse::number(&text));
        found.push(HugetlbStats {
            page_size: page_size.to_owned(),
            usage_bytes: figure(current).unwrap_or(0),
            max_bytes: figure(max).unwrap_or(u64::MAX),
            limit_hits: figure(hits)
                .or_else(|| parse::flat_key(&file(hits)?, "max"))
                .unwrap_or(0),
        });
    }
    found.sort_by(|one, other| one.page_size.cmp(&other.page_size));
    found
}

fn pressure(cgroup: &Cgroup, file: &str) -> Option<Pressure> {
    parse_pressure(&cgroup.read("memory", file)?)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`
fn parse_pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key));
        let average = |key| value(key).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let total = value("total=").and_then(parse::number).unwrap_or(0);
        Some((
            average("avg10="),
            average("avg60="),
            average("avg300="),
            total,
        ))
    };
    Some(Pressure {
        some: line("some")?,
        full: line("full").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_lines_of_both_versions_are_read() {
        let mut devices = BTreeMap::new();
        for (line, is_bytes) in [
            ("8:0 Read 4096", true),
            ("8:0 Write 7", false),
            ("Total 1", true),
        ] {
            add_v1_line(&mut devices, line, is_bytes);
        }
        let expected = IoStats {
            major: 8,
            read_bytes: 4096,
            writes: 7,
            ..IoStats::default()
        };
        let found: Vec<IoStats> = devices.into_values().collect();
        assert_eq!(found.as_slice(), std::slice::from_ref(&expected));
        assert_eq!(io_v2_line("8:0 rbytes=4096 wios=7 dios=3"), Some(expected));
        assert_eq!(io_v2_line("x"), None);
    }

    #[test]
    fn pressure_without_the_full_line_is_read() {
        let pressure = parse_pressure("some avg10=1.50 avg60=0.00 avg300=0.25 total=42\n").unwrap();
        assert_eq!(pressure.some, (1.5, 0.0, 0.25, 42));
        assert_eq!(pressure.full, (0.0, 0.0, 0.0, 0));
        assert_eq!(parse_pressure("nonsense"), None);
    }

    #[test]
    fn the_own_group_has_memory_in_use_if_memory_is_accounted() {
        let own = i32::try_from(std::process::id()).unwrap();
        let cgroup = Cgroup::of_process(own).unwrap();
        let stats = cgroup.stats();
        if let Some(memory) = stats.memory {
            assert!(memory.usage_bytes > 0);
            assert!(!memory.details.is_empty());
        }
    }
}

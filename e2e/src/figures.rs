//! What processes use, from `/proc`, and what the disk does.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What the kernel shows times in (USER_HZ), the same on every machine Orlop is built for.
const TICKS_PER_SECOND: u64 = 100;

/// Of the disk's probe.
const PROBES: usize = 50;
const PROBE_BYTES: usize = 4096;

/// Processor time of a process and of the children it has waited for.
///
/// # Errors
/// The process is gone.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    let text = read(pid, "stat")?;
    let (_, fields) = text.rsplit_once(") ").context("stat has a name")?;
    // proc(5) counts from 1, and two fields are in front: utime, stime, cutime, cstime are 14 to 17.
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Starts a new measurement of the peak of a process's resident memory.
///
/// # Errors
/// The process is gone, or this is not root.
pub fn reset_peak(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    let file = File::options().write(true).open(&path);
    file.and_then(|mut file| file.write_all(b"5"))
        .with_context(|| format!("cannot write {path}"))
}

/// The peak of a process's resident memory since [`reset_peak`], in bytes.
///
/// # Errors
/// The process is gone.
pub fn peak_bytes(pid: i32) -> Result<u64> {
    kilobytes(&read(pid, "status")?, "VmHWM:")
}

/// What a process costs: its private memory and its share of what it shares (PSS), in bytes.
///
/// # Errors
/// The process is gone.
pub fn pss_bytes(pid: i32) -> Result<u64> {
    kilobytes(&read(pid, "smaps_rollup")?, "Pss:")
}

/// A process's own memory without what it maps of files, in bytes: what it allocated, and nothing that others' use of the
/// same program changes.
///
/// # Errors
/// The process is gone.
pub fn allocated_bytes(pid: i32) -> Result<u64> {
    kilobytes(&read(pid, "status")?, "RssAnon:")
}

/// Shims whose command line has all of `words`.
///
/// # Errors
/// Processes cannot be listed.
pub fn shims(scratch: &Path, namespace: &str) -> Result<Vec<i32>> {
    let found = crate::leftovers::processes_of(scratch)?;
    let is_shim = |line: &str| {
        let program = line.split(' ').next().unwrap_or_default();
        let flag = format!("-namespace {namespace} ");
        program.contains("containerd-shim-") && line.contains(&flag)
    };
    Ok(found
        .into_iter()
        .filter(|(_, line)| is_shim(line))
        .map(|(pid, _)| pid)
        .collect())
}

/// Median and ninth decile of what 4 KiB and an `fdatasync` take in `folder`.
///
/// # Errors
/// A file there cannot be written.
pub fn sync_latency(folder: &Path) -> Result<(Duration, Duration)> {
    let mut file = tempfile::tempfile_in(folder).context("cannot probe the disk")?;
    let mut times = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        file.write_all(&[b'x'; PROBE_BYTES])?;
        let before = Instant::now();
        file.sync_data()?;
        times.push(before.elapsed());
    }
    times.sort();
    Ok((times[PROBES / 2], times[PROBES * 9 / 10]))
}

fn read(pid: i32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

fn kilobytes(text: &str, key: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.trim().strip_suffix("kB"));
    let number = number.and_then(|number| number.trim().parse::<u64>().ok());
    Ok(number.with_context(|| format!("no {key} in /proc"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_has_memory_and_a_peak_of_at_least_that() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let now = pss_bytes(pid).unwrap();
        assert!(now > 0);
        assert!(peak_bytes(pid).unwrap() > 0);
        cpu_time(pid).unwrap();
    }

    #[test]
    fn a_line_of_proc_is_read_in_bytes_and_a_missing_one_is_an_error() {
        assert_eq!(
            kilobytes("Rss: 1 kB\nPss:   12 kB\n", "Pss:").unwrap(),
            12288
        );
        assert!(kilobytes("Rss: 1 kB\n", "Pss:").is_err());
    }
}

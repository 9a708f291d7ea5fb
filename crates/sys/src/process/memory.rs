//! What a process takes of the machine's memory.

use std::io;

/// The memory of a process in bytes, with its share of what it has in common with others (PSS).
///
/// # Errors
/// There is no such process, or the kernel does not tell.
pub fn memory_bytes(pid: u32) -> io::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix("kB"));
    let kilobytes: u64 = kilobytes
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(kilobytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_a_missing_one_is_an_error() {
        assert!(memory_bytes(std::process::id()).unwrap() > 64 << 10);
        assert!(memory_bytes(u32::MAX).is_err());
    }
}

//! Memory faults along the path from a group to the root: they say whose limit was hit.

use std::path::Path;

use super::{Cgroup, Version, parse, read_file, relative};

/// The most groups looked at above one.
const ANCESTORS_MAX: usize = 32;

/// What one group counts. Counters only grow while the group lives; a figure its kernel does not have is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryCounters {
    /// The group below its hierarchy's root, such as `/kubepods/pod1`.
    pub path: String,
    /// Times this very group's limit led to an OOM (`memory.events.local` of version 2; version 1 has no such counter).
    pub oom: Option<u64>,
    /// Processes killed in this group. Version 2 counts the groups below as well.
    pub oom_kill: Option<u64>,
    /// Times all processes of the group were killed together (version 2).
    pub oom_group_kill: Option<u64>,
    /// Times the limit was reached, which alone kills nobody: `memory.failcnt`, or `max` of `memory.events.local`.
    pub limit_hits: Option<u64>,
    /// The limit in bytes, if there is one.
    pub limit_bytes: Option<u64>,
    /// The most ever used, in bytes.
    pub peak_bytes: Option<u64>,
}

pub(super) fn chain(cgroup: &Cgroup) -> Vec<MemoryCounters> {
    let Some(group) = cgroup.group("memory") else {
        return Vec::new();
    };
    group
        .dir
        .ancestors()
        .take_while(|dir| dir.starts_with(&group.mount_point))
        .take(ANCESTORS_MAX)
        .map(|dir| {
            let path = relative(&group.mount_point, dir);
            match cgroup.version {
                Version::V1 => read_v1(dir, path),
                Version::V2 => read_v2(dir, path),
            }
        })
        .collect()
}

pub(super) fn oom_kills(cgroup: &Cgroup) -> Option<u64> {
    let file = match cgroup.version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    parse::flat_key(&cgroup.read("memory", file)?, "oom_kill")
}

fn read_v1(dir: &Path, path: String) -> MemoryCounters {
    let file = |name: &str| read_file(&dir.join(name));
    MemoryCounters {
        path,
        oom: None,
        oom_kill: file("memory.oom_control").and_then(|text| parse::flat_key(&text, "oom_kill")),
        oom_group_kill: None,
        limit_hits: file("memory.failcnt").and_then(|text| parse::number(&text)),
        limit_bytes: file("memory.limit_in_bytes").and_then(|text| parse::limit(&text)),
        peak_bytes: file("memory.max_usage_in_bytes").and_then(|text| parse::number(&text)),
    }
}

fn read_v2(dir: &Path, path: String) -> MemoryCounters {
    let file = |name: &str| read_file(&dir.join(name));
    let all = file("memory.events").unwrap_or_default();
    let local = file("memory.events.local").unwrap_or_default();
    MemoryCounters {
        path,
        oom: parse::flat_key(&local, "oom"),
        oom_kill: parse::flat_key(&all, "oom_kill"),
        oom_group_kill: parse::flat_key(&all, "oom_group_kill"),
        limit_hits: parse::flat_key(&local, "max"),
        limit_bytes: file("memory.max").and_then(|text| parse::limit(&text)),
        peak_bytes: file("memory.peak").and_then(|text| parse::number(&text)),
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "tests write files that stand for the kernel's"
)]
mod tests {
    use super::super::Group;
    use super::*;

    #[test]
    fn counters_of_version_two_are_read_up_to_the_mount_point() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("pod/c");
        std::fs::create_dir_all(&leaf).unwrap();
        std::fs::write(leaf.join("memory.events"), "oom 1\noom_kill 2\n").unwrap();
        std::fs::write(
            leaf.join("memory.events.local"),
            "max 7\noom 1\noom_kill 2\n",
        )
        .unwrap();
        std::fs::write(leaf.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.path().join("pod/memory.max"), "4096\n").unwrap();
        let group = Group {
            controllers: Vec::new(),
            mount_point: root.path().to_owned(),
            dir: leaf,
        };
        let cgroup = Cgroup {
            version: Version::V2,
            groups: vec![group],
        };
        let chain = chain(&cgroup);
        let paths: Vec<&str> = chain.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["/pod/c", "/pod", "/"]);
        assert_eq!(chain[0].oom_kill, Some(2));
        assert_eq!(chain[0].limit_hits, Some(7));
        assert_eq!(chain[0].limit_bytes, None);
        assert_eq!(chain[1].limit_bytes, Some(4096));
        assert_eq!(chain[1].oom, None);
    }
}

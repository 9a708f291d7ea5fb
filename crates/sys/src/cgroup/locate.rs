//! From `/proc/PID/cgroup` and the mount table to folders.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{Cgroup, Group, Version};

/// The hierarchies that are mounted: read once, many groups are found in them.
#[derive(Debug, Clone)]
pub struct Hierarchies(Vec<Hierarchy>);

#[derive(Debug, Clone)]
struct Hierarchy {
    unified: bool,
    root: PathBuf,
    mount_point: PathBuf,
    options: Vec<String>,
}

impl Hierarchies {
    /// Those of this process's mount namespace.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn mounted() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::parse(&mounts))
    }

    fn parse(mountinfo: &str) -> Self {
        Self(mountinfo.lines().filter_map(parse_mount).collect())
    }

    /// The groups a process is in now.
    ///
    /// # Errors
    /// The process is gone, or no hierarchy is mounted.
    pub fn of_process(&self, pid: i32) -> io::Result<Cgroup> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        self.locate(&membership).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted")
        })
    }

    /// The groups at one path of every hierarchy, such as `/kubepods/pod1`; `None` if it leads outside or nowhere.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<Cgroup> {
        let lines = self.0.iter().map(|hierarchy| {
            let controllers = hierarchy.controllers().join(",");
            format!("0:{controllers}:{path}\n")
        });
        self.locate(&lines.collect::<String>())
            .filter(Cgroup::exists)
    }

    fn locate(&self, membership: &str) -> Option<Cgroup> {
        let groups: Vec<Group> = membership
            .lines()
            .filter_map(|line| parse_membership(line, &self.0))
            .collect();
        (!groups.is_empty()).then(|| of_groups(groups))
    }
}

impl Hierarchy {
    /// What the lines of `/proc/PID/cgroup` call it: its controllers, or `name=…` for one that has none.
    fn controllers(&self) -> Vec<&str> {
        let names_it = |option: &&str| {
            let is_setting = option.contains('=') && !option.starts_with("name=");
            !is_setting && !matches!(*option, "rw" | "ro" | "xattr" | "clone_children")
        };
        if self.unified {
            return Vec::new();
        }
        let options = self.options.iter().map(String::as_str);
        options.filter(names_it).collect()
    }
}

fn of_groups(groups: Vec<Group>) -> Cgroup {
    let memory_is_v1 = groups
        .iter()
        .any(|group| group.controllers.iter().any(|name| name == "memory"));
    let version = if memory_is_v1 {
        Version::V1
    } else {
        Version::V2
    };
    Cgroup { version, groups }
}

/// `36 25 0:31 /root /mount/point rw shared:1 - cgroup cgroup rw,memory`
fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let root = unescape(mount.next()?);
    let mount_point = unescape(mount.next()?);
    let mut file_system = file_system.split(' ');
    let unified = match file_system.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = file_system.nth(1).unwrap_or_default();
    Some(Hierarchy {
        unified,
        root: root.into(),
        mount_point: mount_point.into(),
        options: options.split(',').map(str::to_owned).collect(),
    })
}

/// `4:memory:/a/b`, or `0::/a/b` for the unified hierarchy.
fn parse_membership(line: &str, hierarchies: &[Hierarchy]) -> Option<Group> {
    let mut fields = line.splitn(3, ':').skip(1);
    let controllers: Vec<String> = fields
        .next()?
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let path = Path::new(fields.next()?);
    let hierarchy = hierarchies.iter().find(|hierarchy| {
        hierarchy.unified == controllers.is_empty()
            && controllers
                .iter()
                .all(|name| hierarchy.options.contains(name))
    })?;
    // A path with `..` lies outside of our cgroup namespace: there is no folder for it here.
    if path.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    let below = path.strip_prefix(&hierarchy.root).ok()?;
    Some(Group {
        controllers,
        mount_point: hierarchy.mount_point.clone(),
        dir: hierarchy.mount_point.join(below),
    })
}

/// The mount table writes blanks, tabs, line ends and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate(membership: &str, mountinfo: &str) -> Option<Cgroup> {
        Hierarchies::parse(mountinfo).locate(membership)
    }

    const V1: &str = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
    const NESTED: &str =
        "30 24 0:26 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn folders_are_found_in_every_mode() {
        let table = [
            (
                V1,
                "4:memory:/pod/c\n0::/\n",
                "memory",
                "/sys/fs/cgroup/memory/pod/c",
            ),
            (
                V1,
                "4:memory:/a\n3:cpu,cpuacct:/b\n",
                "cpu",
                "/sys/fs/cgroup/cpu,cpuacct/b",
            ),
            (
                V2,
                "0::/kubepods.slice/c\n",
                "memory",
                "/sys/fs/cgroup/kubepods.slice/c",
            ),
            (V2, "0::/\n", "memory", "/sys/fs/cgroup"),
            (
                NESTED,
                "4:memory:/docker/x/c\n",
                "memory",
                "/sys/fs/cgroup/memory/c",
            ),
        ];
        for (mounts, membership, controller, expected) in table {
            let cgroup = locate(membership, mounts).unwrap();
            let dir = cgroup.dir(controller);
            assert_eq!(dir, Some(Path::new(expected)), "{membership}");
        }
    }

    #[test]
    fn a_path_is_found_in_every_hierarchy() {
        for (mounts, expected) in [
            (V1, "/sys/fs/cgroup/cpu,cpuacct/pod/c"),
            (V2, "/sys/fs/cgroup/pod/c"),
        ] {
            let hierarchies = Hierarchies::parse(mounts);
            let membership: String = hierarchies
                .0
                .iter()
                .map(|hierarchy| format!("0:{}:/pod/c\n", hierarchy.controllers().join(",")))
                .collect();
            let cgroup = hierarchies.locate(&membership).unwrap();
            assert_eq!(cgroup.dir("cpu"), Some(Path::new(expected)));
        }
        let named =
            "33 24 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let named = Hierarchies::parse(named);
        assert_eq!(named.0[0].controllers(), ["name=systemd"]);
        assert!(Hierarchies::parse(V2).at("/../etc").is_none());
        assert!(Hierarchies::parse(V2).at("/no/such/group").is_none());
    }

    #[test]
    fn the_version_is_that_of_the_memory_controller() {
        let hybrid = locate("4:memory:/a\n0::/a\n", V1).unwrap();
        assert_eq!(hybrid.version(), Version::V1);
        assert_eq!(locate("0::/a\n", V2).unwrap().version(), Version::V2);
    }

    #[test]
    fn what_lies_outside_or_is_garbage_is_not_found() {
        for membership in ["", "x", "4:memory:/../x\n", "4:memory:/other\n"] {
            assert!(locate(membership, NESTED).is_none(), "{membership}");
        }
    }

    #[test]
    fn blanks_in_mount_points_are_understood() {
        assert_eq!(unescape(r"/a\040b\134c\9"), r"/a b\c\9");
    }
}

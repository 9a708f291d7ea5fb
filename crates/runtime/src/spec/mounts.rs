//! The mounts of a container: the kernel's file systems, then what the user binds.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use orlop_types::IdMaps;
use orlop_types::idmap::outside;

use super::{ContainerOptions, Network, Place, SpecError};
use crate::mapping::to_spec;

/// A host path made visible in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// The path on the host, absolute.
    pub source: PathBuf,
    /// The path in the container, absolute.
    pub target: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// A mount the user asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMount {
    /// `bind`, `tmpfs`, or another kind the kernel knows.
    pub kind: String,
    /// The path on the host for a bind; otherwise what the kind wants, usually nothing.
    pub source: String,
    /// The path in the container, absolute.
    pub target: String,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Further options, such as `rshared` or `size=64m`.
    pub options: Vec<String>,
    /// How the owners of its files are shown; absent for as they are.
    pub id_maps: Option<IdMaps>,
}

impl UserMount {
    fn check(&self) -> Result<(), SpecError> {
        let bad = |fault| SpecError::BadMount {
            target: self.target.clone(),
            fault,
        };
        let target = Path::new(&self.target);
        if !target.is_absolute() {
            return Err(bad("the path in the container has to be absolute"));
        }
        if target
            .components()
            .any(|part| part == std::path::Component::ParentDir)
        {
            return Err(bad("the path in the container must not contain \"..\""));
        }
        if self.kind.is_empty() {
            return Err(bad("a kind is needed, such as bind or tmpfs"));
        }
        if self.kind == "bind" && !Path::new(&self.source).is_absolute() {
            return Err(bad("the path on the host has to be absolute"));
        }
        Ok(())
    }
}

/// One of the kernel's file systems that every container gets (runtime-spec, "Default Filesystems").
struct Default {
    target: &'static str,
    kind: &'static str,
    options: &'static [&'static str],
}

/// What a privileged container may write.
const WRITABLE_IF_PRIVILEGED: &[&str] = &["sysfs", "cgroup"];

/// The group of terminals. The kernel refuses one that is not mapped.
const TERMINAL_GROUP: &str = "gid=5";
const TERMINAL_GID: u32 = 5;

const DEFAULTS: &[Default] = &[
    Default {
        target: "/proc",
        kind: "proc",
        options: &["nosuid", "noexec", "nodev"],
    },
    Default {
        target: "/dev",
        kind: "tmpfs",
        options: &["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    Default {
        target: "/dev/pts",
        kind: "devpts",
        options: &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            TERMINAL_GROUP,
        ],
    },
    Default {
        target: "/dev/shm",
        kind: "tmpfs",
        options: &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    Default {
        target: "/dev/mqueue",
        kind: "mqueue",
        options: &["nosuid", "noexec", "nodev"],
    },
    Default {
        target: "/sys",
        kind: "sysfs",
        options: &["nosuid", "noexec", "nodev", "ro"],
    },
    Default {
        target: "/sys/fs/cgroup",
        kind: "cgroup",
        options: &["nosuid", "noexec", "nodev", "relatime", "ro"],
    },
    Default {
        target: "/run",
        kind: "tmpfs",
        options: &["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
];

/// The kernel's file systems, then what the engine and the user mount. Of two mounts at one place the user's counts, then
/// the engine's; a mount at `/dev` replaces all that would be below it.
pub(super) fn build(options: &ContainerOptions) -> Result<Vec<Mount>, SpecError> {
    let own = options.mounts.iter().map(user_mount);
    let mut mounts = own.collect::<Result<Vec<_>, _>>()?;
    let at = |mounts: &[Mount], place: &Path| {
        let mut places = mounts.iter().map(|mount| clean(mount.destination()));
        places.any(|there| there == place)
    };
    for file in &options.engine_files {
        if !at(&mounts, &clean(&file.target)) {
            mounts.push(bind_mount(file)?);
        }
    }
    // A mount must not hide another one that was made before it below its place.
    mounts.sort_by_key(|mount| clean(mount.destination()).components().count());
    let replaces_dev = at(&mounts, Path::new("/dev"));
    let defaults = DEFAULTS.iter().filter(|default| {
        let place = Path::new(default.target);
        let is_replaced = at(&mounts, place) || replaces_dev && place.starts_with("/dev");
        !is_replaced && (options.run_in_memory || default.target != "/run")
    });
    let mut all = defaults
        .map(|default| kernel_mount(default, options))
        .collect::<Result<Vec<_>, _>>()?;
    all.extend(mounts);
    Ok(all)
}

/// A path without what does not change it: `//`, `/./`, a slash at the end.
fn clean(path: &Path) -> PathBuf {
    path.components().collect()
}

fn kernel_mount(default: &Default, options: &ContainerOptions) -> Result<Mount, SpecError> {
    // A new sysfs belongs to the owner of the network namespace: in a user namespace on the host's network the container
    // gets the host's, apart from it, so that nothing mounted on it later is seen on the host.
    let in_user_namespace = options.namespaces.user != Place::Host;
    let shared_sysfs =
        default.kind == "sysfs" && options.network == Network::Host && in_user_namespace;
    let (kind, source) = if shared_sysfs {
        ("none", "/sys")
    } else {
        (default.kind, default.kind)
    };
    let extra: &[&str] = if shared_sysfs {
        &["rbind", "rprivate"]
    } else {
        &[]
    };
    let is_writable = options.security.privileged && WRITABLE_IF_PRIVILEGED.contains(&default.kind);
    let maps = options.id_maps.as_ref();
    let has_terminals = maps.is_none_or(|maps| outside(&maps.gids, TERMINAL_GID).is_some());
    let options: Vec<String> = extra
        .iter()
        .chain(default.options)
        .filter(|word| **word != TERMINAL_GROUP || has_terminals)
        .map(|word| {
            if is_writable && *word == "ro" {
                "rw"
            } else {
                word
            }
        })
        .map(str::to_owned)
        .collect();
    MountBuilder::default()
        .destination(default.target)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
        .map_err(|source| SpecError::Model {
            part: "mounts",
            source,
        })
}

/// The engine gives its files to the container's superuser itself, so there is nothing to map.
fn bind_mount(bind: &BindMount) -> Result<Mount, SpecError> {
    user_mount(&UserMount {
        kind: "bind".to_owned(),
        source: bind.source.to_string_lossy().into_owned(),
        target: bind.target.to_string_lossy().into_owned(),
        read_only: bind.read_only,
        options: Vec::new(),
        id_maps: None,
    })
}

fn user_mount(mount: &UserMount) -> Result<Mount, SpecError> {
    mount.check()?;
    let mut options = mount.options.clone();
    if mount.kind == "bind"
        && !options
            .iter()
            .any(|option| option == "bind" || option == "rbind")
    {
        options.push("rbind".to_owned());
        options.push("rprivate".to_owned());
    }
    if !options.iter().any(|option| option == "rro") {
        options.push(if mount.read_only { "ro" } else { "rw" }.to_owned());
    }
    let source = if mount.source.is_empty() {
        &mount.kind
    } else {
        &mount.source
    };
    let mut made = MountBuilder::default()
        .destination(mount.target.clone())
        .typ(mount.kind.clone())
        .source(source.clone())
        .options(options)
        .build()
        .map_err(|source| SpecError::Model {
            part: "mounts",
            source,
        })?;
    let maps = mount.id_maps.as_ref();
    made.set_uid_mappings(maps.map(|maps| to_spec(&maps.uids)))
        .set_gid_mappings(maps.map(|maps| to_spec(&maps.gids)));
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, target: &str) -> UserMount {
        UserMount {
            kind: kind.into(),
            source: source.into(),
            target: target.into(),
            ..UserMount::default()
        }
    }

    #[test]
    fn a_bind_is_recursive_and_private_unless_asked_otherwise() {
        let made = user_mount(&UserMount {
            read_only: true,
            ..mount("bind", "/tmp", "/srv")
        })
        .unwrap();
        assert_eq!(made.options().clone().unwrap(), ["rbind", "rprivate", "ro"]);
        let shared = UserMount {
            options: vec!["rbind".into(), "rshared".into()],
            ..mount("bind", "/tmp", "/srv")
        };
        assert_eq!(
            user_mount(&shared).unwrap().options().clone().unwrap(),
            ["rbind", "rshared", "rw"]
        );
    }

    /// Where `options` has mounts, in order.
    fn places(options: &ContainerOptions) -> Vec<String> {
        let mounts = build(options).unwrap();
        mounts
            .iter()
            .map(|mount| mount.destination().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn mounts_are_made_from_the_outside_in_whatever_their_order() {
        let options = ContainerOptions {
            mounts: vec![
                mount("bind", "/a", "/srv/a/b"),
                mount("bind", "/b", "/srv//"),
            ],
            ..ContainerOptions::default()
        };
        let last: Vec<_> = places(&options).split_off(DEFAULTS.len());
        assert_eq!(last, ["/srv//", "/srv/a/b"]);
    }

    #[test]
    fn a_users_mount_replaces_the_engines_and_the_kernels() {
        let file = |target: &str| BindMount {
            source: "/engine".into(),
            target: target.into(),
            read_only: false,
        };
        let options = ContainerOptions {
            mounts: vec![
                mount("bind", "/a", "/etc/hosts"),
                mount("bind", "/b", "/dev/shm/"),
            ],
            engine_files: vec![file("/etc/hosts"), file("/dev/shm"), file("/etc/hostname")],
            run_in_memory: false,
            ..ContainerOptions::default()
        };
        let places = places(&options);
        let count = |place: &str| {
            places
                .iter()
                .filter(|there| there.starts_with(place))
                .count()
        };
        assert_eq!(
            (
                count("/etc/hosts"),
                count("/dev/shm"),
                count("/etc/hostname")
            ),
            (1, 1, 1)
        );
        assert_eq!(count("/run"), 0);
        let dev = ContainerOptions {
            mounts: vec![mount("bind", "/dev", "/dev")],
            ..ContainerOptions::default()
        };
        let below: Vec<_> = super::tests::places(&dev);
        assert!(
            !below.iter().any(|place| place.starts_with("/dev/")),
            "{below:?}"
        );
    }

    #[test]
    fn in_a_user_namespace_only_binds_with_maps_are_mapped_and_groups_are_those_it_has() {
        let maps = |count| {
            let range = orlop_types::IdRange {
                inside: 0,
                outside: 1000,
                count,
            };
            IdMaps {
                uids: vec![range],
                gids: vec![range],
            }
        };
        let made = |count, place: &str| {
            let mapped = UserMount {
                id_maps: Some(maps(count)),
                ..mount("bind", "/a", "/mapped")
            };
            let options = ContainerOptions {
                mounts: vec![mapped, mount("bind", "/b", "/plain")],
                id_maps: Some(maps(count)),
                ..ContainerOptions::default()
            };
            let mut mounts = build(&options).unwrap().into_iter();
            let found = mounts.find(|mount| mount.destination() == Path::new(place));
            found.unwrap()
        };
        let has_group = |count| {
            let words = made(count, "/dev/pts").options().clone().unwrap();
            words.iter().any(|word| word == TERMINAL_GROUP)
        };
        assert!(!has_group(TERMINAL_GID) && has_group(TERMINAL_GID + 1));
        let is_mapped = |place| made(9, place).uid_mappings().is_some();
        assert!(is_mapped("/mapped") && !is_mapped("/plain"));
    }

    #[test]
    fn only_a_privileged_container_may_write_the_kernels_files() {
        let words = |privileged: bool| {
            let mut options = ContainerOptions::default();
            options.security.privileged = privileged;
            let mounts = build(&options).unwrap();
            let sys = mounts
                .iter()
                .find(|mount| mount.destination() == Path::new("/sys"));
            sys.unwrap().options().clone().unwrap()
        };
        assert!(words(false).contains(&"ro".to_owned()));
        assert!(words(true).contains(&"rw".to_owned()) && !words(true).contains(&"ro".to_owned()));
    }

    #[test]
    fn a_mount_that_cannot_be_made_is_named() {
        let table = [
            (mount("bind", "/tmp", "srv"), "absolute"),
            (mount("bind", "/tmp", "/a/../b"), "\"..\""),
            (
                mount("bind", "tmp", "/srv"),
                "on the host has to be absolute",
            ),
            (mount("", "", "/srv"), "kind"),
        ];
        for (mount, expected) in table {
            let error = user_mount(&mount).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

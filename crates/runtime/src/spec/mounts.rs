//! The mounts of a container: the kernel's file systems, then what the user binds.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use super::{ContainerOptions, Network, SpecError};

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
            "gid=5",
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

pub(super) fn build(options: &ContainerOptions) -> Result<Vec<Mount>, SpecError> {
    let defaults = DEFAULTS
        .iter()
        .map(|default| kernel_mount(default, &options.network));
    let engine_files = options.engine_files.iter().map(bind_mount);
    defaults
        .chain(engine_files)
        .chain(options.mounts.iter().map(user_mount))
        .collect()
}

fn kernel_mount(default: &Default, network: &Network) -> Result<Mount, SpecError> {
    // A new sysfs belongs to a network namespace; without one of its own the container gets the host's, read-only.
    let shared_sysfs = default.kind == "sysfs" && *network == Network::Host;
    let (kind, source) = if shared_sysfs {
        ("none", "/sys")
    } else {
        (default.kind, default.kind)
    };
    let extra: &[&str] = if shared_sysfs { &["rbind"] } else { &[] };
    let options: Vec<String> = extra
        .iter()
        .chain(default.options)
        .map(|word| (*word).to_owned())
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

fn bind_mount(bind: &BindMount) -> Result<Mount, SpecError> {
    user_mount(&UserMount {
        kind: "bind".to_owned(),
        source: bind.source.to_string_lossy().into_owned(),
        target: bind.target.to_string_lossy().into_owned(),
        read_only: bind.read_only,
        options: Vec::new(),
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
    options.push(if mount.read_only { "ro" } else { "rw" }.to_owned());
    let source = if mount.source.is_empty() {
        &mount.kind
    } else {
        &mount.source
    };
    MountBuilder::default()
        .destination(mount.target.clone())
        .typ(mount.kind.clone())
        .source(source.clone())
        .options(options)
        .build()
        .map_err(|source| SpecError::Model {
            part: "mounts",
            source,
        })
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

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

/// What is wrong with a bind mount's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindMountError {
    /// Not of the form.
    #[error("mount {0:?} is not SOURCE:TARGET or SOURCE:TARGET:ro")]
    Form(String),
    /// A relative path.
    #[error("mount {0:?} needs absolute paths on both sides")]
    Relative(String),
    /// A target that climbs.
    #[error("mount {0:?} has a \"..\" in its target")]
    Climbs(String),
}

impl BindMount {
    /// Reads `SOURCE:TARGET[:ro|rw]`.
    ///
    /// # Errors
    /// Another form, relative paths, or `..` in the target.
    pub fn parse(text: &str) -> Result<Self, BindMountError> {
        let mut words = text.split(':');
        let (source, target, mode) = (words.next(), words.next(), words.next());
        let (Some(source), Some(target), None) = (source, target, words.next()) else {
            return Err(BindMountError::Form(text.to_owned()));
        };
        let read_only = match mode {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(_) => return Err(BindMountError::Form(text.to_owned())),
        };
        if !source.starts_with('/') || !target.starts_with('/') {
            return Err(BindMountError::Relative(text.to_owned()));
        }
        if Path::new(target)
            .components()
            .any(|part| part == std::path::Component::ParentDir)
        {
            return Err(BindMountError::Climbs(text.to_owned()));
        }
        Ok(Self {
            source: source.into(),
            target: target.into(),
            read_only,
        })
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
    let binds = options
        .engine_files
        .iter()
        .chain(&options.binds)
        .map(bind_mount);
    defaults.chain(binds).collect()
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
    let mode = if bind.read_only { "ro" } else { "rw" };
    MountBuilder::default()
        .destination(bind.target.clone())
        .typ("bind")
        .source(bind.source.clone())
        .options(vec![
            "rbind".to_owned(),
            "rprivate".to_owned(),
            mode.to_owned(),
        ])
        .build()
        .map_err(|source| SpecError::Model {
            part: "mounts",
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_mount_reads_like_dockers() {
        let mount = BindMount::parse("/data:/srv:ro").unwrap();
        assert_eq!(
            mount,
            BindMount {
                source: "/data".into(),
                target: "/srv".into(),
                read_only: true
            }
        );
        assert!(!BindMount::parse("/data:/srv").unwrap().read_only);
    }

    #[test]
    fn a_bind_mount_that_could_mean_two_things_is_refused() {
        for bad in [
            "",
            "/a",
            "a:/b",
            "/a:b",
            "/a:/b:x",
            "/a:/b:ro:z",
            "/a:/b/../c",
        ] {
            assert!(BindMount::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}

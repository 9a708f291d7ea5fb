//! What of the host a member sees, looked up: its mounts' sources, devices and profiles. Everything blocks, and a dead
//! network file system may block for ever: callers give it a limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use orlop_sys::fs::{Dir, Mode};
use orlop_sys::mount::MountTable;

use super::{MemberConfig, MemberError, MemberMount, Profile, Propagation, options};
use crate::apparmor::AppArmor;
use crate::cdi::{self, Edits};
use crate::host;
use crate::selinux;
use crate::spec::{Device, Machine, Seccomp, SeccompProfile, UserMount};

/// A seccomp profile beyond this is none.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// What was found on this machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) mounts: Vec<UserMount>,
    pub(super) devices: Vec<Device>,
    /// What its devices by name change in its spec.
    pub(super) edits: Edits,
    pub(super) seccomp: Seccomp,
    /// Loaded.
    pub(super) apparmor_profile: Option<String>,
    /// Of files of processes with its SELinux label.
    pub(super) selinux_file_label: Option<String>,
    pub(super) machine: Machine,
    pub(super) has_unified_cgroups: bool,
    pub(super) host_name: String,
    pub(super) own_oom_score_adjustment: Option<i32>,
}

/// Looks everything up. Missing folders of the host are made, as containerd does.
pub(super) fn find(config: &MemberConfig, cdi_folders: &[PathBuf]) -> Result<Found, MemberError> {
    check_modules(config)?;
    let mounts = config.mounts.iter().filter(|mount| mount.image.is_none());
    let mounts = mounts
        .map(|asked| mount(config, asked))
        .collect::<Result<_, _>>()?;
    let mut devices = Vec::new();
    for device in &config.devices {
        let target = if device.container_path.is_empty() {
            &device.host_path
        } else {
            &device.container_path
        };
        let found = host::devices(
            Path::new(&device.host_path),
            Path::new(target),
            &device.permissions,
        );
        devices.extend(found.map_err(|source| MemberError::Spec {
            name: config.name.clone(),
            source,
        })?);
    }
    Ok(Found {
        mounts,
        devices,
        edits: edits(config, cdi_folders)?,
        seccomp: seccomp(&config.security.seccomp)?,
        apparmor_profile: apparmor(config)?,
        selinux_file_label: file_label(config),
        machine: host::machine(config.security.privileged),
        has_unified_cgroups: host::has_unified_cgroups(),
        host_name: host::name(),
        own_oom_score_adjustment: host::own_oom_score_adjustment(),
    })
}

fn file_label(config: &MemberConfig) -> Option<String> {
    let label = config.security.selinux_label.as_ref();
    label
        .filter(|_| host::has_selinux())
        .map(|label| selinux::file_label(label))
}

fn apparmor(config: &MemberConfig) -> Result<Option<String>, MemberError> {
    let security = &config.security;
    let chosen = AppArmor::of_machine().choose(&security.apparmor, security.privileged);
    chosen.map_err(|evidence| MemberError::Unsupported {
        name: config.name.clone(),
        feature: "an AppArmor profile",
        evidence,
    })
}

fn edits(config: &MemberConfig, cdi_folders: &[PathBuf]) -> Result<Edits, MemberError> {
    let devices = options::cdi_devices(config)?;
    let edits = cdi::find(cdi_folders, &devices).map_err(|source| MemberError::Cdi {
        name: config.name.clone(),
        source,
    })?;
    if edits.divides_caches() && !host::has_resctrl() {
        return Err(MemberError::Unsupported {
            name: config.name.clone(),
            feature: "shares of caches (Intel RDT, by a CDI device)",
            evidence: "/sys/fs/resctrl is not mounted".to_owned(),
        });
    }
    Ok(edits)
}

/// What would be ignored without a word by a kernel that has no such module is refused.
fn check_modules(config: &MemberConfig) -> Result<(), MemberError> {
    let lacks = |feature, evidence: &str| MemberError::Unsupported {
        name: config.name.clone(),
        feature,
        evidence: evidence.to_owned(),
    };
    let security = &config.security;
    if security.selinux_label.is_some() && !host::has_selinux() {
        let evidence = "/sys/fs/selinux is not mounted";
        return Err(lacks("an SELinux label", evidence));
    }
    if !config.limits.hugepage_bytes_max.is_empty() && !host::limits_huge_pages() {
        let evidence = "there is no hugetlb cgroup controller";
        return Err(lacks("limits on huge pages", evidence));
    }
    if !config.limits.unified.is_empty() && !host::has_unified_cgroups() {
        let evidence = "cgroups are of version 1";
        return Err(lacks("settings of cgroup version 2", evidence));
    }
    Ok(())
}

fn mount(config: &MemberConfig, asked: &MemberMount) -> Result<UserMount, MemberError> {
    check_mount(config, asked)?;
    let source = real_path(Path::new(&asked.host_path))?;
    let propagation = match asked.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    if asked.propagation != Propagation::Private {
        check_propagation(&source, asked.propagation == Propagation::Bidirectional)?;
    }
    // The kubelet asks for it on every machine; without SELinux there is nothing to do.
    if let Some(label) = file_label(config).filter(|_| asked.selinux_relabel) {
        let relabelled = selinux::relabel(&source, &label);
        relabelled.map_err(|error| MemberError::HostPath {
            path: source.clone(),
            source: error,
        })?;
    }
    let mut options = vec!["rbind".to_owned(), propagation.to_owned()];
    if asked.recursive_read_only {
        options.push("rro".to_owned());
    }
    Ok(UserMount {
        kind: "bind".to_owned(),
        source: source.to_string_lossy().into_owned(),
        target: asked.container_path.clone(),
        read_only: asked.read_only,
        options,
        id_maps: asked.id_maps.clone(),
    })
}

fn check_mount(config: &MemberConfig, asked: &MemberMount) -> Result<(), MemberError> {
    let bad = |fault| MemberError::BadConfig {
        name: config.name.clone(),
        field: "mount",
        value: asked.container_path.clone(),
        fault,
    };
    if !asked.host_path.starts_with('/') {
        return Err(bad("the path on the host has to be absolute"));
    }
    if asked.recursive_read_only && !asked.read_only {
        return Err(bad(
            "it is to be read-only all the way down, but not read-only",
        ));
    }
    if asked.recursive_read_only && asked.propagation != Propagation::Private {
        return Err(bad(
            "what is read-only all the way down cannot take later mounts",
        ));
    }
    Ok(())
}

/// Follows links; a path that is missing becomes a folder.
fn real_path(path: &Path) -> Result<PathBuf, MemberError> {
    let failed = |source| MemberError::HostPath {
        path: path.to_owned(),
        source,
    };
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other.map_err(failed),
    }
    Dir::create_all(path, Mode::from_raw_mode(0o755))
        .map_err(|error| failed(io::Error::other(error)))?;
    fs::canonicalize(path).map_err(failed)
}

/// What is mounted later on a private mount is seen nowhere else, so such a source cannot pass anything on.
fn check_propagation(source: &Path, bidirectional: bool) -> Result<(), MemberError> {
    let table = MountTable::read().map_err(|error| MemberError::HostPath {
        path: source.to_owned(),
        source: io::Error::other(error),
    })?;
    let Some(mount) = table.covering(source) else {
        return Ok(());
    };
    let belongs_to = |group: &str| mount.propagation.iter().any(|word| word.starts_with(group));
    if belongs_to("shared:") || (!bidirectional && belongs_to("master:")) {
        return Ok(());
    }
    Err(MemberError::NotShared {
        path: source.to_owned(),
        mount: mount.mountpoint.clone(),
        wanted: if bidirectional {
            "shared"
        } else {
            "shared or slave"
        },
    })
}

fn seccomp(profile: &Profile) -> Result<Seccomp, MemberError> {
    let path = match profile {
        Profile::Unconfined => return Ok(Seccomp::Unconfined),
        Profile::RuntimeDefault => return Ok(Seccomp::Engine),
        Profile::Localhost(path) => Path::new(path),
    };
    let unreadable = |source| MemberError::ProfileUnreadable {
        path: path.to_owned(),
        source,
    };
    let length = fs::metadata(path).map_err(unreadable)?.len();
    if length > PROFILE_BYTES_MAX {
        return Err(unreadable(io::Error::other("it is larger than 1 MiB")));
    }
    let text = fs::read(path).map_err(unreadable)?;
    let profile = SeccompProfile::parse(&text).map_err(|source| MemberError::ProfileInvalid {
        path: path.to_owned(),
        source,
    })?;
    Ok(Seccomp::Profile(Box::new(profile)))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests write files"
)]
mod tests {
    use super::*;

    fn config(mount: MemberMount) -> MemberConfig {
        MemberConfig {
            name: "web".into(),
            mounts: vec![mount],
            ..MemberConfig::default()
        }
    }

    fn bind(host_path: &Path) -> MemberMount {
        MemberMount {
            container_path: "/srv".into(),
            host_path: host_path.to_string_lossy().into_owned(),
            ..MemberMount::default()
        }
    }

    #[test]
    fn links_are_followed_and_missing_folders_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("a/b"), folder.path().join("link"));
        let found = find(&config(bind(&real)), &[]).unwrap();
        assert!(real.is_dir() && Path::new(&found.mounts[0].source) == real);
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let found = find(&config(bind(&link)), &[]).unwrap();
        assert_eq!(Path::new(&found.mounts[0].source), real);
        assert_eq!(found.mounts[0].options, ["rbind", "rprivate"]);
    }

    #[test]
    fn contradictory_mounts_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let base = bind(folder.path());
        let table = [
            (
                MemberMount {
                    recursive_read_only: true,
                    ..base.clone()
                },
                "not read-only",
            ),
            (
                MemberMount {
                    recursive_read_only: true,
                    read_only: true,
                    propagation: Propagation::HostToContainer,
                    ..base.clone()
                },
                "later mounts",
            ),
            (
                MemberMount {
                    host_path: "a".into(),
                    ..base
                },
                "absolute",
            ),
        ];
        for (mount, expected) in table {
            let error = find(&config(mount), &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_profile_of_this_machine_has_to_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.json");
        let localhost = Profile::Localhost(path.to_string_lossy().into_owned());
        assert_eq!(seccomp(&localhost).unwrap_err().code(), "ORL-E6608");
        fs::write(&path, "{}").unwrap();
        assert!(
            seccomp(&localhost)
                .unwrap_err()
                .to_string()
                .contains("no seccomp profile")
        );
        fs::write(&path, r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
        assert!(matches!(seccomp(&localhost).unwrap(), Seccomp::Profile(_)));
    }
}

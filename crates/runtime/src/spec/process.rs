//! The process of a container: arguments, environment, user, capabilities, limits.

use std::collections::HashSet;

use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, ProcessBuilder, User, UserBuilder,
};

use super::linux::unprivileged;
use super::user::ResolvedUser;
use super::{ContainerOptions, ImageDefaults, SpecError};

/// What a process finds programs by where the image does not say (Docker's and containerd's default).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn build(
    image: &ImageDefaults,
    options: &ContainerOptions,
    user: &ResolvedUser,
    set: &HashSet<Capability>,
) -> Result<Process, SpecError> {
    let security = &options.security;
    let mut process = ProcessBuilder::default()
        .args(arguments(image, options)?)
        .env(environment(image, options)?)
        .cwd(working_dir(image, options)?)
        .terminal(options.terminal)
        .user(spec_user(user)?)
        .capabilities(capabilities(options, set)?)
        .no_new_privileges(security.no_new_privileges)
        .build()
        .map_err(model)?;
    let open_files = options.open_files_max.map(open_files).transpose()?;
    process
        .set_rlimits(open_files.map(|limit| vec![limit]))
        .set_oom_score_adj(options.limits.oom_score_adjustment)
        .set_apparmor_profile(security.apparmor_profile.clone())
        .set_selinux_label(unprivileged(security, &security.selinux_label));
    Ok(process)
}

fn open_files(most: u64) -> Result<PosixRlimit, SpecError> {
    PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .hard(most)
        .soft(most)
        .build()
        .map_err(model)
}

const fn model(source: oci_spec::OciSpecError) -> SpecError {
    SpecError::Model {
        part: "process",
        source,
    }
}

fn arguments(image: &ImageDefaults, options: &ContainerOptions) -> Result<Vec<String>, SpecError> {
    let (mut words, tail) = match (&options.entrypoint, options.args.is_empty()) {
        (Some(entrypoint), _) => (entrypoint.clone(), options.args.clone()),
        (None, true) => (image.entrypoint.clone(), image.cmd.clone()),
        (None, false) => (image.entrypoint.clone(), options.args.clone()),
    };
    words.extend(tail);
    if words.is_empty() {
        Err(SpecError::NoCommand)
    } else {
        Ok(words)
    }
}

/// The image's environment, then the user's; of two with one name the later stays.
fn environment(
    image: &ImageDefaults,
    options: &ContainerOptions,
) -> Result<Vec<String>, SpecError> {
    let terminal = options.terminal.then(|| "TERM=xterm".to_owned());
    let all: Vec<String> = std::iter::once(DEFAULT_PATH.to_owned())
        .chain(terminal)
        .chain(image.env.iter().cloned())
        .chain(options.env.iter().cloned())
        .collect();
    let mut names = HashSet::new();
    let mut kept = Vec::with_capacity(all.len());
    for entry in all.iter().rev() {
        let name = entry
            .split_once('=')
            .map(|(name, _)| name)
            .filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| SpecError::BadEnvironment(entry.clone()))?;
        if names.insert(name) {
            kept.push(entry.clone());
        }
    }
    kept.reverse();
    Ok(kept)
}

fn working_dir(image: &ImageDefaults, options: &ContainerOptions) -> Result<String, SpecError> {
    let image_dir = Some(image.working_dir.clone()).filter(|dir| !dir.is_empty());
    let dir = options
        .working_dir
        .clone()
        .or(image_dir)
        .unwrap_or_else(|| "/".to_owned());
    if dir.starts_with('/') {
        Ok(dir)
    } else {
        Err(SpecError::RelativeWorkingDir(dir))
    }
}

fn spec_user(user: &ResolvedUser) -> Result<User, SpecError> {
    UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.additional_gids.clone())
        .build()
        .map_err(|source| SpecError::Model {
            part: "user",
            source,
        })
}

/// Docker's fourteen, which containerd and CRI-O keep too.
const DEFAULT_CAPABILITIES: &[Capability] = &[
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// The default ones, or with `ALL` all there are; less those dropped. What is named alone counts after `ALL`, and what is
/// dropped by name is dropped in any case.
pub(super) fn capability_set(options: &ContainerOptions) -> Result<HashSet<Capability>, SpecError> {
    let all = || options.machine.capabilities().collect();
    if options.security.privileged {
        return Ok(all());
    }
    let is_all = |word: &String| word.eq_ignore_ascii_case("ALL");
    let (added, dropped) = (&options.capabilities_added, &options.capabilities_dropped);
    let mut set: HashSet<Capability> = if dropped.iter().any(is_all) {
        HashSet::new()
    } else if added.iter().any(is_all) {
        all()
    } else {
        DEFAULT_CAPABILITIES.iter().copied().collect()
    };
    let ambient = &options.security.capabilities_ambient;
    for word in added.iter().chain(ambient).filter(|word| !is_all(word)) {
        set.insert(capability(word)?);
    }
    for word in dropped.iter().filter(|word| !is_all(word)) {
        set.remove(&capability(word)?);
    }
    Ok(set)
}

fn capabilities(
    options: &ContainerOptions,
    set: &HashSet<Capability>,
) -> Result<LinuxCapabilities, SpecError> {
    let ambient = options
        .security
        .capabilities_ambient
        .iter()
        .map(|word| capability(word))
        .collect::<Result<HashSet<_>, _>>()?;
    let kept: HashSet<_> = ambient.intersection(set).copied().collect();
    let mut capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set.clone())
        .build()
        .map_err(|source| SpecError::Model {
            part: "capabilities",
            source,
        })?;
    // Inheritable capabilities would survive an exec by another user (CVE-2022-24769), so only those asked for are.
    let kept = Some(kept).filter(|kept| !kept.is_empty());
    capabilities.set_inheritable(kept.clone()).set_ambient(kept);
    Ok(capabilities)
}

/// `CAP_NET_ADMIN`, `NET_ADMIN` and `net_admin` are one.
pub(super) fn capability(word: &str) -> Result<Capability, SpecError> {
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    name.parse()
        .map_err(|_unknown| SpecError::UnknownCapability(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(added: &[&str], dropped: &[&str]) -> Result<HashSet<Capability>, SpecError> {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let options = ContainerOptions {
            capabilities_added: words(added),
            capabilities_dropped: words(dropped),
            ..ContainerOptions::default()
        };
        capability_set(&options)
    }

    #[test]
    fn all_counts_first_and_names_after_it() {
        let some = effective(&["CAP_NET_ADMIN"], &["all"]).unwrap();
        assert_eq!(some, HashSet::from([Capability::NetAdmin]));
        let fewer = effective(&["sys_time"], &["CHOWN"]).unwrap();
        assert!(fewer.contains(&Capability::SysTime) && !fewer.contains(&Capability::Chown));
        assert_eq!(fewer.len(), DEFAULT_CAPABILITIES.len());
        let most = effective(&["ALL"], &["SYS_ADMIN"]).unwrap();
        assert!(!most.contains(&Capability::SysAdmin) && most.len() == 40);
        assert!(effective(&["ALL"], &["ALL"]).unwrap().is_empty());
        assert!(effective(&["CAP_EVERYTHING"], &[]).is_err());
    }

    #[test]
    fn only_ambient_capabilities_are_inherited() {
        let mut options = ContainerOptions::default();
        options.security.capabilities_ambient = vec!["CAP_NET_ADMIN".into()];
        let set = capability_set(&options).unwrap();
        let made = capabilities(&options, &set).unwrap();
        let expected = Some(HashSet::from([Capability::NetAdmin]));
        assert_eq!((made.ambient(), made.inheritable()), (&expected, &expected));
        assert!(set.contains(&Capability::NetAdmin));
        let none = capabilities(&ContainerOptions::default(), &set).unwrap();
        assert_eq!((none.ambient(), none.inheritable()), (&None, &None));
    }
}

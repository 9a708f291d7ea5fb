//! The process of a container: arguments, environment, user, capabilities, limits.

use std::collections::HashSet;

use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, User, UserBuilder,
};

use super::user::ResolvedUser;
use super::{ContainerOptions, ImageDefaults, SpecError};

/// What a process finds programs by where the image does not say (Docker's and containerd's default).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Open files where nobody says otherwise (containerd `pkg/oci`, 1024).
const OPEN_FILES: u64 = 1024;

pub(super) fn build(
    image: &ImageDefaults,
    options: &ContainerOptions,
    user: &ResolvedUser,
) -> Result<Process, SpecError> {
    let model = |source| SpecError::Model {
        part: "process",
        source,
    };
    let open_files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .hard(OPEN_FILES)
        .soft(OPEN_FILES)
        .build()
        .map_err(model)?;
    ProcessBuilder::default()
        .args(arguments(image, options)?)
        .env(environment(image, options)?)
        .cwd(working_dir(image, options)?)
        .terminal(options.terminal)
        .user(spec_user(user)?)
        .capabilities(capabilities(options)?)
        .no_new_privileges(true)
        .rlimits(vec![open_files])
        .build()
        .map_err(model)
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

fn capabilities(options: &ContainerOptions) -> Result<LinuxCapabilities, SpecError> {
    let mut set: HashSet<Capability> = DEFAULT_CAPABILITIES.iter().copied().collect();
    for word in &options.capabilities_dropped {
        if word.eq_ignore_ascii_case("ALL") {
            set.clear();
        } else {
            set.remove(&capability(word)?);
        }
    }
    for word in &options.capabilities_added {
        set.insert(capability(word)?);
    }
    let mut capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .build()
        .map_err(|source| SpecError::Model {
            part: "capabilities",
            source,
        })?;
    // Inheritable capabilities would survive an exec by another user (CVE-2022-24769).
    capabilities.set_inheritable(None).set_ambient(None);
    Ok(capabilities)
}

/// `CAP_NET_ADMIN`, `NET_ADMIN` and `net_admin` are one.
fn capability(word: &str) -> Result<Capability, SpecError> {
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
        capabilities(&options).map(|set| set.effective().clone().unwrap_or_default())
    }

    #[test]
    fn capabilities_are_dropped_first_and_added_then() {
        let some = effective(&["CAP_NET_ADMIN"], &["all"]).unwrap();
        assert_eq!(some, HashSet::from([Capability::NetAdmin]));
        let fewer = effective(&["sys_time"], &["CHOWN"]).unwrap();
        assert!(fewer.contains(&Capability::SysTime) && !fewer.contains(&Capability::Chown));
        assert_eq!(fewer.len(), DEFAULT_CAPABILITIES.len());
        assert!(effective(&["CAP_EVERYTHING"], &[]).is_err());
    }
}

//! The process of a container: arguments, environment, user, capabilities, limits.

use std::collections::HashSet;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, User, UserBuilder,
};

use super::user::ResolvedUser;
use super::{ContainerOptions, SpecError};

/// What a process finds programs by where the image does not say (Docker's and containerd's default).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Open files where nobody says otherwise (containerd `pkg/oci`, 1024).
const OPEN_FILES: u64 = 1024;

pub(super) fn build(
    image: &ImageConfig,
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
        .capabilities(default_capabilities()?)
        .no_new_privileges(true)
        .rlimits(vec![open_files])
        .build()
        .map_err(model)
}

fn arguments(image: &ImageConfig, options: &ContainerOptions) -> Result<Vec<String>, SpecError> {
    let image_entrypoint = || image.entrypoint().clone().unwrap_or_default();
    let image_command = || image.cmd().clone().unwrap_or_default();
    let (mut words, tail) = match (&options.entrypoint, options.args.is_empty()) {
        (Some(entrypoint), _) => (entrypoint.clone(), options.args.clone()),
        (None, true) => (image_entrypoint(), image_command()),
        (None, false) => (image_entrypoint(), options.args.clone()),
    };
    words.extend(tail);
    if words.is_empty() {
        Err(SpecError::NoCommand)
    } else {
        Ok(words)
    }
}

/// The image's environment, then the user's; of two with one name the later stays.
fn environment(image: &ImageConfig, options: &ContainerOptions) -> Result<Vec<String>, SpecError> {
    let image_env = image.env().clone().unwrap_or_default();
    let terminal = options.terminal.then(|| "TERM=xterm".to_owned());
    let all: Vec<String> = std::iter::once(DEFAULT_PATH.to_owned())
        .chain(terminal)
        .chain(image_env)
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

fn working_dir(image: &ImageConfig, options: &ContainerOptions) -> Result<String, SpecError> {
    let image_dir = image.working_dir().clone().filter(|dir| !dir.is_empty());
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
fn default_capabilities() -> Result<LinuxCapabilities, SpecError> {
    let set: HashSet<Capability> = [
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
    ]
    .into();
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

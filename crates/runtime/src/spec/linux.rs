//! Namespaces, cgroup limits, devices and hidden paths.

use std::collections::HashSet;

use oci_spec::runtime::{
    Capability, Linux, LinuxBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxResources, LinuxSeccomp,
};
use orlop_types::ContainerId;

use super::seccomp::{Seccomp, SeccompProfile};
use super::security::{Device, DeviceKind, Place, Security};
use super::{ContainerOptions, Network, SpecError, cgroup_path};
use crate::mapping::to_spec;

/// Kernel paths that tell too much, hidden (Docker's and containerd's list).
const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// Kernel paths that would change the host, read-only (Docker's and containerd's list).
const READ_ONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn build(
    id: &ContainerId,
    options: &ContainerOptions,
    capabilities: &HashSet<Capability>,
) -> Result<Linux, SpecError> {
    let security = &options.security;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(options)?)
        .cgroups_path(cgroup_path(
            &options.cgroup_parent,
            options.scope_prefix,
            id,
        ))
        .resources(resources(options)?)
        .masked_paths(paths(security, &security.masked_paths, MASKED_PATHS))
        .readonly_paths(paths(security, &security.read_only_paths, READ_ONLY_PATHS))
        .build()
        .map_err(|source| SpecError::Model {
            part: "linux",
            source,
        })?;
    let devices = given_devices(options)
        .map(node)
        .collect::<Result<Vec<_>, _>>()?;
    let maps = options.id_maps.as_ref();
    linux
        .set_uid_mappings(maps.map(|maps| to_spec(&maps.uids)))
        .set_gid_mappings(maps.map(|maps| to_spec(&maps.gids)))
        .set_devices(Some(devices).filter(|devices| !devices.is_empty()))
        .set_rootfs_propagation(root_propagation(options).map(str::to_owned))
        .set_mount_label(unprivileged(security, &security.selinux_file_label))
        .set_seccomp(seccomp(options, capabilities)?);
    Ok(linux)
}

/// Those asked for, or the usual ones; none for a privileged container.
fn paths(security: &Security, asked: &Option<Vec<String>>, usual: &[&str]) -> Vec<String> {
    match (security.privileged, asked) {
        (true, _) => Vec::new(),
        (false, Some(paths)) => paths.clone(),
        (false, None) => usual.iter().map(|path| (*path).to_owned()).collect(),
    }
}

/// What confines a container; nothing confines a privileged one.
pub(super) fn unprivileged(security: &Security, word: &Option<String>) -> Option<String> {
    word.clone().filter(|_| !security.privileged)
}

fn seccomp(
    options: &ContainerOptions,
    capabilities: &HashSet<Capability>,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    let machine = options.machine.seccomp;
    match &options.security.seccomp {
        _ if options.security.privileged => Ok(None),
        Seccomp::Unconfined => Ok(None),
        Seccomp::Engine => SeccompProfile::engine()
            .resolve(capabilities, machine)
            .map(Some),
        Seccomp::Profile(profile) => profile.resolve(capabilities, machine).map(Some),
    }
}

fn namespaces(options: &ContainerOptions) -> Result<Vec<LinuxNamespace>, SpecError> {
    let network = match &options.network {
        Network::Host => Place::Host,
        Network::None => Place::Own,
        Network::Pinned(path) => Place::At(path.clone()),
    };
    let uts = match &options.namespaces.uts {
        Place::Own if !options.has_own_name() => &Place::Host,
        place @ (Place::Own | Place::Host | Place::At(_)) => place,
    };
    let places = &options.namespaces;
    let kinds = [
        (LinuxNamespaceType::User, &places.user),
        (LinuxNamespaceType::Pid, &places.processes),
        (LinuxNamespaceType::Ipc, &places.ipc),
        (LinuxNamespaceType::Mount, &Place::Own),
        (LinuxNamespaceType::Uts, uts),
        (LinuxNamespaceType::Network, &network),
        (LinuxNamespaceType::Cgroup, &places.cgroup),
    ];
    kinds
        .into_iter()
        .filter_map(|(kind, place)| namespace(kind, place))
        .collect()
}

fn namespace(kind: LinuxNamespaceType, place: &Place) -> Option<Result<LinuxNamespace, SpecError>> {
    let builder = LinuxNamespaceBuilder::default().typ(kind);
    let builder = match place {
        Place::Own => builder,
        Place::Host => return None,
        Place::At(path) => builder.path(path.clone()),
    };
    Some(builder.build().map_err(|source| SpecError::Model {
        part: "namespaces",
        source,
    }))
}

/// A mount that is to pass on what is mounted later needs the container's root to do so, too.
fn root_propagation(options: &ContainerOptions) -> Option<&'static str> {
    let asked = |words: [&str; 2]| {
        let mut options = options.mounts.iter().flat_map(|mount| &mount.options);
        options.any(|option| words.contains(&option.as_str()))
    };
    if asked(["shared", "rshared"]) {
        Some("rshared")
    } else if asked(["slave", "rslave"]) {
        Some("rslave")
    } else {
        None
    }
}

fn given_devices(options: &ContainerOptions) -> impl Iterator<Item = &Device> {
    let all = options.machine.devices.iter();
    let of_the_machine = all.filter(|_| options.security.privileged);
    // One of both is given as it is asked for.
    let others = of_the_machine.filter(|device| {
        options
            .devices
            .iter()
            .all(|asked| asked.path != device.path)
    });
    others.chain(&options.devices)
}

fn node(device: &Device) -> Result<LinuxDevice, SpecError> {
    LinuxDeviceBuilder::default()
        .path(device.path.clone())
        .typ(kind(device))
        .major(i64::from(device.major))
        .minor(i64::from(device.minor))
        .file_mode(device.mode)
        .uid(device.uid)
        .gid(device.gid)
        .build()
        .map_err(|source| SpecError::Model {
            part: "devices",
            source,
        })
}

const fn kind(device: &Device) -> LinuxDeviceType {
    match device.kind {
        DeviceKind::Character => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    }
}

fn resources(options: &ContainerOptions) -> Result<LinuxResources, SpecError> {
    let limits_swap = options.machine.limits_swap;
    let mut resources = options.limits.resources(limits_swap)?;
    // Everything is denied first; the OCI runtime adds the standard devices on top (runtime-spec, "Default Devices").
    let mut rules = vec![rule(
        LinuxDeviceCgroupBuilder::default()
            .allow(options.security.privileged)
            .typ(LinuxDeviceType::A)
            .access("rwm"),
    )?];
    for device in &options.devices {
        let allowed = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind(device))
            .major(i64::from(device.major))
            .minor(i64::from(device.minor))
            .access(device.access.clone());
        rules.push(rule(allowed)?);
    }
    resources.set_devices(Some(rules));
    Ok(resources)
}

fn rule(builder: LinuxDeviceCgroupBuilder) -> Result<LinuxDeviceCgroup, SpecError> {
    builder.build().map_err(|source| SpecError::Model {
        part: "devices",
        source,
    })
}

//! What a container may do, and what it is kept from: capabilities, profiles, hidden paths, devices.

use std::path::PathBuf;

use oci_spec::runtime::Capability;

use super::seccomp::{Architecture, Seccomp, SeccompMachine};

/// What a container may do beyond its user's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Whether it is kept from nothing: all capabilities and devices, no profile, no hidden path, writable `/sys`.
    pub privileged: bool,
    /// Whether no program gives more rights than it was started with.
    pub no_new_privileges: bool,
    /// Capabilities that a user who is not the superuser keeps.
    pub capabilities_ambient: Vec<String>,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// Paths that are hidden; absent for the usual ones.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are read-only; absent for the usual ones.
    pub read_only_paths: Option<Vec<String>>,
    /// A profile of AppArmor that this machine has loaded; in force for privileged containers, too.
    pub apparmor_profile: Option<String>,
    /// The SELinux label of its processes, `user:role:type:level`.
    pub selinux_label: Option<String>,
    /// That of the files it mounts, its root file system's among them.
    pub selinux_file_label: Option<String>,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            privileged: false,
            no_new_privileges: true,
            capabilities_ambient: Vec::new(),
            seccomp: Seccomp::Engine,
            masked_paths: None,
            read_only_paths: None,
            apparmor_profile: None,
            selinux_label: None,
            selinux_file_label: None,
        }
    }
}

/// A namespace that a container is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// A new one.
    #[default]
    Own,
    /// The host's.
    Host,
    /// The one pinned at this path.
    At(PathBuf),
}

/// Which namespaces a container is in, but for the network's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// System V IPC and POSIX queues.
    pub ipc: Place,
    /// The host's name. On the host's network a new one is the host's.
    pub uts: Place,
    /// Processes.
    pub processes: Place,
    /// Cgroups.
    pub cgroup: Place,
    /// Users.
    pub user: Place,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self {
            ipc: Place::Own,
            uts: Place::Own,
            processes: Place::Own,
            cgroup: Place::Host,
            user: Place::Host,
        }
    }
}

/// What kind of device a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// A device node in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where the node is.
    pub path: PathBuf,
    /// Its kind.
    pub kind: DeviceKind,
    /// Its number's first part.
    pub major: u32,
    /// Its number's second part.
    pub minor: u32,
    /// The permissions of the node.
    pub mode: u32,
    /// The owner of the node.
    pub uid: u32,
    /// The group of the node.
    pub gid: u32,
    /// Of `r`, `w` and `m` those that the cgroup allows.
    pub access: String,
}

/// What a spec needs to know of the machine it is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Capabilities that can be given: those of this very process, by the numbers of capabilities(7), as bits.
    pub capability_bits: u64,
    /// What seccomp profiles distinguish.
    pub seccomp: SeccompMachine,
    /// Devices that a privileged container gets.
    pub devices: Vec<Device>,
    /// Whether swap can be limited.
    pub limits_swap: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            capability_bits: u64::MAX,
            seccomp: SeccompMachine {
                architecture: Architecture::OWN,
                kernel: (6, 1),
            },
            devices: Vec::new(),
            limits_swap: true,
        }
    }
}

impl Machine {
    /// The capabilities that can be given.
    pub(super) fn capabilities(&self) -> impl Iterator<Item = Capability> + '_ {
        let known = CAPABILITIES.iter().enumerate();
        known
            .filter(|(number, _)| self.capability_bits >> number & 1 == 1)
            .map(|(_, capability)| *capability)
    }
}

/// By their numbers (linux/capability.h).
const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_kernels_numbers() {
        let machine = |capability_bits| Machine {
            capability_bits,
            ..Machine::default()
        };
        let some: Vec<_> = machine(1 << 21 | 1 << 40).capabilities().collect();
        assert_eq!(some, [Capability::SysAdmin, Capability::CheckpointRestore]);
        assert_eq!(machine(u64::MAX).capabilities().count(), 41);
    }
}

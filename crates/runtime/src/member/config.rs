//! What was asked of a container of a pod, in this crate's words. Kept as JSON with the container's record, so fields are
//! only ever added, and each new one has a default.

use std::collections::BTreeMap;

use orlop_types::ContainerId;
use serde::{Deserialize, Serialize};

use crate::pod::IdMaps;
use crate::spec::Limits;

/// Everything that was asked of a container of a pod when it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberConfig {
    /// Its name within the pod.
    pub name: String,
    /// How many containers there were before it under the same name.
    pub attempt: u32,
    /// Replaces the image's entry point and command.
    pub command: Vec<String>,
    /// The arguments; without a command they follow the image's entry point.
    pub args: Vec<String>,
    /// Where to start; empty for the image's folder.
    pub working_dir: String,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// What of the host it sees.
    pub mounts: Vec<MemberMount>,
    /// Devices of the host.
    pub devices: Vec<MemberDevice>,
    /// Devices by their names in the Container Device Interface, such as `vendor.com/gpu=0`.
    pub cdi_devices: Vec<String>,
    /// Labels, for selecting.
    pub labels: BTreeMap<String, String>,
    /// Annotations, for keeping.
    pub annotations: BTreeMap<String, String>,
    /// The log's path below the pod's log folder; empty for no log.
    pub log_path: String,
    /// Whether its standard input can be attached to.
    pub stdin: bool,
    /// Whether standard input ends with the first one attached.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// What it may use.
    pub limits: Limits,
    /// What it may do.
    pub security: MemberSecurity,
    /// The signal that asks it to end, over the image's: a name with or without `SIG`, or a number; empty for the image's.
    pub stop_signal: String,
}

/// A path of the host, seen in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberMount {
    /// Where it is seen.
    pub container_path: String,
    /// What is seen. A link is followed; a path that is missing becomes a folder.
    pub host_path: String,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Whether writing is refused in mounts below it, too.
    pub recursive_read_only: bool,
    /// Whether mounts made later on one side are seen on the other.
    pub propagation: Propagation,
    /// Whether the files are to get the container's SELinux label.
    pub selinux_relabel: bool,
    /// How the owners of its files are shown; absent for as they are.
    pub id_maps: Option<IdMaps>,
    /// The image whose files are seen instead of the host's; absent for a path of the host.
    pub image: Option<MountedImage>,
}

/// An image whose files are seen in a container, read-only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountedImage {
    /// The image, as the pod names it.
    pub reference: String,
    /// The folder or file of it that is seen; empty for all.
    pub sub_path: String,
}

/// Whether mounts made later on one side of a mount are seen on the other (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// On neither.
    #[default]
    Private,
    /// The host's are seen in the container.
    HostToContainer,
    /// Both see the other's.
    Bidirectional,
}

/// A device of the host, seen in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberDevice {
    /// Where it is seen; empty for the same path as on the host.
    pub container_path: String,
    /// A device, or a folder of devices.
    pub host_path: String,
    /// Of `r`, `w` and `m` those that are allowed.
    pub permissions: String,
}

/// What a container may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberSecurity {
    /// Whether it is to be kept from nothing; the pod has to be privileged, too.
    pub privileged: bool,
    /// Capabilities on top of the default ones.
    pub capabilities_added: Vec<String>,
    /// Default capabilities taken away.
    pub capabilities_dropped: Vec<String>,
    /// Capabilities that a user who is not the superuser keeps.
    pub capabilities_ambient: Vec<String>,
    /// Whose processes it sees.
    pub processes: MemberProcesses,
    /// Whom it runs as.
    pub run_as: RunAs,
    /// Its first group; only with a user.
    pub run_as_group: Option<u32>,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's groups of the user count, too.
    pub group_policy: GroupPolicy,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// Whether no program gives more rights than it was started with.
    pub no_new_privileges: bool,
    /// Paths that are hidden.
    pub masked_paths: Vec<String>,
    /// Paths that are read-only.
    pub read_only_paths: Vec<String>,
    /// Which system calls it may make.
    pub seccomp: Profile,
    /// Its AppArmor profile.
    pub apparmor: Profile,
    /// Its SELinux label; absent for the pod's.
    pub selinux_label: Option<String>,
    /// Its user namespace, which has to be the pod's; absent for the host's.
    pub user_namespace: Option<IdMaps>,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberProcesses {
    /// Those of all containers of the pod, if the pod has a namespace for them; its own otherwise.
    #[default]
    Pod,
    /// Its own.
    Own,
    /// All of the host.
    Host,
    /// Those of another container of the pod.
    Of(ContainerId),
}

/// Whom a container runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunAs {
    /// The image's user.
    #[default]
    Image,
    /// A number.
    Uid(u32),
    /// A name that the image knows.
    Name(String),
}

/// Which groups a user is in (Kubernetes' `supplementalGroupsPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupPolicy {
    /// Those that the image's `/etc/group` names, and those asked for.
    #[default]
    Merge,
    /// Those asked for.
    Strict,
}

/// A profile of a security module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// None.
    #[default]
    Unconfined,
    /// The engine's own.
    RuntimeDefault,
    /// One of this machine: a path for seccomp, a name for AppArmor.
    Localhost(String),
}

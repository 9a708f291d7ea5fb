//! The OCI runtime spec of a container, built from its image's configuration and what the user asked for.
//!
//! Pure: everything that has to be looked up first (users of the image, facts of the host) is an argument, so one table
//! of tests covers it. The result follows runtime-spec 1.0.2, which every OCI runtime in use understands.

mod limits;
mod linux;
mod mounts;
mod process;
mod seccomp;
mod security;
mod user;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{RootBuilder, Spec, SpecBuilder};
use orlop_types::{ContainerId, IdMaps};

pub use limits::Limits;
pub use mounts::{BindMount, UserMount};
pub use seccomp::{Architecture, Seccomp, SeccompMachine, SeccompProfile};
pub use security::{Device, DeviceKind, Machine, Namespaces, Place, Security};
pub use user::{Accounts, ResolvedUser, UserError};

/// The version written into every spec. runc 1.1 refuses to guess about later ones.
const OCI_VERSION: &str = "1.0.2";

/// Open files where nobody says otherwise (containerd `pkg/oci`, 1024).
const OPEN_FILES_MAX: u64 = 1024;

/// The network a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The host's own network namespace.
    Host,
    /// A new namespace with only a loopback interface.
    None,
    /// A namespace that CNI has set up, by its path.
    Pinned(PathBuf),
}

/// What an image says about how it is run (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Where to start; empty for the root.
    pub working_dir: String,
    /// `user[:group]` by name or number; empty for the superuser.
    pub user: String,
}

/// What the user asks of a container, over what its image says.
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    /// Replaces the image's `Cmd`, and its `Entrypoint` is kept in front unless `entrypoint` is set.
    pub args: Vec<String>,
    /// Replaces the image's `Entrypoint` and drops its `Cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// The working directory, absolute; the image's otherwise.
    pub working_dir: Option<String>,
    /// `user[:group]` by name or number; the image's otherwise.
    pub user: Option<String>,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Host paths made visible, and file systems of the user's own.
    pub mounts: Vec<UserMount>,
    /// Capabilities on top of the default ones, such as `CAP_NET_ADMIN`.
    pub capabilities_added: Vec<String>,
    /// Default capabilities taken away; `ALL` takes all of them.
    pub capabilities_dropped: Vec<String>,
    /// Files that the engine made for this container, shown in place of the image's (`/etc/resolv.conf`, …).
    pub engine_files: Vec<BindMount>,
    /// Resource limits.
    pub limits: Limits,
    /// The network.
    pub network: Network,
    /// The name the container has for itself; its id otherwise.
    pub hostname: Option<String>,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// Which namespaces it is in, but for the network's.
    pub namespaces: Namespaces,
    /// How the ids of its user namespace map to the host's, if it has one.
    pub id_maps: Option<IdMaps>,
    /// What it may do.
    pub security: Security,
    /// Devices beyond those that every container has.
    pub devices: Vec<Device>,
    /// Whether `/run` is an empty file system in memory rather than the image's.
    pub run_in_memory: bool,
    /// How many files a process may have open; absent for as many as the engine's own.
    pub open_files_max: Option<u64>,
    /// Annotations for the runtime and its hooks.
    pub annotations: BTreeMap<String, String>,
    /// The cgroup parent: absolute from the controllers' root, or a slice of systemd such as `orlop.slice`.
    pub cgroup_parent: PathBuf,
    /// What stands before its id in the name of a systemd scope.
    pub scope_prefix: &'static str,
    /// The machine it is made for.
    pub machine: Machine,
}

impl Default for ContainerOptions {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            working_dir: None,
            user: None,
            terminal: false,
            mounts: Vec::new(),
            capabilities_added: Vec::new(),
            capabilities_dropped: Vec::new(),
            engine_files: Vec::new(),
            limits: Limits::default(),
            network: Network::None,
            hostname: None,
            read_only_root: false,
            namespaces: Namespaces::default(),
            id_maps: None,
            security: Security::default(),
            devices: Vec::new(),
            run_in_memory: true,
            open_files_max: Some(OPEN_FILES_MAX),
            annotations: BTreeMap::new(),
            cgroup_parent: PathBuf::from("/orlop"),
            scope_prefix: "orlop",
            machine: Machine::default(),
        }
    }
}

impl ContainerOptions {
    /// Whether the container has a UTS namespace of its own. A container in the host's network keeps the host's name.
    fn has_own_name(&self) -> bool {
        self.namespaces.uts == Place::Own && self.network != Network::Host
    }
}

/// Why no spec can be made of an image and options.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither the image nor the user says what to run.
    #[error("the image has neither entrypoint nor command, and none was given")]
    NoCommand,
    /// An environment entry without a name.
    #[error("environment entry {0:?} is not NAME=value")]
    BadEnvironment(String),
    /// A working directory that is not absolute.
    #[error("working directory {0:?} is not absolute")]
    RelativeWorkingDir(String),
    /// A mount that cannot be made.
    #[error("mount at {target:?}: {fault}")]
    BadMount {
        /// Where it is to be.
        target: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// A word that is no capability.
    #[error("{0:?} is not a Linux capability")]
    UnknownCapability(String),
    /// A host name the kernel would refuse.
    #[error("host name {0:?} must have 1 to 64 letters, digits, dots or hyphens")]
    BadHostname(String),
    /// A limit below what any runtime can start with.
    #[error(
        "a memory limit of {given} bytes is below the {least} bytes an OCI runtime needs to start"
    )]
    MemoryTooSmall {
        /// The limit asked for.
        given: u64,
        /// The least that works.
        least: u64,
    },
    /// A limit that cannot be.
    #[error("the limit {name:?} cannot be: {fault}")]
    BadLimit {
        /// Which limit.
        name: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// A device that cannot be given.
    #[error("device {path:?} cannot be given to a container: {fault}")]
    BadDevice {
        /// Its path on the host.
        path: String,
        /// What is wrong.
        fault: String,
    },
    /// A spec in the database that is none.
    #[error("the stored OCI spec cannot be understood")]
    Stored(#[source] serde_json::Error),
    /// The OCI model refused a part.
    #[error("cannot assemble the {part} of the OCI spec")]
    Model {
        /// Which part.
        part: &'static str,
        /// What the model says.
        #[source]
        source: oci_spec::OciSpecError,
    },
}

/// Builds the spec of container `id`, whose root file system will be `rootfs` inside its bundle.
///
/// # Errors
/// See [`SpecError`]; nothing has been touched.
pub fn build(
    id: &ContainerId,
    image: &ImageDefaults,
    options: &ContainerOptions,
    user: &ResolvedUser,
) -> Result<Spec, SpecError> {
    let hostname = options
        .hostname
        .clone()
        .unwrap_or_else(|| default_hostname(id));
    check_hostname(&hostname)?;
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(options.read_only_root)
        .build()
        .map_err(|source| SpecError::Model {
            part: "root",
            source,
        })?;
    let capabilities = process::capability_set(options)?;
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .mounts(mounts::build(options)?)
        .process(process::build(image, options, user, &capabilities)?)
        .linux(linux::build(id, options, &capabilities)?)
        .annotations(
            options
                .annotations
                .clone()
                .into_iter()
                .collect::<HashMap<_, _>>(),
        )
        .build()
        .map_err(|source| SpecError::Model {
            part: "spec",
            source,
        })?;
    // Only a namespace of its own is named: another's name is not this container's to change.
    spec.set_hostname(options.has_own_name().then_some(hostname));
    Ok(spec)
}

/// A stored spec with other limits; devices and everything else stay.
///
/// # Errors
/// The text is no spec, or the limits cannot be.
pub(crate) fn with_limits(
    stored: &[u8],
    limits: &Limits,
    limits_swap: bool,
) -> Result<Spec, SpecError> {
    let mut spec: Spec = serde_json::from_slice(stored).map_err(SpecError::Stored)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let devices = linux
        .resources()
        .as_ref()
        .and_then(|resources| resources.devices().clone());
    let mut resources = limits.resources(limits_swap)?;
    resources.set_devices(devices);
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// Where container `id`'s cgroup is: a path from the controllers' root, or below a slice of systemd the form that OCI
/// runtimes know, `SLICE:PREFIX:NAME`.
///
/// A path that ends in a slice, as the kubelet gives one, stands for that slice.
fn cgroup_path(parent: &Path, prefix: &str, id: &ContainerId) -> PathBuf {
    let last = parent.file_name().and_then(|name| name.to_str());
    match last.filter(|name| name.ends_with(".slice")) {
        Some(slice) => PathBuf::from(format!("{slice}:{prefix}:{id}")),
        None => parent.join(id.as_str()),
    }
}

/// Long generated ids are shortened as other engines do; the kernel allows 64 bytes.
fn default_hostname(id: &ContainerId) -> String {
    id.as_str()
        .chars()
        .take(12)
        .map(|c| if c == '_' { '-' } else { c })
        .collect::<String>()
        .trim_matches(['-', '.'])
        .to_owned()
}

fn check_hostname(name: &str) -> Result<(), SpecError> {
    let sound = (1..=64).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    if sound {
        Ok(())
    } else {
        Err(SpecError::BadHostname(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_with(options: &ContainerOptions) -> Result<Spec, SpecError> {
        let id = ContainerId::new("web").unwrap();
        let image = ImageDefaults {
            entrypoint: vec!["/entry".to_owned()],
            cmd: vec!["serve".to_owned()],
            env: vec!["A=image".to_owned(), "PATH=/bin".to_owned()],
            ..ImageDefaults::default()
        };
        build(&id, &image, options, &ResolvedUser::root())
    }

    fn arguments(options: &ContainerOptions) -> Vec<String> {
        build_with(options)
            .unwrap()
            .process()
            .clone()
            .unwrap()
            .args()
            .clone()
            .unwrap()
    }

    #[test]
    fn arguments_follow_dockers_rules() {
        let own = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            arguments(&ContainerOptions::default()),
            own(&["/entry", "serve"])
        );
        let args = ContainerOptions {
            args: own(&["x"]),
            ..ContainerOptions::default()
        };
        assert_eq!(arguments(&args), own(&["/entry", "x"]));
        let entry = ContainerOptions {
            entrypoint: Some(own(&["/e"])),
            ..ContainerOptions::default()
        };
        assert_eq!(arguments(&entry), own(&["/e"]));
    }

    #[test]
    fn a_slice_is_spelled_as_oci_runtimes_spell_it() {
        let id = ContainerId::new("web").unwrap();
        assert_eq!(
            cgroup_path(Path::new("/orlop"), "orlop", &id),
            Path::new("/orlop/web")
        );
        assert_eq!(
            cgroup_path(Path::new("orlop.slice"), "orlop", &id),
            Path::new("orlop.slice:orlop:web")
        );
        let kubelets = Path::new("/kubepods.slice/kubepods-pod1.slice");
        assert_eq!(
            cgroup_path(kubelets, "cri-orlop", &id),
            Path::new("kubepods-pod1.slice:cri-orlop:web")
        );
    }

    #[test]
    fn the_users_environment_wins_over_the_images() {
        let options = ContainerOptions {
            env: vec!["A=user".into(), "B=".into()],
            ..ContainerOptions::default()
        };
        let env = build_with(&options)
            .unwrap()
            .process()
            .clone()
            .unwrap()
            .env()
            .clone()
            .unwrap();
        assert_eq!(env, ["PATH=/bin", "A=user", "B="]);
    }

    #[test]
    fn unusable_options_are_named() {
        let bad = |options: ContainerOptions| build_with(&options).unwrap_err().to_string();
        let base = ContainerOptions::default;
        assert!(
            bad(ContainerOptions {
                env: vec!["=x".into()],
                ..base()
            })
            .contains("NAME=value")
        );
        assert!(
            bad(ContainerOptions {
                working_dir: Some("x".into()),
                ..base()
            })
            .contains("absolute")
        );
        assert!(
            bad(ContainerOptions {
                hostname: Some("../x".into()),
                ..base()
            })
            .contains("host name")
        );
        let limits = Limits {
            memory_bytes_max: Some(1 << 20),
            ..Limits::default()
        };
        let error = limits.check_room().unwrap_err().to_string();
        assert!(error.contains("memory limit"), "{error}");
    }

    #[test]
    fn a_container_on_the_hosts_network_has_no_network_or_uts_namespace_of_its_own() {
        use oci_spec::runtime::LinuxNamespaceType::{Network as Net, Uts};
        let types = |network| {
            let options = ContainerOptions {
                network,
                ..ContainerOptions::default()
            };
            let spec = build_with(&options).unwrap();
            let linux = spec.linux().clone().unwrap();
            (
                linux
                    .namespaces()
                    .iter()
                    .flatten()
                    .map(|n| n.typ())
                    .collect::<Vec<_>>(),
                spec.hostname().clone(),
            )
        };
        let (host, name) = types(Network::Host);
        assert!(!host.contains(&Net) && !host.contains(&Uts) && name.is_none());
        let (none, name) = types(Network::None);
        assert!(none.contains(&Net) && none.contains(&Uts) && name.as_deref() == Some("web"));
    }
}

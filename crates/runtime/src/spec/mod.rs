//! The OCI runtime spec of a container, built from its image's configuration and what the user asked for.
//!
//! Pure: everything that has to be looked up first (users of the image, facts of the host) is an argument, so one table
//! of tests covers it. The result follows runtime-spec 1.0.2, which every OCI runtime in use understands.

mod linux;
mod mounts;
mod process;
mod user;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{RootBuilder, Spec, SpecBuilder};
use orlop_types::ContainerId;
use serde::{Deserialize, Serialize};

pub use mounts::{BindMount, UserMount};
pub use user::{Accounts, ResolvedUser, UserError};

/// The version written into every spec. runc 1.1 refuses to guess about later ones.
const OCI_VERSION: &str = "1.0.2";

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

/// Limits on what a container may use; what is absent leaves the kernel's default. Kept as JSON with a pod's container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes_max: Option<u64>,
    /// Memory and swap together in bytes, `u64::MAX` for any amount; the memory limit otherwise, so that there is no swap
    /// on top.
    pub memory_and_swap_bytes_max: Option<u64>,
    /// Processor time in thousandths of a processor; a quota goes before it.
    pub cpu_millis_max: Option<u32>,
    /// Processor time in each period, in microseconds; negative for any amount.
    pub cpu_quota_micros: Option<i64>,
    /// The period over which the quota is counted, in microseconds.
    pub cpu_period_micros: Option<u64>,
    /// The weight against others when processors are busy; 1024 is one processor's.
    pub cpu_shares: Option<u64>,
    /// Processors to run on, as in `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to take memory from, as in `0-1`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// Huge pages in bytes, by page size as in `2MB`.
    pub hugepage_bytes_max: BTreeMap<String, u64>,
    /// Files of the cgroup and what is written into them; cgroup v2 only.
    pub unified: BTreeMap<String, String>,
    /// How soon it is killed when the machine has no memory left: -1000 (never) to 1000.
    pub oom_score_adjustment: Option<i32>,
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
    /// Annotations for the runtime and its hooks.
    pub annotations: BTreeMap<String, String>,
    /// The cgroup parent: absolute from the controllers' root, or a slice of systemd such as `orlop.slice`.
    pub cgroup_parent: PathBuf,
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
            annotations: BTreeMap::new(),
            cgroup_parent: PathBuf::from("/orlop"),
        }
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
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .mounts(mounts::build(options)?)
        .process(process::build(image, options, user)?)
        .linux(linux::build(id, options)?)
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
    // A container in the host's network keeps the host's name: the UTS namespace is shared.
    spec.set_hostname((options.network != Network::Host).then_some(hostname));
    Ok(spec)
}

/// Where container `id`'s cgroup is: a path from the controllers' root, or below a slice of systemd the form that OCI
/// runtimes know, `SLICE:PREFIX:NAME`.
fn cgroup_path(parent: &Path, id: &ContainerId) -> PathBuf {
    match parent.to_str().filter(|parent| parent.ends_with(".slice")) {
        Some(slice) => PathBuf::from(format!("{}:orlop:{id}", slice.trim_start_matches('/'))),
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
            cgroup_path(Path::new("/orlop"), &id),
            Path::new("/orlop/web")
        );
        assert_eq!(
            cgroup_path(Path::new("orlop.slice"), &id),
            Path::new("orlop.slice:orlop:web")
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
        assert!(bad(ContainerOptions { limits, ..base() }).contains("memory limit"));
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

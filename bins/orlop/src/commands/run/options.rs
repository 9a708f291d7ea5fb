//! The options of a container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use orlop_api::orlop::v1::{ContainerLimits, ContainerMount, CreateRequest, Network};
use orlop_base::units::ByteSize;
use orlop_types::ContainerId;
use orlop_types::restart::{POLICY_LABEL, RestartPolicy, STATUS_LABEL, UnknownPolicy};

use crate::commands::namespaces::parse_label;
use crate::error::{CliError, Explain};
use crate::image;

/// An environment file of this size is a mistake.
const ENVIRONMENT_BYTES_MAX: u64 = 1 << 20;

/// What a container gets besides its image.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The container's name, which becomes its id
    #[arg(long)]
    name: Option<ContainerId>,
    /// An environment variable; without a value, our own
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// A file with a NAME=VALUE in each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Mount a folder or file of the machine
    #[arg(long, short, value_name = "SOURCE:TARGET[:OPTIONS]", value_parser = parse_volume)]
    volume: Vec<ContainerMount>,
    /// Mount a file system in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]", value_parser = parse_tmpfs)]
    tmpfs: Vec<ContainerMount>,
    /// Most memory, such as 64MiB or 64m
    #[arg(long, short, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Most memory and swap together
    #[arg(long, value_name = "SIZE")]
    memory_swap: Option<ByteSize>,
    /// Most processors, such as 1.5
    #[arg(long, value_name = "COUNT", value_parser = parse_cpus)]
    cpus: Option<u64>,
    /// Which processors, such as 0-2,7
    #[arg(
        long,
        value_name = "LIST",
        default_value = "",
        hide_default_value = true
    )]
    cpuset_cpus: String,
    /// Most processes
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pids_limit: u64,
    /// Run as this user
    #[arg(
        long,
        short,
        value_name = "USER[:GROUP]",
        default_value = "",
        hide_default_value = true
    )]
    user: String,
    /// Start in this folder
    #[arg(
        long,
        short,
        value_name = "FOLDER",
        default_value = "",
        hide_default_value = true
    )]
    workdir: String,
    /// The image's entry point, replaced
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// The host name
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    hostname: String,
    /// The network
    #[arg(long, visible_alias = "network", value_enum)]
    net: Option<Net>,
    /// A label
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// An annotation of the OCI configuration
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_label)]
    annotation: Vec<(String, String)>,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Add a capability, such as NET_ADMIN
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Give every capability and device
    #[arg(long)]
    privileged: bool,
    /// A device: a path such as /dev/fuse, or a CDI name such as vendor.com/gpu=0
    #[arg(long, value_name = "PATH")]
    device: Vec<String>,
    /// A runtime of the daemon's configuration
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    runtime: String,
    /// Which snapshotter holds the root file system
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    snapshotter: String,
    /// When it is started again: no, always, unless-stopped, on-failure or on-failure:RETRIES
    #[arg(long, value_name = "POLICY", value_parser = parse_restart, conflicts_with = "rm")]
    restart: Option<String>,
    /// Another platform than this machine's, such as linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// When to fetch the image
    #[arg(long, value_enum, default_value_t = PullPolicy::Missing)]
    pub(super) pull: PullPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    /// The machine's own
    Host,
    /// Loopback only
    None,
    /// As the configured CNI plugins make it
    Cni,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// When it is not here
    Missing,
    /// Every time
    Always,
    /// Never
    Never,
}

impl Options {
    /// Puts the options into a request.
    pub(super) fn apply(&self, request: CreateRequest) -> Result<CreateRequest, CliError> {
        let name = self.name.as_ref().map(ToString::to_string);
        Ok(CreateRequest {
            name: name.unwrap_or_default(),
            env: self.environment()?,
            mounts: self.volume.iter().chain(&self.tmpfs).cloned().collect(),
            limits: Some(self.limits()),
            user: self.user.clone(),
            working_folder: self.workdir.clone(),
            entrypoint: self.entrypoint.iter().cloned().collect(),
            hostname: self.hostname.clone(),
            network: self.net.map_or(Network::Unspecified, Net::network).into(),
            labels: self.labels(),
            annotations: self.annotation.iter().cloned().collect(),
            read_only_root: self.read_only,
            capabilities_added: self.cap_add.iter().map(|name| capability(name)).collect(),
            capabilities_dropped: self.cap_drop.iter().map(|name| capability(name)).collect(),
            privileged: self.privileged,
            devices: self.device.clone(),
            runtime: self.runtime.clone(),
            snapshotter: self.snapshotter.clone(),
            platform: image::platform(self.platform.as_deref())?,
            ..request
        })
    }

    /// The labels asked for, and those by which the daemon knows when to start it again.
    fn labels(&self) -> BTreeMap<String, String> {
        let restart = self.restart.iter().flat_map(|policy| {
            let status = (STATUS_LABEL.to_owned(), "running".to_owned());
            [status, (POLICY_LABEL.to_owned(), policy.clone())]
        });
        self.label.iter().cloned().chain(restart).collect()
    }

    fn limits(&self) -> ContainerLimits {
        let bytes = |size: Option<ByteSize>| size.map_or(0, ByteSize::as_u64);
        ContainerLimits {
            memory_bytes: bytes(self.memory),
            memory_and_swap_bytes: bytes(self.memory_swap),
            cpu_millis: self.cpus.unwrap_or(0),
            cpuset_cpus: self.cpuset_cpus.clone(),
            pids: self.pids_limit,
        }
    }

    /// Files first, so that the command line wins.
    fn environment(&self) -> Result<Vec<String>, CliError> {
        let mut variables = Vec::new();
        for path in &self.env_file {
            let what = || format!("cannot read {}", path.display());
            let length = std::fs::metadata(path).explain(what)?.len();
            if length > ENVIRONMENT_BYTES_MAX {
                return Err(CliError::argument(
                    "--env-file",
                    format!("{} has {length} bytes", path.display()),
                ));
            }
            let text = std::fs::read_to_string(path).explain(what)?;
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            variables.extend(lines.filter_map(variable));
        }
        variables.extend(self.env.iter().filter_map(|text| variable(text)));
        Ok(variables)
    }
}

impl Net {
    fn network(self) -> Network {
        match self {
            Self::Host => Network::Host,
            Self::None => Network::None,
            Self::Cni => Network::Cni,
        }
    }
}

/// `NAME=value` as it is; `NAME` alone with our own value, or not at all if we have none.
pub(crate) fn variable(text: &str) -> Option<String> {
    if text.contains('=') {
        return Some(text.to_owned());
    }
    std::env::var(text)
        .ok()
        .map(|value| format!("{text}={value}"))
}

/// The kernel's name, which people often write without its beginning.
fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    match upper.as_str() {
        "ALL" => upper,
        name if name.starts_with("CAP_") => upper,
        name => format!("CAP_{name}"),
    }
}

/// Thousandths of a processor.
fn parse_cpus(text: &str) -> Result<u64, String> {
    let expected =
        || "write a number of processors with up to three decimals, such as 1.5".to_owned();
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
        return Err(expected());
    }
    let whole: u64 = whole.parse().map_err(|_| expected())?;
    let thousandths: u64 = format!("{decimals:0<3}").parse().map_err(|_| expected())?;
    let millis = whole
        .checked_mul(1000)
        .and_then(|millis| millis.checked_add(thousandths));
    millis.filter(|millis| *millis > 0).ok_or_else(expected)
}

/// The policy as its label has it.
fn parse_restart(text: &str) -> Result<String, UnknownPolicy> {
    text.parse::<RestartPolicy>().map(|_policy| text.to_owned())
}

/// `SOURCE:TARGET[:OPTIONS]`.
fn parse_volume(text: &str) -> Result<ContainerMount, String> {
    let mut parts = text.splitn(3, ':');
    let (source, target) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err("write SOURCE:TARGET with absolute paths, and perhaps :ro".to_owned());
    }
    let mut options = mount_options(parts.next());
    let read_only = options.iter().any(|option| option == "ro");
    options.retain(|option| option != "ro" && option != "rw");
    Ok(ContainerMount {
        r#type: "bind".to_owned(),
        source: source.to_owned(),
        destination: target.to_owned(),
        read_only,
        options,
    })
}

/// `TARGET[:OPTIONS]`.
fn parse_tmpfs(text: &str) -> Result<ContainerMount, String> {
    let (target, options) = match text.split_once(':') {
        Some((target, options)) => (target, Some(options)),
        None => (text, None),
    };
    if !target.starts_with('/') {
        return Err("write an absolute path in the container".to_owned());
    }
    Ok(ContainerMount {
        r#type: "tmpfs".to_owned(),
        source: String::new(),
        destination: target.to_owned(),
        read_only: false,
        options: mount_options(options),
    })
}

fn mount_options(text: Option<&str>) -> Vec<String> {
    let options = text.unwrap_or_default().split(',');
    options
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_thousandths() {
        for (text, millis) in [("1", 1000), ("1.5", 1500), ("0.25", 250), ("0.001", 1)] {
            assert_eq!(parse_cpus(text), Ok(millis), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "1.",
            ".5",
            "1.2345",
            "x",
            "99999999999999999999",
        ] {
            assert!(parse_cpus(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn volumes_have_absolute_paths_and_options() {
        let mount = parse_volume("/srv:/data:ro,rshared").unwrap();
        assert_eq!(
            (mount.source.as_str(), mount.destination.as_str()),
            ("/srv", "/data")
        );
        assert!(mount.read_only);
        assert_eq!(mount.options, ["rshared"]);
        for text in ["", "/srv", "srv:/data", "/srv:data", ":/data"] {
            assert!(parse_volume(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn capabilities_may_be_written_short() {
        assert_eq!(capability("net_admin"), "CAP_NET_ADMIN");
        assert_eq!(capability("CAP_SYS_TIME"), "CAP_SYS_TIME");
        assert_eq!(capability("all"), "ALL");
    }

    #[test]
    fn variables_without_a_value_take_ours_or_go() {
        assert_eq!(variable("A=b=c").as_deref(), Some("A=b=c"));
        assert_eq!(variable("ORLOP_TEST_UNSET_VARIABLE"), None);
        let path = std::env::var("PATH").unwrap();
        assert_eq!(variable("PATH"), Some(format!("PATH={path}")));
    }
}

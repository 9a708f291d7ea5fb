//! Which kernel parameters a pod may set: those that belong to its own namespaces, and no other.

use std::path::PathBuf;

use orlop_sys::namespace::Parameter;

use super::config::PodConfig;
use super::error::PodError;

/// Set for every pod unless it says otherwise: binding low ports needs no root.
const PORT_START: &str = "net/ipv4/ip_unprivileged_port_start";

/// Set for every pod unless it says otherwise: pinging needs no root.
const PING_GROUPS: &str = "net/ipv4/ping_group_range";

/// All group ids.
const EVERY_GROUP: &str = "0 2147483647";

/// Folders whose next component is an interface's name.
const BY_INTERFACE: &[&str] = &[
    "net/ipv4/conf/",
    "net/ipv4/neigh/",
    "net/ipv6/conf/",
    "net/ipv6/neigh/",
    "net/mpls/conf/",
];

/// Interfaces that are there before any plugin has run.
const FIRST_INTERFACES: &[&str] = &["all", "default", "lo"];

/// What the node allows every pod (containerd's `enable_unprivileged_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unprivileged {
    pub(super) ports: bool,
    pub(super) icmp: bool,
}

/// Kernel parameters by when they can be set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// As soon as the namespaces are made.
    pub(super) first: Vec<Parameter>,
    /// When plugins have made the interfaces that they are about.
    pub(super) of_interfaces: Vec<Parameter>,
}

/// What is to be written for a pod.
///
/// # Errors
/// A parameter that is not of a namespace, or of one that the pod shares with the host.
pub(super) fn parameters(
    config: &PodConfig,
    unprivileged: Unprivileged,
) -> Result<Parameters, PodError> {
    let mut parameters = Parameters::default();
    for (name, value) in &config.sysctls {
        let path =
            path(name).ok_or_else(|| refused(name, "it is not a kernel parameter's name"))?;
        admit(name, &path, config)?;
        let target = if waits_for_interface(&path) {
            &mut parameters.of_interfaces
        } else {
            &mut parameters.first
        };
        target.push(Parameter {
            path: path.into(),
            value: value.clone(),
            optional: false,
        });
    }
    if !config.namespaces.host_network {
        let defaults = [
            (unprivileged.ports, PORT_START, "0"),
            (unprivileged.icmp, PING_GROUPS, EVERY_GROUP),
        ];
        for (_, path, value) in defaults.into_iter().filter(|(wanted, ..)| *wanted) {
            set_default(&mut parameters.first, path, value);
        }
    }
    Ok(parameters)
}

fn set_default(parameters: &mut Vec<Parameter>, path: &str, value: &str) {
    let path = PathBuf::from(path);
    if parameters.iter().any(|parameter| parameter.path == path) {
        return;
    }
    parameters.push(Parameter {
        path,
        value: value.to_owned(),
        // Older kernels and those without IPv4 do not have them.
        optional: true,
    });
}

/// The file beneath `/proc/sys`, by sysctl(8)'s rule: the first separator decides whether dots or slashes separate; the
/// other one then stands for a dot within a name, as in `net/ipv4/conf/eth0.100/forwarding`.
fn path(name: &str) -> Option<String> {
    let separator = name.find(['.', '/']).map(|at| name.as_bytes()[at])?;
    let path: String = if separator == b'/' {
        name.to_owned()
    } else {
        name.chars()
            .map(|character| match character {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    };
    let is_sound = |component: &str| {
        !matches!(component, "" | "." | "..")
            && component
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte))
    };
    path.split('/').all(is_sound).then_some(path)
}

fn admit(name: &str, path: &str, config: &PodConfig) -> Result<(), PodError> {
    let of_ipc = path.starts_with("kernel/shm")
        || path.starts_with("kernel/msg")
        || path == "kernel/sem"
        || path.starts_with("fs/mqueue/");
    let namespaces = &config.namespaces;
    match (of_ipc, path.starts_with("net/")) {
        (true, _) if namespaces.host_ipc => Err(refused(name, "the pod shares IPC with the host")),
        (_, true) if namespaces.host_network => {
            Err(refused(name, "the pod is in the host's network"))
        }
        (true, _) | (_, true) => Ok(()),
        (false, false) => Err(refused(
            name,
            "it belongs to no namespace of the pod; only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* do",
        )),
    }
}

fn waits_for_interface(path: &str) -> bool {
    let interface = BY_INTERFACE
        .iter()
        .find_map(|folder| path.strip_prefix(folder)?.split('/').next());
    interface.is_some_and(|interface| !FIRST_INTERFACES.contains(&interface))
}

fn refused(name: &str, why: &str) -> PodError {
    PodError::Config {
        field: "sysctls",
        fault: format!("{name:?}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Unprivileged = Unprivileged {
        ports: false,
        icmp: false,
    };

    fn config(sysctls: &[(&str, &str)]) -> PodConfig {
        let owned = sysctls
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        PodConfig {
            sysctls: owned.collect(),
            ..PodConfig::default()
        }
    }

    fn paths(parameters: &[Parameter]) -> Vec<&str> {
        let paths = parameters.iter().map(|parameter| &parameter.path);
        paths.filter_map(|path| path.to_str()).collect()
    }

    #[test]
    fn parameters_of_namespaces_are_set_and_those_of_interfaces_later() {
        let config = config(&[
            ("kernel.shm_rmid_forced", "1"),
            ("kernel/sem", "1 2 3 4"),
            ("fs.mqueue.msg_max", "100"),
            ("net.ipv4.conf.all.forwarding", "1"),
            ("net.ipv4.conf.eth0.forwarding", "1"),
            ("net/ipv4/conf/eth0.100/forwarding", "1"),
            ("net.ipv4.conf.eth0/100.accept_ra", "1"),
        ]);
        let parameters = parameters(&config, NONE).unwrap();
        assert_eq!(
            paths(&parameters.first),
            [
                "fs/mqueue/msg_max",
                "kernel/shm_rmid_forced",
                "kernel/sem",
                "net/ipv4/conf/all/forwarding"
            ]
        );
        assert_eq!(
            paths(&parameters.of_interfaces),
            [
                "net/ipv4/conf/eth0/forwarding",
                "net/ipv4/conf/eth0.100/accept_ra",
                "net/ipv4/conf/eth0.100/forwarding"
            ]
        );
    }

    #[test]
    fn what_would_change_the_host_is_refused_by_name() {
        let shared = |host_network, host_ipc| {
            move |config: &mut PodConfig| {
                config.namespaces.host_network = host_network;
                config.namespaces.host_ipc = host_ipc;
            }
        };
        for (name, why) in [
            ("kernel.panic", "no namespace"),
            ("vm.swappiness", "no namespace"),
            ("kernel.semaphore", "no namespace"),
            ("net", "not a kernel parameter"),
            ("net/../kernel/panic", "not a kernel parameter"),
            ("net..x", "not a kernel parameter"),
            ("", "not a kernel parameter"),
        ] {
            let fault = parameters(&config(&[(name, "1")]), NONE)
                .unwrap_err()
                .to_string();
            assert!(fault.contains(why), "{name}: {fault}");
        }
        let mut host = config(&[("net.core.somaxconn", "1")]);
        shared(true, false)(&mut host);
        assert!(parameters(&host, NONE).is_err());
        let mut host = config(&[("kernel.msgmax", "1")]);
        shared(false, true)(&mut host);
        assert!(parameters(&host, NONE).is_err());
    }

    #[test]
    fn low_ports_and_pings_are_allowed_unless_the_pod_says_otherwise() {
        let all = Unprivileged {
            ports: true,
            icmp: true,
        };
        let set = parameters(
            &config(&[("net.ipv4.ip_unprivileged_port_start", "80")]),
            all,
        );
        let set = set.unwrap().first;
        assert_eq!(paths(&set), [PORT_START, PING_GROUPS]);
        assert_eq!(set[0].value, "80");
        let mut host = PodConfig::default();
        host.namespaces.host_network = true;
        assert_eq!(parameters(&host, all).unwrap(), Parameters::default());
    }
}

//! Pods between CRI's words and the runtime's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use orlop_api::runtime::v1 as api;
use orlop_runtime::pod::{
    DnsConfig, IdMaps, IdRange, Pod, PodConfig, PodNamespaces, PodResources, PortMapping,
    PortProtocol, ProcessNamespace,
};
use tonic::Status;

use crate::{find, status, translate};

/// What is asked of a pod.
///
/// # Errors
/// Something is missing, out of range, or of a kind that pods do not have.
pub(crate) fn config(config: api::PodSandboxConfig, handler: String) -> Result<PodConfig, Status> {
    let metadata = config
        .metadata
        .ok_or_else(|| status::missing("config.metadata"))?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let ports = config.port_mappings.into_iter().map(port);
    Ok(PodConfig {
        name: metadata.name,
        kubernetes_namespace: metadata.namespace,
        uid: metadata.uid,
        attempt: metadata.attempt,
        hostname: config.hostname,
        log_folder: config.log_directory.into(),
        dns: config.dns_config.map(dns),
        ports: ports.collect::<Result<_, _>>()?,
        labels: config.labels,
        annotations: config.annotations,
        cgroup_parent: linux.cgroup_parent,
        sysctls: linux.sysctls,
        namespaces: namespaces(security.namespace_options.unwrap_or_default())?,
        handler,
        privileged: security.privileged,
        selinux_label: security.selinux_options.map(selinux).unwrap_or_default(),
        overhead: linux.overhead.map(resources),
        resources: linux.resources.map(resources),
    })
}

/// One entry of a list.
pub(crate) fn listed(pod: Pod) -> api::PodSandbox {
    api::PodSandbox {
        metadata: Some(metadata(&pod.config)),
        state: state(&pod).into(),
        created_at: translate::nanos(Some(pod.created_at)),
        id: pod.id.to_string(),
        labels: pod.config.labels,
        annotations: pod.config.annotations,
        runtime_handler: pod.config.handler,
    }
}

/// How a pod is.
pub(crate) fn detailed(pod: Pod) -> api::PodSandboxStatus {
    let mut addresses = pod.addresses.iter().map(IpAddr::to_string);
    let network = api::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| api::PodIp { ip }).collect(),
    };
    let options = namespace_option(&pod.config.namespaces);
    api::PodSandboxStatus {
        metadata: Some(metadata(&pod.config)),
        state: state(&pod).into(),
        created_at: translate::nanos(Some(pod.created_at)),
        network: Some(network),
        linux: Some(api::LinuxPodSandboxStatus {
            namespaces: Some(api::Namespace {
                options: Some(options),
            }),
        }),
        id: pod.id.to_string(),
        labels: pod.config.labels,
        annotations: pod.config.annotations,
        runtime_handler: pod.config.handler,
    }
}

/// Whether a filter keeps a pod. One that is still being made is in no list, as in containerd: nobody knows its id yet.
pub(crate) fn is_wanted(pod: &Pod, filter: &api::PodSandboxFilter) -> bool {
    use orlop_runtime::pod::PodPhase;
    let is_known = match pod.phase {
        PodPhase::Creating(_) => false,
        PodPhase::Ready | PodPhase::Stopping | PodPhase::NotReady | PodPhase::Removing => true,
    };
    let in_state = filter
        .state
        .as_ref()
        .is_none_or(|wanted| wanted.state == i32::from(state(pod)));
    let labels = &pod.config.labels;
    is_known
        && in_state
        && find::begins(pod.id.as_str(), &filter.id)
        && filter
            .label_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

/// Limits and shares as they are kept.
pub(crate) fn resources(from: api::LinuxContainerResources) -> PodResources {
    let hugepages = from.hugepage_limits.into_iter();
    PodResources {
        cpu_period_micros: from.cpu_period,
        cpu_quota_micros: from.cpu_quota,
        cpu_shares: from.cpu_shares,
        memory_limit_bytes: from.memory_limit_in_bytes,
        memory_swap_limit_bytes: from.memory_swap_limit_in_bytes,
        oom_score_adj: from.oom_score_adj,
        cpuset_cpus: from.cpuset_cpus,
        cpuset_mems: from.cpuset_mems,
        hugepage_limits_bytes: hugepages
            .map(|limit| (limit.page_size, limit.limit))
            .collect(),
        unified: from.unified.into_iter().collect::<BTreeMap<_, _>>(),
    }
}

fn metadata(config: &PodConfig) -> api::PodSandboxMetadata {
    api::PodSandboxMetadata {
        name: config.name.clone(),
        uid: config.uid.clone(),
        namespace: config.kubernetes_namespace.clone(),
        attempt: config.attempt,
    }
}

fn state(pod: &Pod) -> api::PodSandboxState {
    if pod.is_ready() {
        api::PodSandboxState::SandboxReady
    } else {
        api::PodSandboxState::SandboxNotready
    }
}

fn dns(from: api::DnsConfig) -> DnsConfig {
    DnsConfig {
        servers: from.servers,
        searches: from.searches,
        options: from.options,
    }
}

fn port(from: api::PortMapping) -> Result<PortMapping, Status> {
    let number = |field: &str, port: i32| {
        let bad = |_| status::invalid_text(format!("{field} {port} is not a port"));
        u16::try_from(port).map_err(bad)
    };
    let protocol = match from.protocol() {
        api::Protocol::Tcp => PortProtocol::Tcp,
        api::Protocol::Udp => PortProtocol::Udp,
        api::Protocol::Sctp => PortProtocol::Sctp,
    };
    let host_ip = if from.host_ip.is_empty() {
        None
    } else {
        Some(translate::parse(&from.host_ip)?)
    };
    Ok(PortMapping {
        protocol,
        container_port: number("container_port", from.container_port)?,
        host_port: number("host_port", from.host_port)?,
        host_ip,
    })
}

fn selinux(from: api::SeLinuxOption) -> String {
    let parts = [from.user, from.role, from.r#type, from.level];
    if parts.iter().all(String::is_empty) {
        return String::new();
    }
    parts.join(":")
}

fn namespaces(from: api::NamespaceOption) -> Result<PodNamespaces, Status> {
    use api::NamespaceMode::{Container, Node, Pod, Target};
    let shared_or_own = |field: &str, mode: api::NamespaceMode| match mode {
        Pod => Ok(false),
        Node => Ok(true),
        Container | Target => Err(status::invalid_text(format!(
            "{field} of a pod is POD or NODE, and not {}",
            mode.as_str_name()
        ))),
    };
    let processes = match from.pid() {
        Pod => ProcessNamespace::Pod,
        Container => ProcessNamespace::Container,
        Node => ProcessNamespace::Host,
        Target => {
            let fault = "the process namespace of a pod is not that of a container";
            return Err(status::invalid_text(fault));
        }
    };
    let (network, ipc) = (from.network(), from.ipc());
    Ok(PodNamespaces {
        host_network: shared_or_own("the network", network)?,
        host_ipc: shared_or_own("IPC", ipc)?,
        processes,
        user: from.userns_options.map(user).transpose()?.flatten(),
    })
}

fn user(from: api::UserNamespace) -> Result<Option<IdMaps>, Status> {
    use api::NamespaceMode::{Container, Node, Pod, Target};
    match from.mode() {
        Node if from.uids.is_empty() && from.gids.is_empty() => Ok(None),
        Node => Err(status::invalid_text(
            "the host's user namespace takes no mappings",
        )),
        Pod if from.uids.is_empty() || from.gids.is_empty() => Err(status::invalid_text(
            "a user namespace of its own needs mappings of user and of group ids",
        )),
        Pod => Ok(Some(IdMaps {
            uids: from.uids.into_iter().map(range).collect(),
            gids: from.gids.into_iter().map(range).collect(),
        })),
        mode @ (Container | Target) => Err(status::invalid_text(format!(
            "the user namespace of a pod is POD or NODE, and not {}",
            mode.as_str_name()
        ))),
    }
}

const fn range(from: api::IdMapping) -> IdRange {
    IdRange {
        inside: from.container_id,
        outside: from.host_id,
        count: from.length,
    }
}

fn namespace_option(namespaces: &PodNamespaces) -> api::NamespaceOption {
    use api::NamespaceMode::{Container, Node, Pod};
    let shared = |is_host: bool| if is_host { Node } else { Pod };
    let pid = match namespaces.processes {
        ProcessNamespace::Container => Container,
        ProcessNamespace::Pod => Pod,
        ProcessNamespace::Host => Node,
    };
    let ranges = |ranges: &[IdRange]| {
        let mapping = |range: &IdRange| api::IdMapping {
            container_id: range.inside,
            host_id: range.outside,
            length: range.count,
        };
        ranges.iter().map(mapping).collect()
    };
    let userns_options = namespaces.user.as_ref().map(|maps| api::UserNamespace {
        mode: Pod.into(),
        uids: ranges(&maps.uids),
        gids: ranges(&maps.gids),
    });
    api::NamespaceOption {
        network: shared(namespaces.host_network).into(),
        ipc: shared(namespaces.host_ipc).into(),
        pid: pid.into(),
        target_id: String::new(),
        userns_options,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn asked(options: api::NamespaceOption) -> api::PodSandboxConfig {
        let metadata = api::PodSandboxMetadata {
            name: "web".to_owned(),
            ..Default::default()
        };
        let security = api::LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..Default::default()
        };
        api::PodSandboxConfig {
            metadata: Some(metadata),
            linux: Some(api::LinuxPodSandboxConfig {
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn namespaces_come_back_as_they_were_asked_for() {
        use api::NamespaceMode::{Container, Node, Pod};
        for (network, pid, ipc) in [(Pod, Pod, Pod), (Node, Container, Node), (Pod, Node, Node)] {
            let options = api::NamespaceOption {
                network: network.into(),
                pid: pid.into(),
                ipc: ipc.into(),
                ..Default::default()
            };
            let config = config(asked(options.clone()), String::new()).unwrap();
            assert_eq!(namespace_option(&config.namespaces), options);
        }
    }

    #[test]
    fn what_a_pod_cannot_have_is_refused() {
        use api::NamespaceMode::{Container, Target};
        let with = |change: fn(&mut api::NamespaceOption)| {
            let mut options = api::NamespaceOption::default();
            change(&mut options);
            config(asked(options), String::new()).map_err(|status| status.code())
        };
        let invalid = tonic::Code::InvalidArgument;
        assert_eq!(with(|o| o.network = Container.into()).unwrap_err(), invalid);
        assert_eq!(with(|o| o.pid = Target.into()).unwrap_err(), invalid);
        assert_eq!(with(|o| o.ipc = Target.into()).unwrap_err(), invalid);
        let own = api::UserNamespace::default();
        let options = api::NamespaceOption {
            userns_options: Some(own),
            ..api::NamespaceOption::default()
        };
        assert!(config(asked(options), String::new()).is_err());
        assert!(config(api::PodSandboxConfig::default(), String::new()).is_err());
    }

    #[test]
    fn a_port_is_a_port() {
        let mapping = |container_port, host_port, host_ip: &str| {
            port(api::PortMapping {
                protocol: api::Protocol::Udp.into(),
                container_port,
                host_port,
                host_ip: host_ip.to_owned(),
            })
        };
        let sound = mapping(53, 0, "127.0.0.1").unwrap();
        assert_eq!((sound.container_port, sound.host_port), (53, 0));
        assert_eq!(sound.protocol, PortProtocol::Udp);
        for (inside, outside, ip) in [(-1, 0, ""), (1, 65_536, ""), (1, 1, "host")] {
            assert!(mapping(inside, outside, ip).is_err());
        }
    }
}

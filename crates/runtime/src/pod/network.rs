//! A pod's attachment by the node's CNI plugins.
//!
//! Crash: the attachment is in CNI's cache before a plugin runs, so that detaching finds it; detaching what was never
//! attached succeeds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use orlop_cni::{Attachment, AttachmentId, Network, Outcome, Plugins, Settings, detach};
use serde_json::{Value, json};

use super::bandwidth;
use super::config::{PodConfig, PortProtocol};
use super::error::PodError;
use super::record::{PodKey, PodRecord};

/// What the interface is called inside, as everywhere.
pub(super) const INTERFACE: &str = "eth0";

/// Further arguments of capabilities, by name, as a JSON object: `{"ips": ["10.1.0.7/24"], "mac": "…"}`.
const CAPABILITIES_ANNOTATION: &str = "orlop.dev/cni-capabilities";

/// How containerd names the capability that gets a pod's annotations.
const ANNOTATIONS_CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";

/// How long the network may think about its own state. Whoever asks comes back.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// What an attachment gave.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) result: Value,
}

/// Attaches a pod's network namespace. Blocks.
pub(super) fn attach(
    settings: &Settings,
    key: &PodKey,
    record: &PodRecord,
    path: &Path,
) -> Result<Attached, PodError> {
    let failed = |source| failed(key, "attach", source);
    let network = Network::load(settings.clone(), Plugins).map_err(failed)?;
    let id = attachment_id(key);
    let attachment = Attachment {
        container: &id,
        namespace_path: path,
        interface: INTERFACE,
        capabilities: capabilities(record)?,
        arguments: arguments(key, &record.config),
    };
    let outcome = network.add(&attachment).map_err(failed)?;
    let addresses = addresses(&outcome);
    if addresses.is_empty() {
        return Err(PodError::NoAddress {
            pod: key.pod.to_string(),
        });
    }
    let result = serde_json::to_value(&outcome).unwrap_or_default();
    Ok(Attached { addresses, result })
}

/// Detaches it, as it was attached. Blocks.
pub(super) fn release(
    settings: &Settings,
    key: &PodKey,
    record: &PodRecord,
) -> Result<(), PodError> {
    let id = attachment_id(key);
    let path = record.places.network.clone().unwrap_or_default();
    let attachment = Attachment {
        container: &id,
        namespace_path: &path,
        interface: INTERFACE,
        // Those it was attached with are in the cache.
        capabilities: BTreeMap::new(),
        arguments: arguments(key, &record.config),
    };
    detach(settings, &Plugins, &attachment)
        .map(drop)
        .map_err(|source| failed(key, "detach", source))
}

/// Asks the plugins whether a pod is still attached as it was made. Blocks.
pub(super) fn check(settings: &Settings, key: &PodKey, record: &PodRecord) -> Result<(), PodError> {
    let failed = |source| failed(key, "check", source);
    let network = Network::load(settings.clone(), Plugins).map_err(failed)?;
    let id = attachment_id(key);
    let path = record.places.network.clone().unwrap_or_default();
    let attachment = Attachment {
        container: &id,
        namespace_path: &path,
        interface: INTERFACE,
        capabilities: capabilities(record)?,
        arguments: arguments(key, &record.config),
    };
    network.check(&attachment).map_err(failed)
}

/// Whether pods could be attached now. Blocks, but not for long.
pub(super) fn status(settings: &Settings) -> Result<(), orlop_cni::Error> {
    let impatient = Settings {
        plugin_limit: settings.plugin_limit.min(STATUS_LIMIT),
        ..settings.clone()
    };
    Network::load(impatient, Plugins)?.status()
}

/// What a pod is attached as: name and interface.
pub(super) fn attached_as(key: &PodKey) -> (String, String) {
    (attachment_id(key).to_string(), INTERFACE.to_owned())
}

/// The arguments of capabilities that a pod's configuration has something to say to; plugins get what they declare.
pub(super) fn capabilities(record: &PodRecord) -> Result<BTreeMap<String, Value>, PodError> {
    let config = &record.config;
    let mut capabilities = further_capabilities(config)?;
    let mut set = |name: &str, value: Value| drop(capabilities.insert(name.to_owned(), value));
    let ports = port_mappings(config);
    if !ports.is_empty() {
        set("portMappings", Value::Array(ports));
    }
    if let Some(bandwidth) = bandwidth::argument(&config.annotations)? {
        set("bandwidth", bandwidth);
    }
    if let Some(dns) = &config.dns {
        let dns = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        set("dns", dns);
    }
    let mut aliases = vec![config.name.clone()];
    if !config.hostname.is_empty() && config.hostname != config.name {
        aliases.push(config.hostname.clone());
    }
    set("aliases", json!(aliases));
    set("cgroupPath", json!(record.cgroup_parent));
    set(ANNOTATIONS_CAPABILITY, json!(config.annotations));
    Ok(capabilities)
}

fn further_capabilities(config: &PodConfig) -> Result<BTreeMap<String, Value>, PodError> {
    let Some(text) = config.annotations.get(CAPABILITIES_ANNOTATION) else {
        return Ok(BTreeMap::new());
    };
    serde_json::from_str(text).map_err(|fault| PodError::Config {
        field: "annotations",
        fault: format!("{CAPABILITIES_ANNOTATION} is not a JSON object: {fault}"),
    })
}

fn port_mappings(config: &PodConfig) -> Vec<Value> {
    let mapped = config.ports.iter().filter(|port| port.host_port > 0);
    mapped
        .map(|port| {
            let protocol = match port.protocol {
                PortProtocol::Tcp => "tcp",
                PortProtocol::Udp => "udp",
                PortProtocol::Sctp => "sctp",
            };
            let host_ip = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
            json!({
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": protocol,
                "hostIP": host_ip,
            })
        })
        .collect()
}

/// `CNI_ARGS` as Kubernetes' plugins expect them.
fn arguments(key: &PodKey, config: &PodConfig) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        config.kubernetes_namespace, config.name, key.pod, config.uid
    )
}

/// The addresses of the pod's own interface; the first of version 4 is the pod's, if there is one, as in containerd.
fn addresses(outcome: &Outcome) -> Vec<IpAddr> {
    let is_own = |interface: Option<u32>| {
        let named = interface.and_then(|at| outcome.interfaces.get(usize::try_from(at).ok()?));
        named.is_none_or(|named| named.name == INTERFACE)
    };
    let mut addresses: Vec<IpAddr> = outcome
        .ips
        .iter()
        .filter(|ip| is_own(ip.interface))
        .filter_map(|ip| ip.address.split('/').next()?.parse().ok())
        .collect();
    if let Some(first) = addresses.iter().position(IpAddr::is_ipv4) {
        addresses[..=first].rotate_right(1);
    }
    addresses
}

fn attachment_id(key: &PodKey) -> AttachmentId {
    AttachmentId::new(key.pod.as_str()).expect("a pod's id keeps to CNI's rule")
}

fn failed(key: &PodKey, attempt: &'static str, source: orlop_cni::Error) -> PodError {
    PodError::Network {
        pod: key.pod.to_string(),
        attempt,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use orlop_types::{Namespace, SandboxId};

    use super::*;
    use crate::pod::PodPlaces;
    use crate::pod::config::{DnsConfig, PortMapping};
    use crate::pod::machine::PodState;

    fn record(config: PodConfig) -> PodRecord {
        let (state, _) = PodState::create(true, SystemTime::UNIX_EPOCH);
        PodRecord {
            state,
            config,
            created_at: SystemTime::UNIX_EPOCH,
            places: PodPlaces::default(),
            cgroup_parent: "/kubepods/pod1".into(),
            addresses: Vec::new(),
            network: None,
            init: None,
        }
    }

    #[test]
    fn plugins_are_told_of_ports_bandwidth_names_and_groups() {
        let mapping = |host_port| PortMapping {
            protocol: PortProtocol::Udp,
            container_port: 53,
            host_port,
            host_ip: "127.0.0.1".parse().ok(),
        };
        let further = r#"{"ips": ["10.1.0.7/24"], "aliases": ["overruled"]}"#;
        let annotations = [
            ("kubernetes.io/egress-bandwidth", "1M"),
            (CAPABILITIES_ANNOTATION, further),
        ];
        let config = PodConfig {
            name: "web".to_owned(),
            hostname: "web-0".to_owned(),
            ports: vec![mapping(0), mapping(5353)],
            dns: Some(DnsConfig::default()),
            annotations: annotations
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..PodConfig::default()
        };
        let capabilities = capabilities(&record(config)).unwrap();
        let ports = json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}]);
        assert_eq!(capabilities["portMappings"], ports);
        assert_eq!(capabilities["bandwidth"]["egressRate"], 1_000_000);
        assert_eq!(capabilities["aliases"], json!(["web", "web-0"]));
        assert_eq!(capabilities["ips"], json!(["10.1.0.7/24"]));
        assert_eq!(capabilities["cgroupPath"], "/kubepods/pod1");
        assert_eq!(capabilities["dns"]["servers"], json!([]));
    }

    #[test]
    fn a_capability_annotation_that_is_no_object_is_refused() {
        let annotations = [(CAPABILITIES_ANNOTATION.to_owned(), "[]".to_owned())].into();
        let config = PodConfig {
            annotations,
            ..PodConfig::default()
        };
        assert_eq!(
            capabilities(&record(config)).unwrap_err().code(),
            "ORL-E6504"
        );
    }

    #[test]
    fn the_pods_own_addresses_count_and_version_4_comes_first() {
        let result = json!({
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [
                {"address": "fd00::5/64", "interface": 1},
                {"address": "10.0.0.1/24", "interface": 0},
                {"address": "10.0.0.5/24", "interface": 1},
                {"address": "fd00::6/64"}
            ]
        });
        let outcome: Outcome = serde_json::from_value(result).unwrap();
        let expected: [IpAddr; 3] =
            ["10.0.0.5", "fd00::5", "fd00::6"].map(|text| text.parse().unwrap());
        assert_eq!(addresses(&outcome), expected);
        assert!(addresses(&Outcome::default()).is_empty());
    }

    #[test]
    fn plugins_know_which_pod_it_is() {
        let key = PodKey {
            namespace: Namespace::new("k8s.io").unwrap(),
            pod: SandboxId::new("abc").unwrap(),
        };
        let config = PodConfig {
            name: "web".to_owned(),
            kubernetes_namespace: "shop".to_owned(),
            uid: "u1".to_owned(),
            ..PodConfig::default()
        };
        assert_eq!(
            arguments(&key, &config),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u1"
        );
    }
}

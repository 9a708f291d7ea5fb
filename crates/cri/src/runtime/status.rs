//! `Status`: whether pods can be run, and if not, why: what a node's condition `Ready` says.

use std::collections::BTreeMap;

use orlop_api::runtime::v1 as api;
use orlop_runtime::pod::NetworkFinding;
use orlop_types::{Namespace, SandboxId};
use tonic::Status;

use crate::readiness::Handler;
use crate::{Cri, status};

/// The conditions that the kubelet looks for (`RuntimeReady` and `NetworkReady` of cri-api).
const RUNTIME_READY: &str = "RuntimeReady";
const NETWORK_READY: &str = "NetworkReady";
/// One of ours.
const POD_NETWORKS_WORK: &str = "PodNetworksWork";
/// Faults that a condition tells in full.
const FAULTS_TOLD_MAX: usize = 5;

pub(super) async fn call(
    cri: &Cri,
    request: api::StatusRequest,
) -> Result<api::StatusResponse, Status> {
    let handlers = cri.readiness().handlers().await?;
    let network = network(cri).await;
    let info = if request.verbose {
        info(cri, &handlers)
    } else {
        BTreeMap::new()
    };
    Ok(api::StatusResponse {
        status: Some(api::RuntimeStatus {
            conditions: [runtime_condition(&handlers), network]
                .into_iter()
                .chain(pods_condition(&cri.runtime().network_findings()))
                .collect(),
        }),
        info,
        runtime_handlers: handlers.into_iter().map(handler).collect(),
        features: Some(api::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        }),
    })
}

/// The node can run pods as long as the default handler works; the others are told beside it.
fn runtime_condition(handlers: &[Handler]) -> api::RuntimeCondition {
    let fault = |handler: &Handler| {
        let error = handler.error.as_deref()?;
        let name = match handler.name.as_str() {
            "" => "the default runtime",
            name => name,
        };
        Some(format!("{name}: {error}"))
    };
    let works = handlers
        .iter()
        .any(|handler| handler.name.is_empty() && handler.error.is_none());
    let faults: Vec<_> = handlers.iter().filter_map(fault).collect();
    api::RuntimeCondition {
        r#type: RUNTIME_READY.to_owned(),
        status: works,
        reason: if faults.is_empty() {
            String::new()
        } else {
            "RuntimeHandlerFailed".to_owned()
        },
        message: faults.join("; "),
    }
}

async fn network(cri: &Cri) -> api::RuntimeCondition {
    let mut condition = api::RuntimeCondition {
        r#type: NETWORK_READY.to_owned(),
        status: true,
        ..api::RuntimeCondition::default()
    };
    if let Err(error) = cri.runtime().network_status().await {
        condition.status = false;
        condition.reason = "NetworkPluginNotReady".to_owned();
        condition.message = status::of_runtime(&error).message().to_owned();
    }
    condition
}

/// Whether the networks of pods work, once any was looked at. It is for people and tools: the kubelet acts on none but its own.
fn pods_condition(
    findings: &[(Namespace, SandboxId, NetworkFinding)],
) -> Option<api::RuntimeCondition> {
    if findings.is_empty() {
        return None;
    }
    let faults = findings
        .iter()
        .filter_map(|(_, pod, finding)| Some((pod, finding.fault.as_ref()?)));
    let faults: Vec<_> = faults
        .map(|(pod, fault)| format!("pod {pod}: {fault}"))
        .collect();
    Some(api::RuntimeCondition {
        r#type: POD_NETWORKS_WORK.to_owned(),
        status: faults.is_empty(),
        reason: if faults.is_empty() {
            String::new()
        } else {
            "PodNetworkFault".to_owned()
        },
        message: summary(&faults),
    })
}

/// The first few of many.
fn summary(faults: &[String]) -> String {
    let told = faults[..faults.len().min(FAULTS_TOLD_MAX)].join("; ");
    match faults.len().saturating_sub(FAULTS_TOLD_MAX) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

fn handler(handler: Handler) -> api::RuntimeHandler {
    api::RuntimeHandler {
        name: handler.name,
        features: Some(api::RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.recursive_read_only,
            user_namespaces: handler.user_namespaces,
        }),
    }
}

/// JSON under the key `config`, as crictl prints it.
fn info(cri: &Cri, handlers: &[Handler]) -> BTreeMap<String, String> {
    let handlers: Vec<_> = handlers
        .iter()
        .map(|handler| serde_json::json!({ "name": handler.name, "error": handler.error }))
        .collect();
    let parts = cri.parts();
    let config = serde_json::json!({
        "version": parts.version,
        "namespace": cri.namespace().as_str(),
        "systemdCgroup": parts.systemd_cgroups,
        "snapshotter": cri.images().default_snapshotter().as_str(),
        "runtimeHandlers": handlers,
    });
    BTreeMap::from([("config".to_owned(), config.to_string())])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::SystemTime;

    use orlop_runtime::pod::FindingKind;

    use super::*;

    fn handlers(default: Option<&str>, other: Option<&str>) -> Vec<Handler> {
        let handler = |name: &str, error: Option<&str>| Handler {
            name: name.to_owned(),
            error: error.map(ToOwned::to_owned),
            recursive_read_only: true,
            user_namespaces: false,
        };
        vec![handler("", default), handler("kata", other)]
    }

    #[test]
    fn a_broken_default_runtime_makes_the_node_unready_and_says_why() {
        let condition = runtime_condition(&handlers(Some("no runc"), None));
        assert!(!condition.status);
        assert_eq!(condition.message, "the default runtime: no runc");
    }

    #[test]
    fn faults_of_pods_networks_are_a_condition_of_their_own() {
        let finding = |fault: Option<&str>| {
            let finding = NetworkFinding {
                kind: FindingKind::Probe,
                at: SystemTime::UNIX_EPOCH,
                fault: fault.map(ToOwned::to_owned),
            };
            ("k8s.io".parse().unwrap(), "p".parse().unwrap(), finding)
        };
        assert_eq!(pods_condition(&[]), None);
        assert!(pods_condition(&[finding(None)]).unwrap().status);
        let many = vec![finding(Some("no route")); 7];
        let condition = pods_condition(&many).unwrap();
        assert!(!condition.status);
        assert!(condition.message.starts_with("pod p: no route; "));
        assert!(
            condition.message.ends_with("; and 2 more"),
            "{}",
            condition.message
        );
    }

    #[test]
    fn another_broken_runtime_is_told_but_leaves_the_node_ready() {
        let condition = runtime_condition(&handlers(None, Some("no shim")));
        assert!(condition.status);
        assert_eq!(condition.message, "kata: no shim");
        assert!(runtime_condition(&handlers(None, None)).reason.is_empty());
    }
}

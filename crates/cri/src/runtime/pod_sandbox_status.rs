//! `PodSandboxStatus`, with the states of the pod's containers and the time they are of, which the kubelet's evented PLEG
//! compares with those of events (KEP-3386).

use std::collections::BTreeMap;

use orlop_api::runtime::v1 as api;
use orlop_base::units::format_moment;
use orlop_runtime::pod::{Pod, PodTransition};
use serde_json::{Value, json};
use tonic::Status;

use crate::{Cri, container, find, pods, status, translate};

pub(super) async fn call(
    cri: &Cri,
    request: api::PodSandboxStatusRequest,
) -> Result<api::PodSandboxStatusResponse, Status> {
    // Before anything is read: what is told is at least as new as its time.
    let recorded_at = cri.db().clock().wall();
    let pod = find::pod(cri, &request.pod_sandbox_id).await?;
    let members = cri.runtime().members(cri.namespace(), Some(&pod.id)).await;
    let members = members.map_err(|error| status::of_runtime(&error))?;
    let info = if request.verbose {
        BTreeMap::from([("info".to_owned(), info(cri, &pod).to_string())])
    } else {
        BTreeMap::new()
    };
    Ok(api::PodSandboxStatusResponse {
        status: Some(pods::detailed(pod)),
        info,
        containers_statuses: members.iter().map(container::status).collect(),
        timestamp: translate::nanos(Some(recorded_at)),
    })
}

/// What an engineer looks for with `crictl inspectp`. `pid` is that of the first process of a shared process namespace;
/// other pods have no process.
fn info(cri: &Cri, pod: &Pod) -> Value {
    let findings = cri.runtime().network_findings();
    let own = findings.into_iter().filter(|(_, id, _)| *id == pod.id);
    let findings: Vec<_> = own.map(|(_, _, finding)| finding).collect();
    json!({
        "pid": pod.init.map_or(0, |init| init.pid),
        "phase": pod.phase.to_string(),
        "reason": pod.reason,
        "netns": pod.places.network,
        "places": pod.places,
        "cgroup": pod.cgroup(),
        "cniResult": pod.network,
        "networkFindings": findings,
        "runtimeHandler": pod.config.handler,
        "config": pod.config,
        "steps": pod.transitions.iter().map(step).collect::<Vec<_>>(),
    })
}

fn step(transition: &PodTransition) -> Value {
    let took = transition
        .ended
        .and_then(|ended| ended.duration_since(transition.began).ok());
    json!({
        "step": transition.step,
        "began": format_moment(transition.began),
        "ended": transition.ended.map(format_moment),
        "micros": took.map(|took| took.as_micros()),
        "error": transition.error,
    })
}

//! `orlop inspect`: everything about a container.

use clap::Args;
use orlop_api::containerd::services::containers::v1::Container;
use orlop_api::containerd::v1::types::Process as Task;
use orlop_api::orlop::v1::{
    Exit, ExitCause, InspectRequest, InspectResponse, Network, StartTransition,
};
use orlop_base::units::{format_bytes, format_duration};
use serde::Serialize;
use serde_json::{Value, json};

use super::Context;
use crate::container;
use crate::error::{CliError, Explain};
use crate::output::Card;
use crate::{signals, time};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

#[derive(Debug, Serialize)]
struct Inspected {
    #[serde(flatten)]
    json: Value,
    #[serde(skip)]
    text: Vec<(&'static str, String)>,
}

impl Card for Inspected {
    fn properties(&self) -> Vec<(&'static str, String)> {
        self.text.clone()
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = InspectRequest {
        id: arguments.id.clone(),
    };
    let answer = context.client.containers().inspect(request).await;
    let answer = answer
        .explain(|| format!("cannot inspect container {}", arguments.id))?
        .into_inner();
    let inspected = Inspected {
        json: as_json(&answer),
        text: as_text(&answer),
    };
    context.output.card(&inspected)
}

fn as_json(answer: &InspectResponse) -> Value {
    let network = answer.network.clone().unwrap_or_default();
    json!({
        "container": answer.container.as_ref().map(record_json),
        "task": answer.task.as_ref().map(task_json),
        "transitions": answer.transitions.iter().map(transition_json).collect::<Vec<_>>(),
        "exit": answer.exit.as_ref().map(exit_json),
        "log_path": answer.log_path,
        "shim_pid": answer.shim_pid,
        "cgroup_path": answer.cgroup_path,
        "network": {
            "mode": network_name(network.mode()),
            "namespace_path": network.namespace_path,
            "addresses": network.addresses,
        },
    })
}

fn record_json(record: &Container) -> Value {
    // The specification is a JSON document of its own; one that is none is shown by its size.
    let spec = record.spec.as_ref().map(|spec| {
        serde_json::from_slice(&spec.value)
            .unwrap_or_else(|_| json!(format!("{} bytes", spec.value.len())))
    });
    json!({
        "id": record.id,
        "image": record.image,
        "labels": record.labels,
        "runtime": record.runtime.as_ref().map(|runtime| runtime.name.clone()),
        "snapshotter": record.snapshotter,
        "snapshot_key": record.snapshot_key,
        "sandbox": record.sandbox,
        "created_at": time::moment(record.created_at.as_ref()),
        "updated_at": time::moment(record.updated_at.as_ref()),
        "spec": spec,
    })
}

fn task_json(task: &Task) -> Value {
    json!({
        "pid": task.pid,
        "state": container::state(task.status()),
        "terminal": task.terminal,
        "exit_status": task.exit_status,
        "exited_at": time::moment(task.exited_at.as_ref()),
    })
}

fn transition_json(step: &StartTransition) -> Value {
    json!({
        "step": step.step,
        "started_at": time::moment(step.started_at.as_ref()),
        "seconds": step.duration.as_ref().map(|duration| time::span(Some(duration)).as_secs_f64()),
        "error": step.error,
        "undone": step.undone,
    })
}

fn exit_json(exit: &Exit) -> Value {
    json!({
        "pid": exit.pid,
        "exit_code": exit.exit_code,
        "signal": exit.signal,
        "wait_status": exit.wait_status,
        "exited_at": time::moment(exit.exited_at.as_ref()),
        "cause": cause_name(exit.cause()),
        "evidence": exit.evidence,
        "oom_kills": exit.oom_kills,
        "memory_peak_bytes": exit.memory_peak_bytes,
        "memory_limit_bytes": exit.memory_limit_bytes,
        "cpu_usage_nanos": exit.cpu_usage_nanos,
    })
}

fn as_text(answer: &InspectResponse) -> Vec<(&'static str, String)> {
    let mut text = Vec::new();
    if let Some(record) = &answer.container {
        text.extend([
            ("container", record.id.clone()),
            ("image", record.image.clone()),
            (
                "created",
                time::moment(record.created_at.as_ref()).unwrap_or_default(),
            ),
            ("snapshotter", record.snapshotter.clone()),
            ("snapshot", record.snapshot_key.clone()),
        ]);
    }
    match &answer.task {
        Some(task) => text.push((
            "state",
            format!("{}, pid {}", container::state(task.status()), task.pid),
        )),
        None => text.push(("state", "no task".to_owned())),
    }
    let shim = match answer.shim_pid {
        0 => "none".to_owned(),
        pid => format!("pid {pid}"),
    };
    let network = answer.network.clone().unwrap_or_default();
    let addresses = network.addresses.join(", ");
    text.extend([
        (
            "network",
            format!("{} {addresses}", network_name(network.mode()))
                .trim_end()
                .to_owned(),
        ),
        ("cgroup", answer.cgroup_path.clone()),
        ("shim", shim),
        ("log", answer.log_path.clone()),
    ]);
    let steps: Vec<String> = answer.transitions.iter().map(transition_text).collect();
    text.push(("start", steps.join("\n")));
    if let Some(exit) = &answer.exit {
        text.extend(exit_text(exit));
    }
    text
}

fn transition_text(step: &StartTransition) -> String {
    let took = match &step.duration {
        Some(duration) => format_duration(time::span(Some(duration))),
        None => "under way".to_owned(),
    };
    let mut line = format!("{:<12} {took}", step.step);
    if !step.error.is_empty() {
        line.push_str(&format!("  failed: {}", step.error));
    }
    if step.undone {
        line.push_str("  (undone)");
    }
    line
}

fn exit_text(exit: &Exit) -> Vec<(&'static str, String)> {
    let mut how = format!("code {}", exit.exit_code);
    if exit.signal > 0 {
        how.push_str(&format!(", by {}", signals::name(exit.signal)));
    }
    if exit.wait_status.is_none() {
        how.push_str(", made up: nobody was there to collect it");
    }
    let limit = match exit.memory_limit_bytes {
        0 => "no limit".to_owned(),
        bytes => format!("limit {}", format_bytes(bytes)),
    };
    vec![
        (
            "ended",
            time::moment(exit.exited_at.as_ref()).unwrap_or_default(),
        ),
        ("exit", how),
        ("cause", cause_name(exit.cause()).to_owned()),
        ("evidence", exit.evidence.join("\n")),
        (
            "memory",
            format!(
                "peak {}, {limit}, {} kills for lack of it",
                format_bytes(exit.memory_peak_bytes),
                exit.oom_kills
            ),
        ),
    ]
}

/// What ended a container, as records spell it.
pub(super) fn cause_name(cause: ExitCause) -> &'static str {
    match cause {
        ExitCause::Unspecified | ExitCause::Unknown => "unknown",
        ExitCause::Exited => "exited",
        ExitCause::WorkloadOom => "workload_oom",
        ExitCause::AncestorOom => "ancestor_oom",
        ExitCause::HostOom => "host_oom",
        ExitCause::ShimCrash => "shim_crash",
        ExitCause::ShimOom => "shim_oom",
        ExitCause::KilledByRuntime => "killed_by_runtime",
        ExitCause::KilledByOther => "killed_by_other",
    }
}

fn network_name(network: Network) -> &'static str {
    match network {
        Network::Unspecified => "default",
        Network::Host => "host",
        Network::None => "none",
        Network::Cni => "cni",
    }
}

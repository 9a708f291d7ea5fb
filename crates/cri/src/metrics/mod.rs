//! cAdvisor's figures of pods and containers, which the kubelet asks for instead of running cAdvisor
//! (KEP-2371): names and units are those of its `/metrics/cadvisor`.
//!
//! One table says of each metric what it is called, what it means and where its value comes from: the descriptors and
//! the samples cannot disagree. CRI has whole numbers only, so seconds are rounded down.

mod table;

use std::time::SystemTime;

use orlop_api::runtime::v1 as api;
use orlop_runtime::figures::Figures;
use orlop_runtime::member::Member;
use orlop_runtime::pod::Pod;
use tonic::Status;

use crate::disk::DiskUsage;
use crate::stats::{Measured, Wanted};
use crate::{Cri, stats, status, translate};

use table::{Metric, OF_CONTAINERS, OF_PODS};

/// What every sample is labelled with.
const BASE_LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

/// One running container at one moment.
struct ContainerSample {
    started_at: Option<SystemTime>,
    figures: Figures,
    writable_layer: Option<DiskUsage>,
}

/// What the kubelet may ask for.
pub(crate) fn descriptors() -> Vec<api::MetricDescriptor> {
    let of_pods = OF_PODS.iter().map(Metric::descriptor);
    let of_containers = OF_CONTAINERS.iter().map(Metric::descriptor);
    of_pods.chain(of_containers).collect()
}

/// Every metric of every pod with its running containers.
///
/// # Errors
/// Database or cgroups cannot be read.
pub(crate) async fn samples(cri: &Cri) -> Result<Vec<api::PodSandboxMetrics>, Status> {
    let pods = cri.runtime().pods(cri.namespace()).await;
    let pods = pods.map_err(|error| status::of_runtime(&error))?;
    let mut by_pod = stats::measured_by_pod(cri, Wanted::Everything).await?;
    let mut samples = Vec::new();
    for pod in pods {
        let members = by_pod.remove(&pod.id).unwrap_or_default();
        samples.push(of_pod(cri, &pod, members).await?);
    }
    Ok(samples)
}

async fn of_pod(
    cri: &Cri,
    pod: &Pod,
    members: Vec<Measured>,
) -> Result<api::PodSandboxMetrics, Status> {
    let network = members
        .iter()
        .find_map(|(_, figures)| figures.as_ref())
        .filter(|_| !pod.config.namespaces.host_network);
    let metrics = network.map(|figures| {
        let labels = labels(pod, None);
        collect(OF_PODS, figures, &labels, figures.taken_at)
    });
    let mut container_metrics = Vec::new();
    for (member, figures) in members {
        let Some(figures) = figures else { continue };
        let sample = ContainerSample {
            started_at: member.started_at,
            figures,
            writable_layer: stats::writable_layer_of(cri, &member).await?,
        };
        let taken_at = sample.figures.taken_at;
        container_metrics.push(api::ContainerMetrics {
            container_id: member.id.to_string(),
            metrics: collect(
                OF_CONTAINERS,
                &sample,
                &labels(pod, Some(&member)),
                taken_at,
            ),
        });
    }
    Ok(api::PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        metrics: metrics.unwrap_or_default(),
        container_metrics,
    })
}

/// The values of [`BASE_LABELS`]; a pod's own metrics name no container.
fn labels(pod: &Pod, member: Option<&Member>) -> [String; BASE_LABELS.len()] {
    let (container, id, image) = match member {
        Some(member) => (
            member.config.name.clone(),
            member.id.to_string(),
            member.image.user_specified.clone(),
        ),
        None => (String::new(), pod.id.to_string(), String::new()),
    };
    [
        pod.config.name.clone(),
        pod.config.kubernetes_namespace.clone(),
        container,
        id,
        image,
    ]
}

fn collect<S>(
    table: &[Metric<S>],
    sample: &S,
    labels: &[String],
    taken_at: SystemTime,
) -> Vec<api::Metric> {
    let timestamp = translate::nanos(Some(taken_at));
    let of = |metric: &Metric<S>| {
        let points = (metric.read)(sample).into_iter();
        let messages = points.map(|(extra, value)| api::Metric {
            name: metric.name.to_owned(),
            timestamp,
            metric_type: metric.kind.into(),
            label_values: labels.iter().cloned().chain(extra).collect(),
            value: Some(api::UInt64Value { value }),
        });
        messages.collect::<Vec<_>>()
    };
    table.iter().flat_map(of).collect()
}

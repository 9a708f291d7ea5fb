//! Figures of containers and pods, gathered for every call that tells them.

use std::collections::BTreeMap;

use orlop_api::runtime::v1 as api;
use orlop_runtime::figures::{Figures, Subject};
use orlop_runtime::member::Member;
use orlop_runtime::pod::Pod;
use orlop_types::{SandboxId, SnapshotKey, SnapshotterName};
use tonic::Status;

use crate::disk::{self, DiskUsage};
use crate::{Cri, figures, find, status};

/// The figures of containers, in order. One that does not run has only its attributes and its writable layer.
///
/// # Errors
/// Database or cgroups cannot be read.
pub(crate) async fn of_members(
    cri: &Cri,
    members: Vec<Member>,
) -> Result<Vec<api::ContainerStats>, Status> {
    let measured = measure(cri, &members, Wanted::Usage).await?;
    let mut stats = Vec::new();
    for (member, figures) in members.iter().zip(measured) {
        stats.push(of_member(cri, member, figures.as_ref()).await?);
    }
    Ok(stats)
}

/// How much is to be read of each container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// What the kubelet's statistics have.
    Usage,
    /// Open files too, each of which is looked at.
    Everything,
}

/// A running container with its figures, which are missing if it has just ended.
pub(crate) type Measured = (Member, Option<Figures>);

/// The figures of running containers; nothing for the others.
async fn measure(
    cri: &Cri,
    members: &[Member],
    wanted: Wanted,
) -> Result<Vec<Option<Figures>>, Status> {
    let pids: Vec<_> = members.iter().map(|member| member.pid).collect();
    let subjects = pids.iter().flatten().map(|pid| Subject::Process {
        pid: *pid,
        network: true,
        descriptors: wanted == Wanted::Everything,
    });
    let measured = cri.runtime().figures(subjects.collect()).await;
    let mut measured = measured
        .map_err(|error| status::of_runtime(&error))?
        .into_iter();
    let in_order = pids.iter().map(|pid| pid.and_then(|_| measured.next()?));
    Ok(in_order.collect())
}

async fn of_member(
    cri: &Cri,
    member: &Member,
    figures: Option<&Figures>,
) -> Result<api::ContainerStats, Status> {
    let rates = cri.rates();
    Ok(api::ContainerStats {
        attributes: Some(attributes(member)),
        cpu: figures.and_then(|figures| figures::cpu(rates, member.id.as_str(), figures)),
        memory: figures.and_then(figures::memory),
        writable_layer: writable_layer(cri, member).await?,
        swap: figures.and_then(figures::swap),
        io: None,
    })
}

fn attributes(member: &Member) -> api::ContainerAttributes {
    api::ContainerAttributes {
        id: member.id.to_string(),
        metadata: Some(api::ContainerMetadata {
            name: member.config.name.clone(),
            attempt: member.config.attempt,
        }),
        labels: member.config.labels.clone(),
        annotations: member.config.annotations.clone(),
    }
}

async fn writable_layer(
    cri: &Cri,
    member: &Member,
) -> Result<Option<api::FilesystemUsage>, Status> {
    let usage = writable_layer_of(cri, member).await?;
    let folder = SnapshotterName::new(&member.snapshotter)
        .map(|snapshotter| cri.snapshot_folder(&snapshotter))
        .unwrap_or_default();
    Ok(usage.map(|usage| disk::message(&folder, usage)))
}

/// What a container's writable layer takes; `None` for one that was not counted yet.
///
/// # Errors
/// The database cannot be read.
pub(crate) async fn writable_layer_of(
    cri: &Cri,
    member: &Member,
) -> Result<Option<DiskUsage>, Status> {
    let names = (
        SnapshotterName::new(&member.snapshotter),
        SnapshotKey::new(&member.snapshot_key),
    );
    let (Ok(snapshotter), Ok(key)) = names else {
        return Ok(None);
    };
    cri.disk().writable(cri, &snapshotter, &key).await
}

/// The figures of pods with those of their running containers, in order.
///
/// # Errors
/// Database or cgroups cannot be read.
pub(crate) async fn of_pods(
    cri: &Cri,
    pods: Vec<Pod>,
) -> Result<Vec<api::PodSandboxStats>, Status> {
    let mut by_pod = measured_by_pod(cri, Wanted::Usage).await?;
    let subjects = pods.iter().map(|pod| Subject::Cgroup(pod.cgroup()));
    let groups = cri.runtime().figures(subjects.collect()).await;
    let groups = groups.map_err(|error| status::of_runtime(&error))?;
    let mut stats = Vec::new();
    for (pod, group) in pods.into_iter().zip(groups) {
        let members = by_pod.remove(&pod.id).unwrap_or_default();
        stats.push(of_pod(cri, pod, group, members).await?);
    }
    Ok(stats)
}

/// The running containers of every pod, all measured at once.
///
/// # Errors
/// Database or cgroups cannot be read.
pub(crate) async fn measured_by_pod(
    cri: &Cri,
    wanted: Wanted,
) -> Result<BTreeMap<SandboxId, Vec<Measured>>, Status> {
    let members = cri.runtime().members(cri.namespace(), None).await;
    let mut members = members.map_err(|error| status::of_runtime(&error))?;
    members.retain(|member| member.pid.is_some());
    let measured = measure(cri, &members, wanted).await?;
    let mut by_pod: BTreeMap<SandboxId, Vec<Measured>> = BTreeMap::new();
    for (member, figures) in members.into_iter().zip(measured) {
        let of_pod = by_pod.entry(member.pod.clone()).or_default();
        of_pod.push((member, figures));
    }
    Ok(by_pod)
}

async fn of_pod(
    cri: &Cri,
    pod: Pod,
    group: Option<Figures>,
    members: Vec<Measured>,
) -> Result<api::PodSandboxStats, Status> {
    // Any process of the pod sees the pod's interfaces, unless they are the host's.
    let network = members
        .iter()
        .find_map(|(_, figures)| figures.as_ref())
        .filter(|_| !pod.config.namespaces.host_network)
        .and_then(figures::network);
    let mut containers = Vec::new();
    for (member, figures) in &members {
        containers.push(of_member(cri, member, figures.as_ref()).await?);
    }
    let rates = cri.rates();
    let linux = api::LinuxPodSandboxStats {
        cpu: group
            .as_ref()
            .and_then(|group| figures::cpu(rates, pod.id.as_str(), group)),
        memory: group.as_ref().and_then(figures::memory),
        network,
        process: group.as_ref().and_then(figures::processes),
        containers,
        io: None,
    };
    Ok(api::PodSandboxStats {
        attributes: Some(api::PodSandboxAttributes {
            id: pod.id.to_string(),
            metadata: Some(api::PodSandboxMetadata {
                name: pod.config.name,
                uid: pod.config.uid,
                namespace: pod.config.kubernetes_namespace,
                attempt: pod.config.attempt,
            }),
            labels: pod.config.labels,
            annotations: pod.config.annotations,
        }),
        linux: Some(linux),
        windows: None,
    })
}

/// The containers that a filter keeps.
///
/// # Errors
/// The database cannot be read.
pub(crate) async fn wanted_members(
    cri: &Cri,
    filter: Option<api::ContainerStatsFilter>,
) -> Result<Vec<Member>, Status> {
    let filter = filter.unwrap_or_default();
    let mut members = cri
        .runtime()
        .members(cri.namespace(), None)
        .await
        .map_err(|error| status::of_runtime(&error))?;
    members.retain(|member| {
        find::begins(member.id.as_str(), &filter.id)
            && find::begins(member.pod.as_str(), &filter.pod_sandbox_id)
            && has_labels(&member.config.labels, &filter.label_selector)
    });
    Ok(members)
}

/// The ready pods that a filter keeps.
///
/// # Errors
/// The database cannot be read.
pub(crate) async fn wanted_pods(
    cri: &Cri,
    filter: Option<api::PodSandboxStatsFilter>,
) -> Result<Vec<Pod>, Status> {
    let filter = filter.unwrap_or_default();
    let mut pods = cri
        .runtime()
        .pods(cri.namespace())
        .await
        .map_err(|error| status::of_runtime(&error))?;
    pods.retain(|pod| {
        find::begins(pod.id.as_str(), &filter.id)
            && has_labels(&pod.config.labels, &filter.label_selector)
    });
    Ok(pods)
}

fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

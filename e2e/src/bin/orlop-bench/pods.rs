//! Pods and their containers over CRI, as the kubelet makes and removes them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orlop_api::runtime::v1::{
    CreateContainerRequest, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest,
};
use orlop_e2e::figures::{pss_bytes, shims};
use orlop_e2e::kubelet::container_config;
use orlop_e2e::{Client, Scratch};

use crate::Effort;
use crate::pull::{pull_by_cri, remove_by_cri};
use crate::report::Report;
use crate::samples::Samples;
use crate::sides::{Side, Sides};

/// Where CRI keeps everything.
pub(crate) const NAMESPACE: &str = "k8s.io";

/// Daemons and shims give memory back a moment after their last work.
const QUIET: Duration = Duration::from_secs(6);

/// The calls of a life, in order.
const CALLS: [&str; 7] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];
const RUN_POD: usize = 0;
const START_CONTAINER: usize = 2;

/// A pod with one container.
pub(crate) struct Pod {
    pub(crate) id: String,
    container: String,
}

/// Makes and removes pods of one engine.
pub(crate) struct Pods<'a> {
    pub(crate) client: Client,
    pub(crate) scratch: &'a Scratch,
    pub(crate) image: &'a str,
}

#[derive(Debug, Default)]
struct Figures {
    calls: [[Samples; 2]; CALLS.len()],
    cycle: [Samples; 2],
}

impl Figures {
    fn add(&mut self, index: usize, life: &[Duration]) {
        for (samples, span) in self.calls.iter_mut().zip(life) {
            samples[index].add_millis(*span);
        }
        self.cycle[index].add_millis(life.iter().sum());
    }

    fn report(&self, report: &mut Report) -> Result<()> {
        for (call, [ours, theirs]) in CALLS.iter().zip(&self.calls) {
            report.note(&format!("{call}, ms: orlop {ours}, containerd {theirs}"))?;
        }
        let (run, start) = (&self.calls[RUN_POD], &self.calls[START_CONTAINER]);
        report.ratio("cri_run_pod", run, "ms", "<=0.5")?;
        report.ratio("cri_start_container", start, "ms", "<=0.5")?;
        report.ratio("cri_cycle", &self.cycle, "ms", "<=0.5")
    }
}

pub(crate) async fn measure(sides: &Sides, effort: Effort, report: &mut Report) -> Result<()> {
    let mut pods = Vec::new();
    for side in &sides.both {
        let client = side.client.with_namespace(NAMESPACE)?;
        pull_by_cri(&client, &sides.reference).await?;
        pods.push(Pods {
            client,
            scratch: &sides.scratch,
            image: &sides.reference,
        });
    }
    report.disk(sides)?;
    let [in_turn, at_once] = effort.pods;
    let mut figures = Figures::default();
    for round in 0..effort.rounds {
        for index in sides.turns(round) {
            for number in 0..in_turn {
                let life = pods[index].live(&format!("turn-{round}-{number}")).await?;
                figures.add(index, &life);
            }
        }
    }
    figures.report(report)?;
    memory(sides, &pods, at_once, report).await?;
    for pods in &pods {
        remove_by_cri(&pods.client, &sides.reference).await?;
    }
    Ok(())
}

/// What many pods cost while nothing happens.
async fn memory(sides: &Sides, pods: &[Pods<'_>], count: usize, report: &mut Report) -> Result<()> {
    let mut daemons = [Samples::default(), Samples::default()];
    let mut each = [Samples::default(), Samples::default()];
    for (index, (side, pods)) in sides.both.iter().zip(pods).enumerate() {
        let mut made = Vec::new();
        for number in 0..count {
            made.push(pods.make(&format!("stay-{number}")).await?);
        }
        tokio::time::sleep(QUIET).await;
        daemons[index].add_bytes(pss_bytes(side.engine.pid())?);
        each[index].add_bytes(shims_bytes(side, sides, count)? / u64::try_from(count)?);
        for pod in &made {
            pods.unmake(pod).await?;
        }
    }
    report.value("cri_daemon_pss", &daemons[0], "MiB", "<=15")?;
    report.ratio(
        "cri_daemon_pss_ratio",
        &daemons,
        &format!("MiB with {count} pods"),
        "<=0.26",
    )?;
    report.value("cri_pod_pss", &each[0], "MiB", "<=1")?;
    report.ratio("cri_pod_pss_ratio", &each, "MiB of shims per pod", "<=0.18")
}

/// Memory of all shims. A pause process, which containerd has besides, is not counted.
fn shims_bytes(side: &Side, sides: &Sides, pods: usize) -> Result<u64> {
    let folder = side.engine.socket().parent();
    let pids = shims(folder.unwrap_or(sides.scratch.path()), NAMESPACE)?;
    ensure!(pids.len() >= pods, "{} shims hold {pods} pods", pids.len());
    pids.into_iter().map(pss_bytes).sum()
}

impl Pods<'_> {
    fn config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.scratch.path().join("pod-logs").display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.scratch.name()),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// A whole life; how long each of [`CALLS`] took.
    async fn live(&self, name: &str) -> Result<Vec<Duration>> {
        let mut moments = vec![Instant::now()];
        let pod = self.make_timed(name, &mut moments).await?;
        self.unmake_timed(&pod, &mut moments).await?;
        let spans = moments.windows(2).map(|pair| pair[1] - pair[0]);
        Ok(spans.collect())
    }

    /// A pod whose container runs.
    pub(crate) async fn make(&self, name: &str) -> Result<Pod> {
        self.make_timed(name, &mut Vec::new()).await
    }

    /// Ends and removes both.
    pub(crate) async fn unmake(&self, pod: &Pod) -> Result<()> {
        self.unmake_timed(pod, &mut Vec::new()).await
    }

    async fn make_timed(&self, name: &str, moments: &mut Vec<Instant>) -> Result<Pod> {
        let mut client = self.client.cri_runtime();
        let config = self.config(name);
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let made = client.run_pod_sandbox(request).await;
        let id = made
            .context("cannot make a pod")?
            .into_inner()
            .pod_sandbox_id;
        moments.push(Instant::now());
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(container_config("main", self.image, "exec sleep 100000")),
            sandbox_config: Some(config),
        };
        let made = client.create_container(request).await;
        let made = made.context("cannot make a container")?.into_inner();
        let container = made.container_id;
        moments.push(Instant::now());
        let request = StartContainerRequest {
            container_id: container.clone(),
        };
        let started = client.start_container(request).await;
        started.context("cannot start a container")?;
        moments.push(Instant::now());
        Ok(Pod { id, container })
    }

    async fn unmake_timed(&self, pod: &Pod, moments: &mut Vec<Instant>) -> Result<()> {
        let mut client = self.client.cri_runtime();
        // At once: a first process does not end by a signal it has no handler for.
        let request = StopContainerRequest {
            container_id: pod.container.clone(),
            timeout: 0,
        };
        let stopped = client.stop_container(request).await;
        stopped.context("cannot stop a container")?;
        moments.push(Instant::now());
        let container_id = pod.container.clone();
        let removed = client
            .remove_container(RemoveContainerRequest { container_id })
            .await;
        removed.context("cannot remove a container")?;
        moments.push(Instant::now());
        let pod_sandbox_id = pod.id.clone();
        let stopped = client
            .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id })
            .await;
        stopped.context("cannot stop a pod")?;
        moments.push(Instant::now());
        let pod_sandbox_id = pod.id.clone();
        let removed = client
            .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id })
            .await;
        removed.context("cannot remove a pod")?;
        moments.push(Instant::now());
        Ok(())
    }
}

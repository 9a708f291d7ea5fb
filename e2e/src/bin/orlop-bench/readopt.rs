//! How long a daemon takes to know its pods again after an earlier one was killed.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use orlop_api::runtime::v1::{
    ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandboxState,
};
use orlop_e2e::{Client, Engine, Network, Options, Scratch};

use crate::Effort;
use crate::pods::{NAMESPACE, Pods};
use crate::pull::pull_by_cri;
use crate::report::Report;
use crate::samples::Samples;
use crate::sides::Sides;

/// Pods made and removed side by side.
const AT_ONCE: usize = 8;

pub(crate) async fn measure(sides: &Sides, effort: Effort, report: &mut Report) -> Result<()> {
    let scratch = Scratch::new()?;
    let network = Network::new(&scratch, "", 80)?;
    let options = Options {
        pods: Some(orlop_e2e::Pods {
            networks: network.folder().to_owned(),
            pause_image: String::new(),
        }),
        ..Options::default()
    };
    let mut engine = Engine::orlopd(&sides.programs, &scratch, &options)?;
    let client = connect(&engine).await?;
    pull_by_cri(&client, &sides.reference).await?;
    let count = effort.pods_left;
    let image = &sides.reference;
    let pods = |client| Pods {
        client,
        scratch: &scratch,
        image,
    };
    let making = pods(client);
    let made = stream::iter(0..count)
        .map(|number| {
            let making = &making;
            async move { making.make(&format!("left-{number}")).await }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    let mut elapsed = Samples::default();
    for _ in 0..effort.rounds {
        engine.into_daemon().kill()?;
        let started = Instant::now();
        engine = Engine::orlopd(&sides.programs, &scratch, &options)?;
        found(&engine, count).await?;
        elapsed.add_seconds(started.elapsed());
    }
    let removing = pods(connect(&engine).await?);
    stream::iter(&made)
        .map(|pod| removing.unmake(pod))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    drop((engine, network));
    scratch.close()?;
    report.value(&format!("readopt_{count}"), &elapsed, "s", "<=0.5")
}

async fn connect(engine: &Engine) -> Result<Client> {
    engine.client().await?.with_namespace(NAMESPACE)
}

/// Returns when all pods are told as ready and their containers as running; not at all is an error.
async fn found(engine: &Engine, count: usize) -> Result<()> {
    let mut client = connect(engine).await?.cri_runtime();
    let pods = client.list_pod_sandbox(ListPodSandboxRequest::default());
    let pods = pods.await.context("cannot list pods")?.into_inner().items;
    let ready = pods
        .iter()
        .filter(|pod| pod.state() == PodSandboxState::SandboxReady);
    let ready = ready.count();
    let containers = client.list_containers(ListContainersRequest::default());
    let containers = containers.await.context("cannot list containers")?;
    let containers = containers.into_inner().containers;
    let running = containers
        .iter()
        .filter(|container| container.state() == ContainerState::ContainerRunning);
    let running = running.count();
    ensure!(
        (ready, running) == (count, count),
        "of {count} pods {ready} are ready, and {running} containers run"
    );
    Ok(())
}

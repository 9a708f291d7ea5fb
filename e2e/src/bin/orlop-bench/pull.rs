//! Pulling and unpacking a large image.
//!
//! Both engines do all of it in their daemon: containerd by the kubelet's call, ours by `orlop.v1`. `ctr` would
//! download in the client, whose processor time nobody counts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use orlop_api::containerd::services::content::v1::ListContentRequest;
use orlop_api::containerd::services::images::v1::DeleteImageRequest;
use orlop_api::orlop::v1::{PullRequest, pull_event};
use orlop_api::runtime::v1::{PullImageRequest, RemoveImageRequest};
use orlop_e2e::figures::{cpu_time, peak_bytes, reset_peak};
use orlop_e2e::kubelet::image_spec;
use orlop_e2e::{Client, image};

use crate::Effort;
use crate::report::Report;
use crate::samples::Samples;
use crate::sides::{Side, Sides};

/// Where CRI keeps images.
const CRI_NAMESPACE: &str = "k8s.io";

/// Of a layer that is made here, before compression: with 20 of them, 291 MB after it.
const LAYER_BYTES: u64 = 34 << 20;

/// How long an engine may take to remove an image.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Figures {
    wall: [Samples; 2],
    cpu: [Samples; 2],
    peak: [Samples; 2],
}

pub(crate) async fn measure(
    sides: &Sides,
    effort: Effort,
    image: Option<&str>,
    report: &mut Report,
) -> Result<()> {
    let reference = match image {
        Some(reference) => reference.to_owned(),
        None => {
            let layout = image::large(&sides.scratch, effort.layers, LAYER_BYTES)?;
            sides
                .registry
                .push(&layout, image::TAG, "bench/large:latest")?
        }
    };
    report.disk(sides)?;
    report.note(&format!("pulling {reference}"))?;
    let mut figures = Figures::default();
    for round in 0..effort.rounds {
        for index in sides.turns(round) {
            let side = &sides.both[index];
            let client = side.client.with_namespace(CRI_NAMESPACE)?;
            pull(side, &client, index, &reference, &mut figures).await?;
            remove(side, &client, &reference).await?;
        }
    }
    report.ratio("pull_wall", &figures.wall, "s", "<=0.4")?;
    report.ratio("pull_cpu", &figures.cpu, "s", "<=0.4")?;
    report.value("pull_peak_rss", &figures.peak[0], "MiB", "<=40")?;
    report.ratio("pull_peak_rss_ratio", &figures.peak, "MiB", "<=0.6")?;
    measure_by_hand(sides, effort, &reference, report).await
}

/// With the two command lines, each in its own way.
async fn measure_by_hand(
    sides: &Sides,
    effort: Effort,
    reference: &str,
    report: &mut Report,
) -> Result<()> {
    let mut wall = [Samples::default(), Samples::default()];
    for round in 0..effort.rounds {
        for index in sides.turns(round) {
            let elapsed = pull_by_hand(sides, &sides.both[index], reference).await?;
            wall[index].add_seconds(elapsed);
        }
    }
    report.ratio("pull_wall_cli", &wall, "s", "<=0.4")
}

async fn pull(
    side: &Side,
    client: &Client,
    index: usize,
    reference: &str,
    figures: &mut Figures,
) -> Result<()> {
    settle_disk().await;
    let pid = side.engine.pid();
    reset_peak(pid)?;
    let (cpu, started) = (cpu_time(pid)?, Instant::now());
    if side.is_orlop() {
        pull_orlop(client, reference).await?;
    } else {
        pull_by_cri(client, reference).await?;
    }
    figures.wall[index].add_seconds(started.elapsed());
    figures.cpu[index].add_seconds(cpu_time(pid)? - cpu);
    figures.peak[index].add_bytes(peak_bytes(pid)?);
    Ok(())
}

/// As the kubelet has an image pulled.
pub(crate) async fn pull_by_cri(client: &Client, reference: &str) -> Result<()> {
    let request = PullImageRequest {
        image: Some(image_spec(reference)),
        ..PullImageRequest::default()
    };
    let pulled = client.cri_images().pull_image(request).await;
    pulled.map(drop).context("cannot pull by CRI")
}

/// As the kubelet has an image removed.
pub(crate) async fn remove_by_cri(client: &Client, reference: &str) -> Result<()> {
    let request = RemoveImageRequest {
        image: Some(image_spec(reference)),
    };
    let removed = client.cri_images().remove_image(request).await;
    removed.map(drop).context("cannot remove by CRI")
}

async fn pull_orlop(client: &Client, reference: &str) -> Result<()> {
    let request = PullRequest {
        reference: reference.to_owned(),
        ..PullRequest::default()
    };
    let answer = client.orlop_images().pull(request).await;
    let mut events = answer.context("cannot pull")?.into_inner();
    while let Some(message) = events.message().await.context("the pull failed")? {
        if let Some(pull_event::Event::Done(_)) = message.event {
            return Ok(());
        }
    }
    bail!("the pull ended without its last message")
}

async fn pull_by_hand(sides: &Sides, side: &Side, reference: &str) -> Result<Duration> {
    settle_disk().await;
    let started = Instant::now();
    if side.is_orlop() {
        side.engine.orlop(&sides.programs, &["pull", reference])?;
    } else {
        let arguments = ["images", "pull", "--plain-http", reference];
        side.engine.ctr(&arguments)?;
    }
    let elapsed = started.elapsed();
    delete(&side.client, reference).await?;
    side.collect().await?;
    Ok(elapsed)
}

async fn delete(client: &Client, reference: &str) -> Result<()> {
    let request = DeleteImageRequest {
        name: reference.to_owned(),
        sync: true,
        ..DeleteImageRequest::default()
    };
    let deleted = client.images().delete(request).await;
    deleted.map(drop).context("cannot remove the image")
}

/// Removes the image and waits until its blobs are gone, so that the next pull fetches everything.
async fn remove(side: &Side, client: &Client, reference: &str) -> Result<()> {
    if side.is_orlop() {
        delete(client, reference).await?;
    } else {
        remove_by_cri(client, reference).await?;
    }
    side.collect().await?;
    let deadline = Instant::now() + PATIENCE;
    while blobs(client).await? > 0 {
        if Instant::now() > deadline {
            bail!("blobs of {reference} are still there after its removal");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn blobs(client: &Client) -> Result<usize> {
    let request = ListContentRequest::default();
    let mut pages = client.content().list(request).await?.into_inner();
    let mut count = 0;
    while let Some(page) = pages.message().await? {
        count += page.info.len();
    }
    Ok(count)
}

/// What others have written must not be synced on our time.
async fn settle_disk() {
    rustix::fs::sync();
    tokio::time::sleep(Duration::from_secs(1)).await;
}

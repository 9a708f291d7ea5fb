//! A node with very much on it: listing and marking. In memory, since only filling it would measure the disk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use orlop_api::containerd::services::content::v1::{
    ListContentRequest, WriteAction, WriteContentRequest,
};
use orlop_api::containerd::services::images::v1::{CreateImageRequest, Image, ListImagesRequest};
use orlop_api::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use orlop_api::containerd::types::Descriptor;
use orlop_api::orlop::v1::GcRunRequest;
use orlop_e2e::figures::pss_bytes;
use orlop_e2e::{Client, Engine, Options, Scratch};
use orlop_sys::mount::mount_all;
use orlop_types::Mount;
use sha2::{Digest, Sha256};

use crate::Effort;
use crate::report::Report;
use crate::samples::Samples;
use crate::sides::Sides;

/// Of an image: its manifest and nine more.
const BLOBS_OF_IMAGE: usize = 10;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const WRITERS: usize = 32;
const LEASE: &str = "fill";

pub(crate) async fn measure(sides: &Sides, effort: Effort, report: &mut Report) -> Result<()> {
    let scratch = Scratch::new()?;
    let memory = scratch.folder("memory")?;
    let mount = Mount {
        fs_type: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        target: String::new(),
        options: vec!["mode=755".to_owned()],
    };
    mount_all(&[mount], &memory)?;
    let options = Options {
        // A pass that is asked for waits for these delays.
        settings: ["gc.startup_delay=0s", "gc.mutations_max=100000000"]
            .map(str::to_owned)
            .to_vec(),
        root: Some(memory.join("root")),
        ..Options::default()
    };
    let engine = Engine::orlopd(&sides.programs, &scratch, &options)?;
    let client = engine.client().await?;
    let filled = Instant::now();
    let holding = client.with_lease(LEASE)?;
    lease(&client).await?;
    stream::iter(0..effort.images)
        .map(|number| add_image(&holding, number))
        .buffer_unordered(WRITERS)
        .try_collect::<()>()
        .await?;
    let request = DeleteRequest {
        id: LEASE.to_owned(),
        sync: true,
    };
    client.leases().delete(request).await?;
    let blobs = effort.images * BLOBS_OF_IMAGE;
    let filled = filled.elapsed().as_secs_f64();
    report.note(&format!(
        "{} images of {blobs} blobs were stored in {filled:.0} s",
        effort.images
    ))?;
    let mut figures = Figures::default();
    for _ in 0..effort.rounds {
        round(&client, effort, &mut figures).await?;
    }
    figures.report(blobs, report)?;
    let pss = pss_bytes(engine.pid())? >> 20;
    report.note(&format!("daemon afterwards: {pss} MiB"))?;
    drop(engine);
    scratch.close().map(drop)
}

#[derive(Debug, Default)]
struct Figures {
    images: Samples,
    content: Samples,
    mark: Samples,
    pass: Samples,
    all: Samples,
}

impl Figures {
    fn report(&self, blobs: usize, report: &mut Report) -> Result<()> {
        let (images, content, pass) = (&self.images, &self.content, &self.pass);
        report.note(&format!(
            "over gRPC, ms: images listed {images}, blobs listed {content}, marked {pass}"
        ))?;
        report.note(&format!("of it, writers kept waiting, ms: {}", self.mark))?;
        match blobs {
            100_000 => report.value("mark_100k", &self.all, "ms", "<300"),
            fewer => report.value(&format!("mark_{fewer}"), &self.all, "ms", "-"),
        }
    }
}

async fn round(client: &Client, effort: Effort, figures: &mut Figures) -> Result<()> {
    let started = Instant::now();
    let answer = client.images().list(ListImagesRequest::default()).await?;
    let images = started.elapsed();
    let listed = answer.into_inner().images.len();
    ensure!(listed == effort.images, "{listed} images are listed");
    let started = Instant::now();
    let listed = list_blobs(client).await?;
    let content = started.elapsed();
    ensure!(
        listed == effort.images * BLOBS_OF_IMAGE,
        "{listed} blobs are listed"
    );
    let started = Instant::now();
    let answer = client.collection().run(GcRunRequest {}).await?.into_inner();
    let pass = started.elapsed();
    ensure!(
        answer.content_collected == 0,
        "something held was collected"
    );
    figures.images.add_millis(images);
    figures.content.add_millis(content);
    figures.pass.add_millis(pass);
    figures.all.add_millis(images + content + pass);
    let pause = answer
        .pause
        .and_then(|pause| Duration::try_from(pause).ok());
    if let Some(pause) = pause {
        figures.mark.add_millis(pause);
    }
    Ok(())
}

async fn list_blobs(client: &Client) -> Result<usize> {
    let request = ListContentRequest::default();
    let mut pages = client.content().list(request).await?.into_inner();
    let mut count = 0;
    while let Some(page) = pages.message().await? {
        count += page.info.len();
    }
    Ok(count)
}

/// Holds blobs until the image that needs them is there.
async fn lease(client: &Client) -> Result<()> {
    let request = CreateRequest {
        id: LEASE.to_owned(),
        ..CreateRequest::default()
    };
    let made = client.leases().create(request).await;
    made.map(drop).context("cannot make a lease")
}

/// A manifest, the blobs its labels name, and an image of it.
async fn add_image(client: &Client, number: usize) -> Result<()> {
    let mut labels = BTreeMap::new();
    for blob in 1..BLOBS_OF_IMAGE {
        let digest = store(client, &format!("blob {number} {blob}"), BTreeMap::new()).await?;
        labels.insert(format!("containerd.io/gc.ref.content.l.{blob}"), digest);
    }
    let manifest = format!("manifest {number}");
    let digest = store(client, &manifest, labels).await?;
    let image = Image {
        name: format!("registry.example/team/image-{number}:latest"),
        target: Some(Descriptor {
            media_type: MANIFEST.to_owned(),
            digest,
            size: i64::try_from(manifest.len())?,
            ..Descriptor::default()
        }),
        ..Image::default()
    };
    let request = CreateImageRequest {
        image: Some(image),
        ..CreateImageRequest::default()
    };
    let made = client.images().create(request).await;
    made.map(drop).context("cannot create an image")
}

async fn store(client: &Client, content: &str, labels: BTreeMap<String, String>) -> Result<String> {
    let digest = Sha256::digest(content);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{digest}");
    let request = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: digest.clone(),
        total: i64::try_from(content.len())?,
        expected: digest.clone(),
        offset: 0,
        data: content.as_bytes().to_vec().into(),
        labels,
    };
    let answer = client.content().write(stream::iter([request])).await;
    let mut answers = answer.context("cannot write a blob")?.into_inner();
    while answers
        .message()
        .await
        .context("a blob is refused")?
        .is_some()
    {}
    Ok(digest)
}

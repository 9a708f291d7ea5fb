//! Collecting 500 snapshots, and what a pull feels of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orlop_api::containerd::services::content::v1::{
    AbortRequest, WriteAction, WriteContentRequest,
};
use orlop_api::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use orlop_api::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, PrepareSnapshotRequest, StatSnapshotRequest,
};
use orlop_api::orlop::v1::GcStatusRequest;
use orlop_e2e::Client;
use orlop_e2e::client::SNAPSHOTTER;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::Effort;
use crate::report::Report;
use crate::samples::Samples;
use crate::sides::{Side, Sides};

const SNAPSHOTS: usize = 500;
const LEASE: &str = "collect";
const INGEST: &str = "download";
const CHUNK_BYTES: usize = 64 << 10;

/// How long the writer runs alone, to know what it feels of the machine itself.
const CALM: Duration = Duration::from_millis(300);

/// How often and how long an engine is asked to forget an ingest whose writer has just gone.
const ABORTS_MAX: u32 = 100;
const ABORT_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Figures {
    elapsed: [Samples; 2],
    pause: Samples,
    calm: [Samples; 2],
    stall: [Samples; 2],
}

pub(crate) async fn measure(sides: &Sides, effort: Effort, report: &mut Report) -> Result<()> {
    report.disk(sides)?;
    let mut figures = Figures::default();
    for round in 0..effort.rounds {
        for index in sides.turns(round) {
            let side = &sides.both[index];
            fill(&side.client).await?;
            let (elapsed, pause) = collect(side).await?;
            figures.elapsed[index].add_millis(elapsed);
            if let Some(pause) = pause {
                figures.pause.add_millis(pause);
            }
            fill(&side.client).await?;
            stall(side, index, &mut figures).await?;
        }
    }
    report.value("collect_500", &figures.elapsed[0], "ms", "<=60")?;
    report.ratio("collect_500_ratio", &figures.elapsed, "ms", "<=0.22")?;
    report.value("collect_pause", &figures.pause, "ms", "<=1")?;
    let [ours, theirs] = &figures.calm;
    report.note(&format!(
        "longest wait for one of a download's writes, calm, ms: orlop {ours}, containerd {theirs}"
    ))?;
    report.ratio("collect_stall", &figures.stall, "ms", "<=1")
}

/// Committed snapshots that only a lease holds.
async fn fill(client: &Client) -> Result<()> {
    lease(client, LEASE).await?;
    let mut snapshots = client.with_lease(LEASE)?.snapshots();
    for number in 0..SNAPSHOTS {
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: format!("active-{number}"),
            ..PrepareSnapshotRequest::default()
        };
        snapshots.prepare(request).await.context("cannot prepare")?;
        let request = CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: format!("active-{number}"),
            name: format!("collect-{number}"),
            ..CommitSnapshotRequest::default()
        };
        snapshots.commit(request).await.context("cannot commit")?;
    }
    Ok(())
}

/// Lets go of them and waits until they are gone: how long it takes, and how long Orlop kept writers waiting.
async fn collect(side: &Side) -> Result<(Duration, Option<Duration>)> {
    let started = Instant::now();
    let request = DeleteRequest {
        id: LEASE.to_owned(),
        sync: true,
    };
    side.client.leases().delete(request).await?;
    let elapsed = started.elapsed();
    let mut pause = None;
    if side.is_orlop() {
        let request = GcStatusRequest::default();
        let status = side.client.collection().status(request).await?.into_inner();
        pause = status
            .last_pause
            .and_then(|told| Duration::try_from(told).ok());
    }
    let last = StatSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: format!("collect-{}", SNAPSHOTS - 1),
    };
    let left = side.client.snapshots().stat(last).await;
    ensure!(left.is_err(), "a snapshot is there after its collection");
    Ok((elapsed, pause))
}

/// The longest wait for the answer to one chunk of a download, without and with a collection.
async fn stall(side: &Side, index: usize, figures: &mut Figures) -> Result<()> {
    // Held, as a pull holds its ingests: a collection takes those that nobody holds.
    lease(&side.client, INGEST).await?;
    let mut download = Download::open(&side.client.with_lease(INGEST)?).await?;
    let calm = download.write_until(tokio::time::sleep(CALM)).await?.0;
    let (worst, collected) = download.write_until(collect(side)).await?;
    collected?;
    // The collection has left the ingest alone.
    download.write().await?;
    figures.calm[index].add_millis(calm);
    figures.stall[index].add_millis(worst);
    download.abort(&side.client).await?;
    let request = DeleteRequest {
        id: INGEST.to_owned(),
        sync: false,
    };
    side.client.leases().delete(request).await?;
    Ok(())
}

async fn lease(client: &Client, id: &str) -> Result<()> {
    let request = CreateRequest {
        id: id.to_owned(),
        ..CreateRequest::default()
    };
    let made = client.leases().create(request).await;
    made.map(drop).context("cannot make a lease")
}

/// An open ingest.
struct Download {
    sender: mpsc::Sender<WriteContentRequest>,
    answers: tonic::Streaming<orlop_api::containerd::services::content::v1::WriteContentResponse>,
    offset: i64,
    /// A chunk was sent whose answer is still to come: a write that was given up is gone on with by the next one.
    sent: bool,
}

impl Download {
    async fn open(client: &Client) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: INGEST.to_owned(),
            ..WriteContentRequest::default()
        };
        sender.send(first).await?;
        let answer = client.content().write(ReceiverStream::new(receiver)).await;
        let mut answers = answer.context("cannot write")?.into_inner();
        answers.message().await?;
        Ok(Self {
            sender,
            answers,
            offset: 0,
            sent: false,
        })
    }

    /// Writes chunks until `work` is done, and gives the longest wait with the work's outcome.
    async fn write_until<T>(&mut self, work: impl Future<Output = T>) -> Result<(Duration, T)> {
        tokio::pin!(work);
        let mut longest = Duration::ZERO;
        loop {
            let started = Instant::now();
            tokio::select! {
                outcome = &mut work => return Ok((longest, outcome)),
                written = self.write() => written?,
            }
            longest = longest.max(started.elapsed());
        }
    }

    async fn write(&mut self) -> Result<()> {
        if !self.sent {
            let request = WriteContentRequest {
                action: WriteAction::Write.into(),
                r#ref: INGEST.to_owned(),
                offset: self.offset,
                data: vec![0; CHUNK_BYTES].into(),
                ..WriteContentRequest::default()
            };
            self.sender.send(request).await?;
            self.sent = true;
        }
        let answer = self.answers.message().await.context("a write failed")?;
        self.offset = answer.context("the engine stopped listening")?.offset;
        self.sent = false;
        Ok(())
    }

    async fn abort(self, client: &Client) -> Result<()> {
        drop((self.sender, self.answers));
        let request = AbortRequest {
            r#ref: INGEST.to_owned(),
        };
        // The engine lets go of the writer only when it has seen its end.
        let mut outcome = client.content().abort(request.clone()).await;
        for _ in 0..ABORTS_MAX {
            match outcome.as_ref().map_err(Status::code) {
                Ok(_) | Err(Code::NotFound) => return Ok(()),
                Err(_) => tokio::time::sleep(ABORT_INTERVAL).await,
            }
            outcome = client.content().abort(request.clone()).await;
        }
        outcome.map(drop).context("cannot abort")
    }
}

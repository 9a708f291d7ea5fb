//! Blobs: in parallel ranges where that pays and works, in one stream where not.
//!
//! A fetch goes in rounds. Each round asks the sink what is missing, plans ranges for the hosts still in play and
//! runs a few workers side by side. A range that fails goes back into the queue; a host that cannot serve leaves the
//! fetch; one that should be asked later is waited for. The next round starts from what the sink then lacks.
//!
//! Mirrors are used all at once; the registry itself only when no mirror is left, for mirrors are there to spare it.
//!
//! Cancellation: dropping the future stops everything; a write that has begun ends by itself. What the sink holds is
//! whole ranges of the right bytes, so a later fetch into it goes on. Crash: the sink's own promise.
//! Ordering: writes come in any order and never overlap within one round.

mod budget;
mod distrust;
mod hosts;
mod plan;
mod pump;
mod range;
mod sink;
mod source;
mod worker;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use orlop_base::retry::Jitter;
use orlop_types::{Descriptor, Reference};
use tokio::time::Instant;

pub use budget::MemoryBudget;
pub(crate) use distrust::Distrust;
pub(crate) use hosts::HostMemory;
pub use range::ContentRange;
pub use sink::BlobSink;

use crate::client::Client;
use crate::error::{Error, Failure, FailureKind, Operation};
use crate::hosts::Endpoint;
use plan::{Plan, Queue};
use worker::Lane;

/// How blobs are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchOptions {
    /// Blobs up to this many bytes come in one stream.
    pub threshold_bytes: u64,
    /// Length of a range in bytes.
    pub chunk_bytes: u64,
    /// Ranges of one blob at once.
    pub parallel_per_blob: usize,
    /// Requests for blobs to one host at once, over all blobs.
    pub parallel_per_host: usize,
    /// How long a connection may be without progress: a kibibyte of a body, or the answer to a request.
    pub no_progress: Duration,
    /// How long a host that serves ranges wrongly is asked for whole blobs only.
    pub ranges_avoided_for: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            threshold_bytes: 8 << 20,
            chunk_bytes: 8 << 20,
            parallel_per_blob: 4,
            parallel_per_host: 12,
            no_progress: Duration::from_secs(30),
            ranges_avoided_for: Duration::from_secs(3600),
        }
    }
}

/// What a fetch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes received and stored, by host.
    pub bytes_by_host: Vec<(String, u64)>,
    /// Rounds it took; one when nothing went wrong.
    pub rounds: u32,
}

impl Client {
    /// Brings what `sink` lacks of `descriptor` from the hosts of the reference's registry.
    ///
    /// Returns when the sink lacks nothing. The bytes then have the right length; their digest is for the sink's
    /// owner to verify. Safe to drop at any point and to repeat with the same sink.
    ///
    /// # Errors
    /// No host could give what is missing, or the sink could not take it. What the sink has by then stays.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: Arc<dyn BlobSink>,
    ) -> Result<Fetched, Error> {
        let operation = Operation::FetchBlob;
        let subject = format!("{}@{}", reference.locator(), descriptor.digest);
        if is_foreign(descriptor) {
            let failure = Failure::new(
                reference.registry(),
                FailureKind::Foreign,
                descriptor.media_type.as_str(),
            );
            return Err(Error::new(operation, subject, vec![failure]));
        }
        let endpoints = self.endpoints(operation, reference, |can| can.pull).await?;
        let suspicion = self.shared.distrust.of(&descriptor.digest);
        let (distrusted, trusted): (Vec<_>, Vec<_>) = endpoints
            .iter()
            .partition(|endpoint| suspicion.hosts.contains(&endpoint.authority));
        let fetch = Fetch {
            client: self,
            size: descriptor.size,
            lanes: trusted
                .iter()
                .map(|endpoint| {
                    Lane::new(self.door(endpoint, reference), reference, descriptor, &sink)
                })
                .collect(),
            sink,
            one_at_a_time: suspicion.one_at_a_time,
            failed: distrusted
                .iter()
                .map(|endpoint| wrong_digest(&endpoint.authority, descriptor))
                .collect(),
            jitter: Jitter::from_entropy(),
        };
        fetch
            .run()
            .await
            .map_err(|failures| Error::new(operation, subject, failures))
    }

    /// Tells that what `fetched` brought has another digest than `descriptor` says. The host it came from is not
    /// asked for this blob again; if several gave bytes, they are asked one at a time from then on.
    ///
    /// When this returns well, fetch again, into a sink that lacks everything.
    ///
    /// # Errors
    /// No host is left; the error names them all. The next fetch may ask them again.
    pub async fn distrust(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        fetched: &Fetched,
    ) -> Result<(), Error> {
        let digest = descriptor.digest;
        for (host, bytes) in &fetched.bytes_by_host {
            tracing::warn!(host, %digest, bytes, "a blob came with another digest");
        }
        let operation = Operation::FetchBlob;
        let memory = &self.shared.distrust;
        let is_news = memory.blame(digest, descriptor.size, fetched);
        let hosts = memory.of(&digest).hosts;
        let endpoints = self.endpoints(operation, reference, |can| can.pull).await?;
        let is_trusted = |endpoint: &Endpoint| !hosts.contains(&endpoint.authority);
        if is_news && endpoints.iter().any(is_trusted) {
            return Ok(());
        }
        memory.forgive(&digest);
        let subject = format!("{}@{digest}", reference.locator());
        let failures = hosts.iter().map(|host| wrong_digest(host, descriptor));
        Err(Error::new(operation, subject, failures.collect()))
    }
}

fn wrong_digest(host: &str, descriptor: &Descriptor) -> Failure {
    let detail = format!("the bytes it gave do not have digest {}", descriptor.digest);
    Failure::new(host, FailureKind::WrongDigest, detail)
}

/// Layers whose licence forbids to distribute them name URLs instead (OCI image-spec, "non-distributable").
fn is_foreign(descriptor: &Descriptor) -> bool {
    !descriptor.urls.is_empty()
        || descriptor.media_type.contains(".foreign.")
        || descriptor.media_type.contains(".nondistributable.")
}

/// One blob under way.
struct Fetch<'a> {
    client: &'a Client,
    size: u64,
    sink: Arc<dyn BlobSink>,
    lanes: Vec<Lane>,
    one_at_a_time: bool,
    failed: Vec<Failure>,
    jitter: Jitter,
}

impl Fetch<'_> {
    async fn run(mut self) -> Result<Fetched, Vec<Failure>> {
        let mut report = Fetched {
            bytes_by_host: Vec::new(),
            rounds: 0,
        };
        loop {
            let missing = plan::clip(&self.sink.missing(), self.size);
            if missing.is_empty() {
                for lane in &mut self.lanes {
                    lane.finish(&mut report.bytes_by_host);
                }
                return Ok(report);
            }
            let active = self.active();
            if active.is_empty() {
                return Err(self.failed);
            }
            let ready = self.ready(active).await;
            report.rounds += 1;
            let failures = self.round(&missing, &ready).await;
            self.judge(failures)?;
        }
    }

    /// The lanes to use now: all mirrors, or the registry itself when no mirror is left.
    fn active(&self) -> Vec<usize> {
        let alive = |upstream: bool| -> Vec<usize> {
            (0..self.lanes.len())
                .filter(|at| {
                    !self.lanes[*at].is_closed() && self.lanes[*at].is_upstream() == upstream
                })
                .collect()
        };
        let mut lanes = alive(false);
        if lanes.is_empty() {
            lanes = alive(true);
        }
        if self.one_at_a_time {
            lanes.truncate(1);
        }
        lanes
    }

    /// Those of `active` that need not wait; waits for the first if all must.
    async fn ready(&self, active: Vec<usize>) -> Vec<usize> {
        loop {
            let waits: Vec<Option<Instant>> = active
                .iter()
                .map(|at| self.lanes[*at].resumes_at())
                .collect();
            match waits.iter().copied().min().flatten() {
                Some(first) => tokio::time::sleep_until(first).await,
                None => {
                    let ready = active.iter().zip(waits).filter(|(_, wait)| wait.is_none());
                    return ready.map(|(at, _)| *at).collect();
                }
            }
        }
    }

    async fn round(&self, missing: &[Range<u64>], active: &[usize]) -> Vec<(usize, Failure)> {
        let options = &self.client.options.fetch;
        let memory = &self.client.shared.memory;
        let serving: Vec<usize> = active
            .iter()
            .copied()
            .filter(|at| memory.serves_ranges(self.lanes[*at].host()))
            .collect();
        let plan = Plan::make(missing, self.size, options, !serving.is_empty());
        let (queue, workers, lanes) = match plan {
            Plan::Ranges { queue, workers } => (queue, workers, serving),
            Plan::Stream { queue } => (queue, 1, active.to_vec()),
        };
        let queue = Queue::new(queue);
        let run = (0..workers).map(|worker| {
            let at = lanes[worker % lanes.len()];
            let (lane, queue) = (&self.lanes[at], &queue);
            async move {
                lane.work(queue, missing)
                    .await
                    .err()
                    .map(|failure| (at, failure))
            }
        });
        join_all(run).await.into_iter().flatten().collect()
    }

    /// Draws the consequences of a round.
    fn judge(&mut self, failures: Vec<(usize, Failure)>) -> Result<(), Vec<Failure>> {
        let mut judged = Vec::new();
        for (at, failure) in failures {
            if failure.kind == FailureKind::Sink {
                self.failed.push(failure);
                return Err(std::mem::take(&mut self.failed));
            }
            // Workers that fail together are one failure of their host.
            if judged.contains(&at) {
                continue;
            }
            judged.push(at);
            let lane = &mut self.lanes[at];
            tracing::debug!(host = lane.host(), error = %failure, "a range failed");
            if !lane.judge(&failure, &self.client.options.retry, &mut self.jitter) {
                lane.close();
                self.failed.push(failure);
            }
        }
        Ok(())
    }
}

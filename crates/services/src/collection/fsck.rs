//! Findings as they are found.
//!
//! Cancellation: a run goes on when its caller leaves, since a repair is not to stop halfway; its findings are logged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::stream::Stream;
use orlop_api::orlop::v1 as api;
use orlop_api::orlop::v1::fsck_event::Event;
use orlop_base::blocking;
use orlop_meta::fsck::{Finding, FsckOptions, FsckSummary, Outcome};
use orlop_meta::{Db, Error};
use orlop_types::SnapshotterName;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{holdings, span};
use crate::status;

/// So many findings wait for a slow caller before the run waits, too.
const FINDINGS_WAITING_MAX: usize = 64;

/// What the pool's figures call these jobs.
const JOB: &str = "fsck";

type Sender = mpsc::Sender<Result<api::FsckEvent, Status>>;

/// Compares, and sends every finding, then the summary or what went wrong.
pub(super) fn stream(
    db: Db,
    snapshot_roots: BTreeMap<SnapshotterName, PathBuf>,
    request: &api::FsckRequest,
) -> impl Stream<Item = Result<api::FsckEvent, Status>> + Send + use<> {
    let options = FsckOptions {
        repair: request.repair,
        verify_content: request.verify_content,
        at_start: false,
        snapshot_roots,
    };
    let (sender, receiver) = mpsc::channel(FINDINGS_WAITING_MAX);
    let job = async move {
        let ran = blocking::run_long(JOB, move || run(&db, &options, &sender)).await;
        ran.err().map(|error| Err(status::of_blocking(&error)))
    };
    // The job is driven by the stream; its own end adds an element only when it could not run.
    let job = futures_util::stream::once(job).filter_map(|ended| ended);
    ReceiverStream::new(receiver).merge(job)
}

fn run(db: &Db, options: &FsckOptions, sender: &Sender) {
    let start = Instant::now();
    let send = |message| {
        // A caller that left wants no more findings; the run goes on.
        drop(sender.blocking_send(message));
    };
    let ran = db.fsck(options, &mut |found| send(Ok(event(finding(found)))));
    send(conclusion(ran, start.elapsed()));
}

fn conclusion(
    ran: Result<FsckSummary, Error>,
    duration: Duration,
) -> Result<api::FsckEvent, Status> {
    let summary = ran.map_err(|error| status::of_meta(&error))?;
    Ok(event(Event::Summary(api::FsckSummary {
        blobs_checked: summary.blobs,
        snapshots_checked: summary.snapshots,
        mounts_checked: summary.mounts,
        findings: summary.findings,
        repaired: summary.repaired,
        duration: span(duration),
    })))
}

fn finding(found: &Finding) -> Event {
    let resource = found.check.resource().map(|kind| api::Resource {
        kind: holdings::kind_message(kind).into(),
        key: found.subject.clone(),
        ..api::Resource::default()
    });
    let (repaired, repair_error) = match &found.outcome {
        Outcome::Found => (false, String::new()),
        Outcome::Repaired(_) => (true, String::new()),
        Outcome::Left(reason) => (false, reason.clone()),
    };
    Event::Finding(api::FsckFinding {
        kind: found.check.as_str().to_owned(),
        path: match resource {
            Some(_) => String::new(),
            None => found.subject.clone(),
        },
        resource,
        detail: found.detail.clone(),
        bytes: 0,
        repaired,
        repair_error,
    })
}

const fn event(event: Event) -> api::FsckEvent {
    api::FsckEvent { event: Some(event) }
}

//! Collection's driver: it waits as meta's schedule says, runs passes in the blocking pool, and answers those who asked
//! for one. Also the mending after an unclean stop.
//!
//! Crash: nothing is kept here; the sweep queue and the records say where to go on. Cancellation: a pass that began is
//! waited for, and no other begins; callers still in line are told that the daemon ends. Ordering: changes that are
//! committed while a pass runs count as reasons for the next, since the pass may have missed them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use orlop_base::blocking;
use orlop_base::clock::SharedClock;
use orlop_base::config::Gc;
use orlop_base::task::{CancellationToken, TaskKind, TaskTree};
use orlop_base::telemetry::spans;
use orlop_base::traced;
use orlop_meta::fsck::FsckOptions;
use orlop_meta::gc::{
    Collector, Moment, Next, QueueStatus, Report, Schedule, SchedulePolicy, Signals, Timers,
};
use orlop_meta::{Committed, Db, Error};
use orlop_services::{PassError, PassRequest, Passes};
use orlop_types::SnapshotterName;
use tokio::sync::Notify;
use tracing::Instrument;
use tracing::field::Empty;

use crate::figures::CollectionFigures;

/// Waits for the pass under way.
const DRIVER: TaskKind = TaskKind::cooperative("collection");

/// What the pool's figures call a pass.
const JOB: &str = "collection";

/// Ingests are made without an event, so their expiry is asked for at least this often.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Expiries are asked for at most this often, however much is written.
const TIMERS_AGE_MIN: Duration = Duration::from_millis(100);

/// How long after a pass that could not be done the next is tried without any other reason.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// So many callers share one pass; others wait for the next.
const WAITING_MAX: usize = 1024;

/// Mends what a killed daemon left, before anybody is served. Blocks. False if that could not be done: then the
/// daemon's end is not to be noted as orderly, so that the next start tries again.
pub(crate) fn mend_after_unclean_stop(
    db: &Db,
    snapshot_roots: &BTreeMap<SnapshotterName, PathBuf>,
) -> Result<bool, Error> {
    if db.begin_session()? {
        return Ok(true);
    }
    let options = FsckOptions {
        repair: true,
        verify_content: false,
        at_start: true,
        snapshot_roots: snapshot_roots.clone(),
    };
    // Each finding is logged where it is found.
    match db.fsck(&options, &mut |_| {}) {
        Ok(summary) => {
            tracing::info!(
                checked = summary.checked,
                findings = summary.findings,
                repaired = summary.repaired,
                "the daemon before did not end in order: records and disk were compared"
            );
            Ok(true)
        }
        // A node that can still start containers is worth more than none.
        Err(error) => {
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "records and disk could not be compared after an unclean stop: run `orlop fsck`"
            );
            Ok(false)
        }
    }
}

/// Starts the driver.
pub(crate) fn start(
    collector: Arc<Collector>,
    passes: Passes,
    config: &Gc,
    figures: CollectionFigures,
    tasks: &TaskTree,
) {
    let clock = Arc::clone(collector.db().clock());
    let policy = SchedulePolicy {
        mutation_threshold: u64::from(config.mutations_max),
        schedule_delay: config.schedule_delay,
        startup_delay: config.startup_delay,
        ..SchedulePolicy::default()
    };
    let driver = Driver {
        schedule: Schedule::new(policy, moment(&clock)),
        heard: Arc::new(Heard::default()),
        waiting: Vec::new(),
        timers: Timers::default(),
        timers_at: None,
        retry_at: None,
        collector,
        clock,
        passes,
        figures,
    };
    drop(tasks.spawn(DRIVER, |token| driver.run(token)));
}

struct Driver {
    collector: Arc<Collector>,
    clock: SharedClock,
    schedule: Schedule,
    heard: Arc<Heard>,
    passes: Passes,
    figures: CollectionFigures,
    /// Callers of the next pass.
    waiting: Vec<PassRequest>,
    timers: Timers,
    /// When the timers were asked for, in time since boot.
    timers_at: Option<Duration>,
    /// When a pass that failed is tried again, in time since boot.
    retry_at: Option<Duration>,
}

/// What commits said since the last pass began.
#[derive(Debug, Default)]
struct Heard {
    counts: Mutex<Counts>,
    changed: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    deletions: u64,
    mutations: u64,
    sweeps: u64,
    /// Leases may have come, gone or changed.
    is_timer_stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Collect,
    Sweep,
}

impl Work {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Collect => "collect",
            Self::Sweep => "sweep",
        }
    }
}

/// What one job in the pool brings back.
type Done = (Report, QueueStatus, Timers);

impl Driver {
    async fn run(mut self, token: CancellationToken) {
        let heard = Arc::clone(&self.heard);
        let _watch = self.collector.db().watch(move |batch| heard.note(&batch));
        while !token.is_cancelled() {
            self.refresh_timers().await;
            match self.next() {
                Next::Collect => self.work(Work::Collect).await,
                Next::Sweep => self.work(Work::Sweep).await,
                Next::Wait(time) => self.wait(&token, time, Some(time)).await,
                Next::Idle => self.wait(&token, IDLE_MAX, None).await,
            }
        }
    }

    fn next(&self) -> Next {
        let now = moment(&self.clock);
        let counts = self.heard.counts();
        let is_retry = self.retry_at.is_some_and(|at| at <= now.boottime);
        let signals = Signals {
            deletions: counts.deletions,
            mutations: counts.mutations,
            sweeps: counts.sweeps,
            requested: is_retry || !self.waiting.is_empty(),
            next_expiry: self.timers.next_expiry,
            next_retry: self.timers.next_retry,
        };
        self.schedule.next(now, &signals)
    }

    /// Waits for `time` at most, and less when something changes, somebody asks, or the daemon ends.
    async fn wait(&mut self, token: &CancellationToken, time: Duration, told: Option<Duration>) {
        let now = moment(&self.clock);
        let retry = self.retry_at.map(|at| at.saturating_sub(now.boottime));
        let next_at = told.into_iter().chain(retry).min();
        self.passes.latest.send_modify(|latest| {
            latest.next_at = next_at.and_then(|wait| now.wall.checked_add(wait));
        });
        let stale = self.heard.counts().is_timer_stale.then_some(TIMERS_AGE_MIN);
        let limits = [Some(time), Some(IDLE_MAX), retry, stale];
        let limit = limits.into_iter().flatten().min().unwrap_or(IDLE_MAX);
        let has_room = self.waiting.len() < WAITING_MAX;
        tokio::select! {
            () = token.cancelled() => {}
            () = self.heard.changed.notified() => {}
            () = self.clock.sleep(limit) => {}
            Some(request) = self.passes.requests.recv(), if has_room => self.waiting.push(request),
        }
    }

    /// Asks when something expires, if that may have changed and was not asked just now.
    async fn refresh_timers(&mut self) {
        let now = self.clock.boottime();
        let is_stale = self.heard.counts().is_timer_stale;
        let age = self.timers_at.map(|at| now.saturating_sub(at));
        let is_due = match age {
            None => true,
            Some(age) => age >= IDLE_MAX || (is_stale && age >= TIMERS_AGE_MIN),
        };
        if !is_due {
            return;
        }
        self.timers_at = Some(now);
        self.heard.timers_are_asked_for();
        let collector = Arc::clone(&self.collector);
        match flat(blocking::run(JOB, move || collector.timers()).await) {
            Ok(timers) => self.timers = timers,
            Err(error) => tracing::error!(%error, "cannot tell when leases expire"),
        }
    }

    async fn work(&mut self, work: Work) {
        let callers = match work {
            Work::Collect => self.callers(),
            Work::Sweep => Vec::new(),
        };
        self.heard.forget();
        self.retry_at = None;
        let (start, began_at) = (self.clock.boottime(), self.clock.wall());
        let collector = Arc::clone(&self.collector);
        let job = move || pass(&collector, work, began_at);
        let span = traced!(parent: None, "collection", otel.name = work.as_str(), removed = Empty, bytes_freed = Empty);
        let done = flat(blocking::run_long(JOB, job).instrument(span.clone()).await);
        match &done {
            Ok((report, ..)) => {
                span.record("removed", report.removed.total());
                span.record("bytes_freed", report.bytes_freed);
            }
            Err(error) => spans::failed(&span, error.code(), error),
        }
        let end = moment(&self.clock);
        self.schedule.ran(end, end.boottime.saturating_sub(start));
        let outcome = done.map(|done| self.note(work, began_at, done));
        if let Err(error) = &outcome {
            self.retry_at = Some(end.boottime + RETRY_DELAY);
            self.figures.failed();
            tracing::error!(error = format!("{:#}", anyhow::Error::from(error.clone())), retry_in = ?RETRY_DELAY,
                "collection failed: nothing was lost, and space is not given back");
        }
        for caller in callers {
            caller.answer(outcome.clone());
        }
    }

    /// Everybody who asked before this pass begins.
    fn callers(&mut self) -> Vec<PassRequest> {
        let mut callers = std::mem::take(&mut self.waiting);
        while callers.len() < WAITING_MAX
            && let Ok(request) = self.passes.requests.try_recv()
        {
            callers.push(request);
        }
        callers
    }

    fn note(
        &mut self,
        work: Work,
        began_at: SystemTime,
        (report, queue, timers): Done,
    ) -> Arc<Report> {
        self.timers = timers;
        self.timers_at = Some(self.clock.boottime());
        self.figures.observe(work == Work::Collect, &report, &queue);
        log(work, &report, &queue);
        let report = Arc::new(report);
        if work == Work::Collect {
            let pass = Some((began_at, Arc::clone(&report)));
            self.passes.latest.send_modify(|latest| latest.pass = pass);
        }
        report
    }
}

impl Heard {
    fn note(&self, batch: &Committed) {
        self.change(|counts| {
            counts.deletions += batch.deletions;
            counts.mutations += 1;
            counts.sweeps += batch.sweeps;
            counts.is_timer_stale |= batch.event.is_some();
        });
        self.changed.notify_one();
    }

    fn counts(&self) -> Counts {
        self.change(|counts| *counts)
    }

    /// A pass begins: what was heard until now is no reason for another.
    fn forget(&self) {
        self.change(|counts| *counts = Counts::default());
    }

    fn timers_are_asked_for(&self) {
        self.change(|counts| counts.is_timer_stale = false);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        // Sums, which a panic cannot leave half written.
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn pass(collector: &Collector, work: Work, now: SystemTime) -> Result<Done, Error> {
    let report = match work {
        Work::Collect => collector.run_once(now)?,
        Work::Sweep => collector.sweep(now)?,
    };
    Ok((report, collector.queue(0)?, collector.timers()?))
}

fn flat<T>(ran: Result<Result<T, Error>, blocking::BlockingError>) -> Result<T, PassError> {
    Ok(ran??)
}

/// Every key was logged where it went; this is the sum.
fn log(work: Work, report: &Report, queue: &QueueStatus) {
    if report.removed.total() + report.swept.total() == 0 && report.failures.is_empty() {
        tracing::debug!(?work, took = ?report.took, nodes = report.nodes, "nothing to collect");
        return;
    }
    tracing::info!(
        ?work,
        took = ?report.took,
        longest_pause = ?report.longest_pause,
        nodes = report.nodes,
        removed = report.removed.total(),
        spared = report.spared,
        bytes_freed = report.bytes_freed,
        failures = report.failures.len(),
        waiting = queue.items,
        "collected"
    );
}

fn moment(clock: &SharedClock) -> Moment {
    Moment {
        wall: clock.wall(),
        boottime: clock.boottime(),
    }
}

//! Collection: what nothing holds goes, and everything can be asked why it stays.
//!
//! One pass: read `nodes` and `refs` as of one moment, mark what roots reach (`mark`, pure), remove the rows of the
//! rest in small transactions that queue their bytes (`reap`), work the queue off (`drain`). Nobody waits for the
//! first two; the third keeps others from writing for less than a millisecond at a time; the fourth touches no row but
//! the queue's. `docs/flows/collect.md` tells the same with its failures.
//!
//! **Crash.** A record is there, or its bytes are in the queue, or they are gone. **Ordering.** Rows are on disk as
//! removed before bytes go. What is named while a pass runs is kept (`barrier`). **Cancellation.** None needed: a
//! pass ends by itself, and one that is killed is begun anew.
//!
//! When to run is [`Schedule`]'s to say; it is pure, so that the daemon only waits and calls.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use orlop_base::retry::Jitter;

use crate::time::{from_nanos, to_nanos};
use crate::{Db, Error};

mod barrier;
mod drain;
pub(crate) mod graph;
mod mark;
mod order;
mod queue;
mod reap;
mod report;
mod schedule;
mod why;

pub use queue::{QueueItem, QueueStatus};
pub use report::{Failure, Removed, Report, Totals};
pub use schedule::{Moment, Next, Schedule, SchedulePolicy, Signals};
pub use why::{Held, Hop, Resource, ResourceKind, RootReason, Verdict, Via, Why};

pub(crate) use drain::blob_is_named;

/// Collects. One per database; passes exclude each other.
#[derive(Debug)]
pub struct Collector {
    db: Db,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    totals: Totals,
    jitter: Jitter,
    /// Until when expiries have been seen, in nanoseconds since 1970.
    seen_until: i64,
}

/// When something is due without anybody writing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timers {
    /// When the next lease, image, or thing made without a lease expires that no pass has seen expire.
    pub next_expiry: Option<SystemTime>,
    /// When the next entry of the sweep queue is to be tried.
    pub next_retry: Option<SystemTime>,
}

impl Collector {
    /// A collector of a database that is open for writing.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self {
            db,
            state: Mutex::new(State {
                totals: Totals::default(),
                jitter: Jitter::from_entropy(),
                seen_until: i64::MIN,
            }),
        }
    }

    /// One whole pass: marks as of `now`, removes what nothing holds, and works the sweep queue off.
    ///
    /// What fails for a single thing is in the report; the rest goes on.
    ///
    /// # Errors
    /// `ReadOnly`, `Database`, `Corrupt` where nodes or references are damaged: then nothing is removed.
    pub fn run_once(&self, now: SystemTime) -> Result<Report, Error> {
        let mut state = self.lock();
        let start = Instant::now();
        state.totals.last_pass_at = Some(now);
        let passed = self.remove_rows(to_nanos(now)).and_then(|mut report| {
            state.seen_until = to_nanos(now);
            self.drain(to_nanos(now), &mut state, &mut report)?;
            Ok(report)
        });
        finish(&mut state, start, passed)
    }

    /// Only works the sweep queue off: after deletions by clients, and when an entry is due again.
    ///
    /// # Errors
    /// `ReadOnly`, `Database`.
    pub fn sweep(&self, now: SystemTime) -> Result<Report, Error> {
        let mut state = self.lock();
        let start = Instant::now();
        let mut report = Report::default();
        let passed = self
            .drain(to_nanos(now), &mut state, &mut report)
            .map(|()| report);
        finish(&mut state, start, passed)
    }

    /// The sweep queue with its first `limit` entries, those that failed before the others.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub fn queue(&self, limit: usize) -> Result<QueueStatus, Error> {
        queue::status(&self.db, limit)
    }

    /// When something is due without anybody writing; asked after each pass and whenever leases change.
    ///
    /// # Errors
    /// `Database`.
    pub fn timers(&self) -> Result<Timers, Error> {
        let seen_until = self.lock().seen_until;
        self.db.read("read when things expire", |connection| {
            let expiry: Option<i64> = connection
                .prepare_cached(
                    "SELECT min(expires_at) FROM nodes WHERE expires_at IS NOT NULL AND expires_at >= ?1",
                )
                .and_then(|mut select| select.query_row([seen_until], |row| row.get(0)))
                .map_err(Error::database("read when things expire"))?;
            Ok(Timers {
                // Something is kept up to and including its last moment.
                next_expiry: expiry.map(|at| from_nanos(at.saturating_add(1))),
                next_retry: queue::next_try(connection)?.map(from_nanos),
            })
        })
    }

    /// What all passes since the start did.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    /// The database.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.db
    }

    fn remove_rows(&self, now: i64) -> Result<Report, Error> {
        let barrier = barrier::Barrier::raise(&self.db)?;
        let start = Instant::now();
        let (graph, names) = self.db.read("read what holds what", |connection| {
            Ok((
                graph::Graph::load(connection)?,
                reap::namespaces(connection)?,
            ))
        })?;
        let loaded = Instant::now();
        let mut marks = mark::mark(&graph, now);
        let mut report = Report {
            nodes: graph.len(),
            references: graph.edge_count(),
            load_time: loaded - start,
            mark_time: loaded.elapsed(),
            ..Report::default()
        };
        let reaped = reap::reap(&self.db, &graph, &mut marks, &names);
        drop(barrier);
        report.removed = reaped.removed;
        report.spared = reaped.spared;
        report.failures = reaped.failures;
        report.longest_pause = reaped.longest_pause;
        Ok(report)
    }

    fn drain(&self, now: i64, state: &mut State, report: &mut Report) -> Result<(), Error> {
        // What this pass queued carries a later time than the pass.
        let due = now.max(self.db.now());
        let drained = drain::Drain::new(&self.db, due, &mut state.jitter).run()?;
        report.swept = drained.swept;
        report.cancelled = drained.cancelled;
        report.bytes_freed = drained.bytes_freed;
        report.failures.extend(drained.failures);
        report.longest_pause = report.longest_pause.max(drained.longest_pause);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Figures and a random state: a panic cannot leave them half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn finish(
    state: &mut State,
    start: Instant,
    passed: Result<Report, Error>,
) -> Result<Report, Error> {
    match passed {
        Ok(mut report) => {
            report.took = start.elapsed().max(Duration::from_nanos(1));
            state.totals.add(&report);
            Ok(report)
        }
        Err(error) => {
            state.totals.passes_failed += 1;
            Err(error)
        }
    }
}

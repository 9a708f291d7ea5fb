//! The one connection that writes, and group commit.
//!
//! Every caller runs its statements itself, in a savepoint of the transaction that is open at that moment. The first
//! caller of a transaction leads: it lets the callers that are already waiting run theirs, commits once for all of
//! them (one fsync), and wakes them. With one caller this is a plain transaction; with many, the disk's latency is
//! shared.
//!
//! **Crash.** Nobody is answered before the commit has reached the disk (`synchronous=FULL`), or for relaxed writes the
//! log, which survives a killed process. A batch is in the
//! database as a whole or not at all. **Cancellation.** None: a closure runs to its end. A closure that fails, or
//! panics, is rolled back alone; it failed over what others of the batch wrote, so its failure too is told after the
//! commit: who hears "not found" looks, and must not find it. **Ordering.** Closures run one at a time, in the order of
//! their commits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::{Committed, Tx};
use crate::Error;

/// More transactions than this are never committed together, so that the first does not wait for ever.
const BATCH_JOBS_MAX: usize = 64;

/// How long a leader waits for a caller that announced itself; it costs far less than an fsync.
const BATCH_WAIT: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Writer {
    state: Mutex<State>,
    /// Signalled after each closure, so that a leader can look whether more callers wait.
    ran: Condvar,
    queued: AtomicUsize,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    open: bool,
    /// Whether commits do without an fsync at present.
    is_relaxed: bool,
    batch: Option<Arc<Batch>>,
    jobs: usize,
    effects: Committed,
}

type Outcome = Result<(), Arc<rusqlite::Error>>;

#[derive(Debug, Default)]
struct Batch {
    outcome: Mutex<Option<Outcome>>,
    done: Condvar,
}

/// What one call of [`Writer::run`] gave.
pub(super) struct Ran<T> {
    pub(super) value: T,
    /// What the whole batch did, for its leader only.
    pub(super) committed: Option<Committed>,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            state: Mutex::new(State {
                connection,
                open: false,
                is_relaxed: false,
                batch: None,
                jobs: 0,
                effects: Committed::default(),
            }),
            ran: Condvar::new(),
            queued: AtomicUsize::new(0),
        }
    }

    /// Runs `job` and returns when its changes are on disk.
    pub(super) fn run<T>(
        &self,
        operation: &'static str,
        now: i64,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<Ran<T>, Error> {
        self.queued.fetch_add(1, Ordering::SeqCst);
        let mut state = lock(&self.state);
        self.queued.fetch_sub(1, Ordering::SeqCst);
        state.set_relaxed(false, operation)?;
        let value = state.run(operation, now, job);
        self.ran.notify_one();
        if let Some(batch) = state.batch.clone() {
            drop(state);
            return batch.tell(operation, value);
        }
        let value = value?;
        let batch = Arc::new(Batch::default());
        state.batch = Some(Arc::clone(&batch));
        let mut state = self.gather(state);
        let effects = std::mem::take(&mut state.effects);
        let outcome = state.commit();
        drop(state);
        batch.finish(outcome.clone());
        outcome.map_err(|source| Error::Database { operation, source })?;
        let committed = Some(effects);
        Ok(Ran { value, committed })
    }

    /// Runs `job` without an fsync of its own: for what may be lost in a power cut, but not when a process is killed.
    ///
    /// Joins an open transaction if there is one, and then waits for its commit: a caller goes on to effects outside
    /// the database, which must not be there without the row.
    pub(super) fn run_relaxed<T>(
        &self,
        operation: &'static str,
        now: i64,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<Ran<T>, Error> {
        let mut state = lock(&self.state);
        if let Some(batch) = state.batch.clone() {
            let value = state.run(operation, now, job);
            self.ran.notify_one();
            drop(state);
            return batch.tell(operation, value);
        }
        state.set_relaxed(true, operation)?;
        let value = state.run(operation, now, job)?;
        let effects = std::mem::take(&mut state.effects);
        state
            .commit()
            .map_err(|source| Error::Database { operation, source })?;
        let committed = Some(effects);
        Ok(Ran { value, committed })
    }

    /// Runs `job` on the connection while no transaction is open.
    pub(super) fn idle<T>(&self, job: impl FnOnce(&Connection) -> T) -> T {
        let mut state = lock(&self.state);
        while state.batch.is_some() {
            state = self
                .ran
                .wait_timeout(state, BATCH_WAIT)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        job(&state.connection)
    }

    /// Lets callers that have announced themselves join the open transaction.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while self.queued.load(Ordering::SeqCst) > 0 && state.jobs < BATCH_JOBS_MAX {
            let (guard, timeout) = self
                .ran
                .wait_timeout(state, BATCH_WAIT)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if timeout.timed_out() {
                break;
            }
        }
        state
    }
}

impl State {
    fn run<T>(
        &mut self,
        operation: &'static str,
        now: i64,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let failed = Error::database(operation);
        if !self.open {
            self.connection
                .execute_batch("BEGIN IMMEDIATE")
                .map_err(failed)?;
            self.open = true;
        }
        let ran = self.run_in_savepoint(operation, now, job);
        if ran.is_err() && self.batch.is_none() {
            // Nobody else is in this transaction: end it, so that no lock is held without need.
            self.roll_back();
        }
        ran
    }

    fn run_in_savepoint<T>(
        &mut self,
        operation: &'static str,
        now: i64,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let failed = Error::database(operation);
        let savepoint = self.connection.savepoint().map_err(failed)?;
        let tx = Tx::new(&savepoint, now);
        let value = job(&tx)?;
        let effects = tx.into_effects();
        savepoint.commit().map_err(failed)?;
        self.jobs += 1;
        self.effects.merge(&effects);
        Ok(value)
    }

    fn commit(&mut self) -> Outcome {
        self.batch = None;
        let outcome = self.connection.execute_batch("COMMIT").map_err(Arc::new);
        self.open = false;
        self.jobs = 0;
        if outcome.is_err() {
            self.roll_back();
        }
        outcome
    }

    fn roll_back(&mut self) {
        // After some failures SQLite has rolled back by itself; then there is nothing to do and that is fine.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "a failed transaction could not be rolled back");
        }
        self.open = false;
        self.jobs = 0;
        self.effects = Committed::default();
    }

    /// Chooses whether the next commit waits for the disk. An open batch keeps the mode it began with: FULL.
    fn set_relaxed(&mut self, relaxed: bool, operation: &'static str) -> Result<(), Error> {
        if self.batch.is_some() {
            return Ok(());
        }
        if self.open {
            // A panicking closure left this transaction behind, and the mode can only be changed outside of one.
            self.roll_back();
        }
        if self.is_relaxed == relaxed {
            return Ok(());
        }
        let mode = if relaxed { "NORMAL" } else { "FULL" };
        self.connection
            .pragma_update(None, "synchronous", mode)
            .map_err(Error::database(operation))?;
        self.is_relaxed = relaxed;
        Ok(())
    }
}

impl Batch {
    /// What a follower's closure came to, once what it was built on is in the database.
    fn tell<T>(&self, operation: &'static str, value: Result<T, Error>) -> Result<Ran<T>, Error> {
        self.wait(operation)?;
        let (value, committed) = (value?, None);
        Ok(Ran { value, committed })
    }

    fn wait(&self, operation: &'static str) -> Result<(), Error> {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(outcome) = outcome.clone() {
                return outcome.map_err(|source| Error::Database { operation, source });
            }
            outcome = self
                .done
                .wait(outcome)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, outcome: Outcome) {
        *lock(&self.outcome) = Some(outcome);
        self.done.notify_all();
    }
}

/// Locks even after a panic of another holder: a panicking closure's savepoint has been rolled back by its drop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_failure_over_what_is_not_committed_yet_is_told_after_the_commit() {
        let writer = Writer::new(Connection::open_in_memory().unwrap());
        let batch = Arc::new(Batch::default());
        {
            let mut state = lock(&writer.state);
            state.connection.execute_batch("BEGIN").unwrap();
            state.open = true;
            state.batch = Some(Arc::clone(&batch));
        }
        let missing = || Error::NotFound {
            kind: "image",
            key: "removed by the batch".to_owned(),
            namespace: "test".to_owned(),
        };
        let (tell, told) = mpsc::channel();
        std::thread::scope(|threads| {
            for is_relaxed in [false, true] {
                let (tell, writer) = (tell.clone(), &writer);
                threads.spawn(move || {
                    let job = |_: &Tx<'_>| Err::<(), _>(missing());
                    let ran = match is_relaxed {
                        true => writer.run_relaxed("test", 0, job),
                        false => writer.run("test", 0, job),
                    };
                    tell.send(ran.err()).unwrap();
                });
            }
            let early = told.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err(), "{early:?}");
            let outcome = lock(&writer.state).commit();
            batch.finish(outcome);
            for _ in 0..2 {
                let error = told.recv().unwrap().unwrap();
                assert!(matches!(error, Error::NotFound { .. }), "{error}");
            }
        });
    }
}

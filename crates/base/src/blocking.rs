//! The one bounded pool for calls that block: files, the database, hashing, decompression.
//!
//! Two lanes share the runtime's blocking threads. Short jobs (a query, a write, a rename) end by themselves;
//! long jobs (unpacking a layer) may wait for bytes that short jobs deliver. Were there one lane, long jobs
//! could take every place and wait for ever for the short ones behind them.
//!
//! Cancellation: a job whose future is dropped before it began never runs; one that began runs to its end and
//! keeps its place until then. Crash: nothing is kept. Ordering: jobs of a lane begin in the order they asked.
//! A job must not wait for another job of its own lane.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::task::panic_message;
use crate::telemetry::names;

/// Short jobs at once, unless [`install`] says otherwise. Disk and database gain nothing from more.
pub const SHORT_JOBS_DEFAULT: usize = 16;

/// Long jobs at once, unless [`install`] says otherwise.
pub const LONG_JOBS_DEFAULT: usize = 8;

/// Why a job gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// A defect, already logged and counted. Give up.
    #[error("blocking job {kind} panicked: {message}")]
    Panicked {
        /// What the job was for.
        kind: &'static str,
        /// The panic's text.
        message: String,
    },
    /// The runtime is being torn down. Give up.
    #[error("blocking job {kind} was cancelled by shutdown")]
    Cancelled {
        /// What the job was for.
        kind: &'static str,
    },
}

/// A pool. Clones are the same pool. The daemon has one, reached through [`run`] and [`run_long`].
#[derive(Debug, Clone)]
pub struct BlockingPool {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    panics: Counter,
    /// Counts the jobs that have ended.
    ended: watch::Sender<u64>,
}

/// Hears of a pool's work, for whoever wants to tidy up after it.
#[derive(Debug)]
pub struct Activity {
    ended: watch::Receiver<u64>,
}

static POOL: OnceLock<BlockingPool> = OnceLock::new();

/// Runs a short job in the process's pool.
///
/// # Errors
/// The job panicked, or the runtime is going away.
pub async fn run<T, Job>(kind: &'static str, job: Job) -> Result<T, BlockingError>
where
    Job: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    pool().run(kind, job).await
}

/// Runs a long job in the process's pool: one that may wait for others.
///
/// # Errors
/// The job panicked, or the runtime is going away.
pub async fn run_long<T, Job>(kind: &'static str, job: Job) -> Result<T, BlockingError>
where
    Job: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    pool().run_long(kind, job).await
}

/// Makes `pool` the process's pool; once, before the first job. Returns whether it was in time.
pub fn install(pool: BlockingPool) -> bool {
    POOL.set(pool).is_ok()
}

/// The process's pool, with default limits if none was installed.
#[must_use]
pub fn pool() -> &'static BlockingPool {
    POOL.get_or_init(BlockingPool::default)
}

impl BlockingPool {
    /// A pool with this many places in each lane; none means one. The runtime needs at least their sum as
    /// `max_blocking_threads`.
    #[must_use]
    pub fn new(short_jobs: usize, long_jobs: usize) -> Self {
        Self {
            short: Arc::new(Semaphore::new(short_jobs.max(1))),
            long: Arc::new(Semaphore::new(long_jobs.max(1))),
            panics: Counter::default(),
            ended: watch::Sender::default(),
        }
    }

    /// Hears of jobs from now on.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity {
            ended: self.ended.subscribe(),
        }
    }

    /// Runs a short job: one that ends by itself.
    ///
    /// # Errors
    /// The job panicked, or the runtime is going away.
    pub async fn run<T, Job>(&self, kind: &'static str, job: Job) -> Result<T, BlockingError>
    where
        Job: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.run_in(Arc::clone(&self.short), kind, job).await
    }

    /// Runs a long job: one that may wait for others.
    ///
    /// # Errors
    /// The job panicked, or the runtime is going away.
    pub async fn run_long<T, Job>(&self, kind: &'static str, job: Job) -> Result<T, BlockingError>
    where
        Job: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.run_in(Arc::clone(&self.long), kind, job).await
    }

    /// How many jobs have panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// Shows the pool's figures among `registry`'s.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            names::BLOCKING_JOB_PANICS,
            "Blocking jobs that panicked",
            self.panics.clone(),
        );
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that takes a blocking thread"
    )]
    async fn run_in<T, Job>(
        &self,
        lane: Arc<Semaphore>,
        kind: &'static str,
        job: Job,
    ) -> Result<T, BlockingError>
    where
        Job: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let place = lane
            .acquire_owned()
            .await
            .expect("the lanes are never closed");
        let span = tracing::Span::current();
        let (panics, ended) = (self.panics.clone(), self.ended.clone());
        let guarded = move || {
            // Held by the job and not by the caller: a caller that goes away frees no thread.
            let _place = place;
            let _entered = span.enter();
            let result = std::panic::catch_unwind(AssertUnwindSafe(job)).map_err(|payload| {
                let message = panic_message(payload.as_ref()).to_owned();
                panics.inc();
                tracing::error!(kind, message, "a blocking job panicked");
                BlockingError::Panicked { kind, message }
            });
            ended.send_modify(|count| *count += 1);
            result
        };
        tokio::task::spawn_blocking(guarded)
            .await
            .unwrap_or(Err(BlockingError::Cancelled { kind }))
    }
}

impl Activity {
    /// Waits for a job to end that was not heard of before, and then until none has ended for `quiet`; but not
    /// longer than `patience` after the first.
    pub async fn pause(&mut self, quiet: Duration, patience: Duration) {
        if self.ended.changed().await.is_err() {
            // The pool is gone: nothing will ever end again.
            return std::future::pending().await;
        }
        let begun = Instant::now();
        loop {
            // Asks now and then instead of being woken by every job.
            tokio::time::sleep(quiet).await;
            let is_quiet = !self.ended.has_changed().unwrap_or(false);
            self.forget();
            if is_quiet || begun.elapsed() >= patience {
                return;
            }
        }
    }

    /// Passes over the jobs that have ended by now, such as one's own.
    pub fn forget(&mut self) {
        self.ended.mark_unchanged();
    }
}

impl Default for BlockingPool {
    fn default() -> Self {
        Self::new(SHORT_JOBS_DEFAULT, LONG_JOBS_DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_job_gives_its_result() {
        assert_eq!(run("test", || 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_returned_and_frees_its_place() {
        let pool = BlockingPool::new(1, 1);
        let error = pool.run("test", || panic!("boom")).await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "blocking job test panicked: boom"
        );
        assert_eq!(pool.panics(), 1);
        assert_eq!(pool.run("test", || 1).await.unwrap(), 1);
    }

    const QUIET: Duration = Duration::from_secs(3);
    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_pause_comes_once_after_work_and_never_without() {
        let pool = BlockingPool::default();
        let mut activity = pool.activity();
        let hour = Duration::from_secs(3600);
        let mut paused = async || tokio::time::timeout(hour, activity.pause(QUIET, PATIENCE)).await;
        assert!(paused().await.is_err(), "nothing has been done yet");
        pool.run("test", || ()).await.unwrap();
        assert!(paused().await.is_ok());
        assert!(paused().await.is_err(), "nothing has been done since");
    }

    #[tokio::test(start_paused = true)]
    async fn work_without_end_is_paused_in_when_patience_ends() {
        let pool = BlockingPool::default();
        let mut activity = pool.activity();
        let begun = Instant::now();
        let work = async {
            loop {
                pool.run("test", || ()).await.unwrap();
                tokio::time::sleep(QUIET / 2).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = activity.pause(QUIET, PATIENCE) => {}
        }
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() <= PATIENCE + QUIET);
    }

    #[tokio::test]
    async fn a_job_of_ones_own_is_forgotten() {
        let pool = BlockingPool::default();
        let mut activity = pool.activity();
        pool.run("own", || ()).await.unwrap();
        activity.forget();
        assert!(!activity.ended.has_changed().unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_lane_makes_the_next_job_wait_and_leaves_the_other_lane_free() {
        let pool = BlockingPool::new(1, 1);
        let (release, released) = mpsc::channel::<()>();
        let long = pool.run_long("holds", move || released.recv().is_ok());
        tokio::pin!(long);
        assert!(futures_util::poll!(&mut long).is_pending());
        let second = pool.run_long("waits", || 2);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(pool.run("passes", || 1).await.unwrap(), 1);
        release.send(()).unwrap();
        assert!(long.await.unwrap());
        assert_eq!(second.await.unwrap(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_job_abandoned_while_waiting_never_runs_and_one_that_began_keeps_its_place() {
        let pool = BlockingPool::new(1, 1);
        let (release, released) = mpsc::channel::<()>();
        {
            let began = pool.run("began", move || released.recv().is_ok());
            tokio::pin!(began);
            assert!(futures_util::poll!(&mut began).is_pending());
        }
        {
            let abandoned = pool.run("abandoned", || panic!("ran"));
            tokio::pin!(abandoned);
            assert!(
                futures_util::poll!(&mut abandoned)
                    .map(|_: Result<(), _>| ())
                    .is_pending()
            );
        }
        assert_eq!(pool.short.available_permits(), 0);
        release.send(()).unwrap();
        pool.run("next", || ()).await.unwrap();
        assert_eq!(pool.panics(), 0);
    }
}

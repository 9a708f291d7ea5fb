//! Between those who ask for a pass and the daemon's driver, which runs them.
//!
//! Cancellation: a caller that goes away is not answered; the pass it asked for runs all the same. Ordering: a pass
//! that answers a request began after it was made. Crash: nothing is kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use orlop_base::blocking::BlockingError;
use orlop_meta::gc::{Collector, Report};
use orlop_types::SnapshotterName;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::status;

/// So many requests wait in line for the driver; further callers wait for a place.
const REQUESTS_MAX: usize = 16;

/// Collection as the services see it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Collection {
    collector: Arc<Collector>,
    snapshot_roots: Arc<BTreeMap<SnapshotterName, PathBuf>>,
    requests: mpsc::Sender<PassRequest>,
    latest: watch::Receiver<Latest>,
}

/// The other side of [`Collection`], for the one driver.
#[derive(Debug)]
pub struct Passes {
    /// What callers ask for. Each is to be answered by a pass that begins after it was received.
    pub requests: mpsc::Receiver<PassRequest>,
    /// What is told about the driver.
    pub latest: watch::Sender<Latest>,
}

/// What the driver did last, and will do.
#[derive(Debug, Clone, Default)]
pub struct Latest {
    /// The last whole pass: when it began and what it did.
    pub pass: Option<(SystemTime, Arc<Report>)>,
    /// When the next pass or sweep is due; nothing if it takes a change.
    pub next_at: Option<SystemTime>,
}

/// Somebody waits for a pass.
#[derive(Debug)]
pub struct PassRequest {
    answer: oneshot::Sender<PassOutcome>,
}

/// How a pass ended, for everybody who waited for it.
pub type PassOutcome = Result<Arc<Report>, PassError>;

/// Why there was no pass.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PassError {
    /// The database says why, and what to do.
    #[error(transparent)]
    Meta(#[from] orlop_meta::Error),
    /// A defect, or the daemon ends.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

impl PassError {
    /// The stable id of this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Meta(error) => error.code(),
            Self::Blocking(_) => crate::status::DEFECT,
        }
    }
}

impl PassRequest {
    /// Tells the caller, if it still waits.
    pub fn answer(self, outcome: PassOutcome) {
        // A caller that went away needs no answer.
        drop(self.answer.send(outcome));
    }
}

impl Collection {
    /// Both sides. `snapshot_roots` are the folders of the snapshotters, whose mounts fsck looks for.
    #[must_use]
    pub fn new(
        collector: Arc<Collector>,
        snapshot_roots: BTreeMap<SnapshotterName, PathBuf>,
    ) -> (Self, Passes) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let (latest, watched) = watch::channel(Latest::default());
        let collection = Self {
            collector,
            snapshot_roots: Arc::new(snapshot_roots),
            requests,
            latest: watched,
        };
        let passes = Passes {
            requests: receiver,
            latest,
        };
        (collection, passes)
    }

    /// Runs a whole pass and waits for it.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the daemon ends; what the pass says.
    pub(crate) async fn run(&self) -> Result<Arc<Report>, Status> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(PassRequest { answer })
            .await
            .map_err(|_| status::shutting_down())?;
        let outcome = answered.await.map_err(|_| status::shutting_down())?;
        outcome.map_err(|error| match error {
            PassError::Meta(error) => status::of_meta(&error),
            PassError::Blocking(error) => status::of_blocking(&error),
        })
    }

    /// As [`Collection::run`], for deletions that are to wait until the bytes are gone.
    ///
    /// # Errors
    /// As [`Collection::run`]. What was deleted stays so.
    pub(crate) async fn run_if(&self, wanted: bool) -> Result<(), Status> {
        if wanted {
            self.run().await?;
        }
        Ok(())
    }

    pub(crate) fn latest(&self) -> Latest {
        self.latest.borrow().clone()
    }

    pub(crate) const fn collector(&self) -> &Arc<Collector> {
        &self.collector
    }

    pub(crate) fn snapshot_roots(&self) -> &BTreeMap<SnapshotterName, PathBuf> {
        &self.snapshot_roots
    }
}

//! Whether pods could be run now: what `Status` says of the runtimes.
//!
//! Probing a runtime runs it, so an answer is kept: a good one for a while, a bad one only briefly, so that the node is
//! ready again soon after somebody has mended it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orlop_base::blocking;
use tokio::sync::Mutex;
use tonic::Status;

use crate::status;

/// How long a good answer is kept.
const GOOD: Duration = Duration::from_secs(60);
/// How long a bad answer is kept.
const BAD: Duration = Duration::from_secs(5);

/// A runtime that pods can name (`RuntimeClass.handler`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its name; empty for the default.
    pub name: String,
    /// Why it does not work, if it does not.
    pub error: Option<String>,
    /// Whether it makes mounts read-only with everything below them.
    pub recursive_read_only: bool,
    /// Whether its containers can have user namespaces of their own.
    pub user_namespaces: bool,
}

/// Tries every handler. Blocks.
pub type ProbeHandlers = Arc<dyn Fn() -> Vec<Handler> + Send + Sync>;

/// The latest answer.
pub(crate) struct Readiness {
    probe: ProbeHandlers,
    latest: Mutex<Option<(Instant, Vec<Handler>)>>,
}

impl Readiness {
    pub(crate) fn new(probe: ProbeHandlers) -> Self {
        Self {
            probe,
            latest: Mutex::new(None),
        }
    }

    /// Every handler as it was lately. Who asks while it is being tried waits for the answer.
    ///
    /// # Errors
    /// The daemon ends.
    pub(crate) async fn handlers(&self) -> Result<Vec<Handler>, Status> {
        let mut latest = self.latest.lock().await;
        if let Some((tried, handlers)) = latest.as_ref()
            && tried.elapsed() < kept_for(handlers)
        {
            return Ok(handlers.clone());
        }
        let probe = Arc::clone(&self.probe);
        let handlers = blocking::run_long("probe runtimes", move || probe()).await;
        let handlers = handlers.map_err(|error| status::of_blocking(&error))?;
        *latest = Some((Instant::now(), handlers.clone()));
        Ok(handlers)
    }
}

fn kept_for(handlers: &[Handler]) -> Duration {
    if handlers.iter().all(|handler| handler.error.is_none()) {
        GOOD
    } else {
        BAD
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn handler(error: Option<&str>) -> Handler {
        Handler {
            name: String::new(),
            error: error.map(ToOwned::to_owned),
            recursive_read_only: false,
            user_namespaces: false,
        }
    }

    #[tokio::test]
    async fn an_answer_is_kept_so_that_runtimes_are_not_run_for_every_status() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let readiness = Readiness::new(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            vec![handler(None)]
        }));
        for _ in 0..3 {
            assert_eq!(readiness.handlers().await.unwrap(), [handler(None)]);
        }
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_bad_answer_is_asked_for_again_sooner() {
        assert!(kept_for(&[handler(None), handler(Some("gone"))]) < kept_for(&[handler(None)]));
    }
}

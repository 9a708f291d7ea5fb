//! One filler per digest: whoever wants to fill stands for election.
//!
//! The lease alone does not make it one fill: between a look into the shared tier and the lease another replica may have
//! filled and given its lease back. So the winner looks once more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::SharedClock;
use orlop_base::task::{TaskHandle, TaskKind, TaskTree};
use orlop_types::Digest;

use super::{Claim, Duty, FleetErrorKind, Lease, Leases};
use crate::depot::{Depot, DepotErrorKind};

const RENEW: TaskKind = TaskKind::dropped("fleet renew");
const RELEASE: TaskKind = TaskKind::dropped("fleet release");

/// How long what takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a replica that waits for another looks again.
    pub look: Duration,
    /// How long it waits before it fills for itself: a client waits no longer for its headers.
    pub wait_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            look: Duration::from_millis(500),
            wait_max: Duration::from_secs(20),
        }
    }
}

/// A replica that stands for election.
#[derive(Clone)]
pub struct Candidate {
    leases: Arc<dyn Leases>,
    depot: Option<Arc<dyn Depot>>,
    tasks: TaskTree,
    clock: SharedClock,
    timing: Timing,
}

/// How an election ended.
#[derive(Debug)]
pub enum Standing {
    /// We fill. The guard is dropped when the blob is in the shared tier, or when filling failed.
    Ours(Guard),
    /// Another replica has filled: the blob is in the shared tier.
    Stored,
    /// Another replica is filling, and has been for longer than we may wait. It may be asked for the bytes.
    Held {
        /// Its name.
        by: String,
        /// Where it serves, if it said so.
        address: Option<String>,
    },
    /// The fleet cannot be asked: we fill, and others may as well.
    Alone,
}

/// A duty that is ours as long as this is held. Dropping it gives the duty back.
pub struct Guard {
    lease: Lease,
    leases: Arc<dyn Leases>,
    tasks: TaskTree,
    renewing: TaskHandle<()>,
}

impl Candidate {
    /// Stands for election by `leases`; what was filled is looked for in `depot`. Its tasks are owned by `tasks`.
    #[must_use]
    pub fn new(
        leases: Arc<dyn Leases>,
        depot: Option<Arc<dyn Depot>>,
        tasks: TaskTree,
        clock: SharedClock,
        timing: Timing,
    ) -> Self {
        Self {
            leases,
            depot,
            tasks,
            clock,
            timing,
        }
    }

    /// Waits until it is known who fills.
    pub async fn stand(&self, digest: &Digest) -> Standing {
        let duty = Duty::Fill(*digest);
        let give_up = self.clock.boottime() + self.timing.wait_max;
        loop {
            if self.is_stored(digest).await {
                return Standing::Stored;
            }
            match self.leases.claim(&duty).await {
                Ok(Claim::Ours(lease)) => {
                    let guard = self.guard(lease);
                    // Its holder before us may have finished since we looked.
                    if self.is_stored(digest).await {
                        return Standing::Stored;
                    }
                    return Standing::Ours(guard);
                }
                Ok(Claim::Held { by, address }) => {
                    if self.clock.boottime() >= give_up {
                        return Standing::Held { by, address };
                    }
                }
                Err(error) => {
                    tracing::debug!(%digest, error = orlop_types::chain(&error), "no election");
                    return Standing::Alone;
                }
            }
            self.clock.sleep(self.timing.look).await;
        }
    }

    /// Takes a duty if it is free now.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    pub async fn take(&self, duty: &Duty) -> Result<Option<Guard>, super::FleetError> {
        Ok(match self.leases.claim(duty).await? {
            Claim::Ours(lease) => Some(self.guard(lease)),
            Claim::Held { .. } => None,
        })
    }

    /// Whether the shared tier can give the blob now. What it cannot tell, or has archived, must be filled.
    async fn is_stored(&self, digest: &Digest) -> bool {
        let Some(depot) = &self.depot else {
            return false;
        };
        match depot.head(digest).await {
            Ok(held) => held.readable.is_now(),
            Err(error) => {
                if error.kind != DepotErrorKind::Absent {
                    tracing::debug!(%digest, error = orlop_types::chain(&error), "the shared tier cannot tell");
                }
                false
            }
        }
    }

    fn guard(&self, lease: Lease) -> Guard {
        let every = self.leases.silence_max() / 3;
        let (leases, clock, held) = (Arc::clone(&self.leases), self.clock.clone(), lease.clone());
        let renewing = self.tasks.spawn(RENEW, |_| async move {
            loop {
                clock.sleep(every).await;
                match leases.renew(&held).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::warn!(duty = %held.duty, "another replica has taken over");
                        return;
                    }
                    // The next beat may be heard again.
                    Err(error) if error.kind == FleetErrorKind::Away => {}
                    Err(error) => {
                        tracing::warn!(duty = %held.duty, error = orlop_types::chain(&error), "a lease cannot be renewed");
                        return;
                    }
                }
            }
        });
        Guard {
            lease,
            leases: Arc::clone(&self.leases),
            tasks: self.tasks.clone(),
            renewing,
        }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Candidate")
            .field("leases", &self.leases)
            .field("depot", &self.depot)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// What is ours.
    #[must_use]
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Guard")
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.renewing.cancel();
        let (leases, lease) = (Arc::clone(&self.leases), self.lease.clone());
        // Where nobody runs tasks any more the lease ends by time.
        self.tasks.spawn(RELEASE, |_| async move {
            if let Err(error) = leases.release(&lease).await {
                tracing::debug!(duty = %lease.duty, error = orlop_types::chain(&error), "a lease ends by time");
            }
        });
    }
}

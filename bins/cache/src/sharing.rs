//! What a server shares with others: the bucket behind its disk, the election of who fills, and moves between tiers.
//!
//! Without a bucket it shares nothing. Without a section `[fleet]` it has the bucket for itself and elects nobody.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::{SharedClock, SystemClock};
use orlop_base::task::{CancellationToken, TaskKind, TaskTree};
use orlop_cache::fill::{Alone, DepotTier, Election, FleetElection, NoTier, Tier};
use orlop_cache::fleet::{Candidate, Duty, Timing};
use orlop_cache::store::Store;
use orlop_cache::tier::Rules;
use orlop_cache::tier::apply::Mover;
use orlop_types::chain;

use crate::error::CacheError;
use crate::shared::{Shared, SharedSettings};
use crate::tier;

/// How often a replica tells the others how often each blob was pulled from it.
const TELL_EVERY: Duration = Duration::from_secs(3600);

const TIERING: TaskKind = TaskKind::cooperative("cache-tiering");

/// What filling needs of others.
pub(crate) struct Sharing {
    pub(crate) election: Arc<dyn Election>,
    pub(crate) tier: Arc<dyn Tier>,
}

/// Moves blobs while the cache serves.
struct Schedule {
    settings: SharedSettings,
    shared: Shared,
    rules: Rules,
    mover: Arc<Mover>,
    candidate: Candidate,
    root: PathBuf,
}

impl Sharing {
    /// Makes ready what the settings name. Bucket and database need not be there yet.
    pub(crate) async fn open(
        settings: &SharedSettings,
        store: &Store,
        tasks: &TaskTree,
    ) -> Result<Self, CacheError> {
        let Some(depot) = &settings.depot else {
            return Ok(Self {
                election: Arc::new(Alone),
                tier: Arc::new(NoTier),
            });
        };
        let shared = settings.open(None, tasks).await?;
        let mover = Arc::new(tier::mover(settings, &shared, store.root())?);
        let candidate = Candidate::new(
            Arc::clone(&shared.leases),
            Some(Arc::clone(&shared.depot) as _),
            tasks.clone(),
            SystemClock::shared(),
            Timing::default(),
        );
        let election: Arc<dyn Election> = if settings.fleet.is_some() {
            Arc::new(FleetElection(candidate.clone()))
        } else {
            Arc::new(Alone)
        };
        let tier = DepotTier {
            depot: Arc::clone(&shared.depot) as _,
            store: store.clone(),
            mover: Some(Arc::clone(&mover)),
            class: depot.class.clone(),
        };
        let schedule = Schedule {
            settings: settings.clone(),
            rules: settings.tiering.rules()?,
            shared,
            mover,
            candidate,
            root: store.root().to_owned(),
        };
        let clock = SystemClock::shared();
        tasks.spawn(TIERING, |cancelled| schedule.keep(clock, cancelled));
        Ok(Self {
            election,
            tier: Arc::new(tier),
        })
    }
}

impl Schedule {
    /// Goes on with moves as often as restores are looked at, and plans as often as was set.
    async fn keep(self, clock: SharedClock, cancelled: CancellationToken) {
        let poll = self.settings.tiering.poll.duration();
        let every = self.settings.tiering.every.duration();
        let mut next_plan = clock.boottime() + every;
        let mut next_telling = clock.boottime();
        loop {
            tokio::select! {
                () = clock.sleep(poll) => {}
                () = cancelled.cancelled() => return,
            }
            let is_time = !every.is_zero() && clock.boottime() >= next_plan;
            if is_time {
                next_plan = clock.boottime() + every;
            }
            let tells = clock.boottime() >= next_telling;
            if tells {
                next_telling = clock.boottime() + TELL_EVERY;
            }
            tokio::select! {
                () = self.turn(is_time, tells) => {}
                // What was begun is on record.
                () = cancelled.cancelled() => return,
            }
        }
    }

    async fn turn(&self, is_time: bool, tells: bool) {
        if let (true, Some(fleet)) = (tells, &self.shared.fleet)
            && let Err(error) = tier::tell(fleet.as_ref(), &self.root).await
        {
            tracing::warn!(
                error = chain(&error),
                code = error.code(),
                "pulls are told later"
            );
        }
        if let Err(error) = self.try_turn(is_time).await {
            tracing::warn!(
                error = chain(&error),
                code = error.code(),
                "blobs are not moved for now"
            );
        }
    }

    async fn try_turn(&self, is_time: bool) -> Result<(), CacheError> {
        let nothing = self
            .mover
            .pending()
            .await
            .map_err(CacheError::Tier)?
            .is_empty();
        if nothing && !is_time {
            return Ok(());
        }
        let taken = self.candidate.take(&Duty::Tiering).await;
        let Some(_guard) = taken.map_err(CacheError::Fleet)? else {
            return Ok(());
        };
        if is_time {
            let begun = self.plan().await?;
            tracing::info!(moves = begun, "moves are planned");
        }
        let run = self.mover.run().await.map_err(CacheError::Tier)?;
        if !run.ended.is_empty() {
            let (ended, waiting) = (run.ended.len(), run.waiting);
            tracing::info!(ended, waiting, "blobs were moved");
        }
        Ok(())
    }

    async fn plan(&self) -> Result<usize, CacheError> {
        let upstream = self.settings.tiering.upstream_per_gb;
        let plan = tier::planned(&self.shared, &self.root, &self.rules, upstream).await?;
        self.mover.begin(&plan).await.map_err(CacheError::Tier)
    }
}

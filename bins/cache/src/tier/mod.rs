//! `orlop cache tier`: where the blobs of the bucket should be, every move with its reason and its dollars, and moving
//! them.

mod report;
mod settings;
#[cfg(test)]
mod tests;
mod view;

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use orlop_base::clock::SystemClock;
use orlop_base::task::TaskTree;
use orlop_cache::depot::Source;
use orlop_cache::fleet::{Candidate, Duty, Timing};
use orlop_cache::tier::apply::{Journal, Mover, Receive, Removal, Run, Shelf};
use orlop_cache::tier::{Plan, Rules, plan};
use orlop_types::Digest;

use crate::Format;
use crate::error::CacheError;
use crate::shared::{Shared, SharedArguments, SharedSettings};

use report::Report;
pub(crate) use settings::TieringSettings;
pub(crate) use view::tell;

/// The journal of moves, below the cache's folder: a file of its own, which is there also where no cache ever ran.
const JOURNAL: &str = "tier.db";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shared: SharedArguments,
    /// Only show what would be moved; the default
    #[arg(long, conflicts_with = "apply")]
    plan: bool,
    /// Move, within the bounds of [tiering], and go on with what was begun
    #[arg(long)]
    apply: bool,
    /// With --apply: wait for archives until no move is left
    #[arg(long, requires = "apply")]
    wait: bool,
    /// Moves to show; 0 for all
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

/// The answer, to be written to stdout.
pub(crate) fn run(
    arguments: &Arguments,
    format: Format,
    width: Option<usize>,
) -> Result<String, CacheError> {
    let settings = SharedSettings::read(&arguments.shared.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(CacheError::NoLife)?;
    let report = runtime.block_on(answer(arguments, &settings))?;
    Ok(match format {
        Format::Json => report.json(),
        Format::Text => report.text(width),
    })
}

async fn answer(arguments: &Arguments, settings: &SharedSettings) -> Result<Report, CacheError> {
    let tasks = TaskTree::root("orlop-cache tier", SystemClock::shared());
    let shared = settings.open(Some("by-hand"), &tasks).await?;
    answer_with(arguments, settings, &shared, &tasks).await
}

async fn answer_with(
    arguments: &Arguments,
    settings: &SharedSettings,
    shared: &Shared,
    tasks: &TaskTree,
) -> Result<Report, CacheError> {
    let root = &arguments.shared.root;
    let rules = settings.tiering.rules()?;
    let upstream = settings.tiering.upstream_per_gb;
    let seen = view::look(shared, root, upstream).await?;
    let plan = plan(&rules, &seen.blobs, &seen.images);
    let mover = mover(settings, shared, root)?;
    let run = if arguments.apply {
        Some(apply(arguments, shared, tasks, &mover, &plan).await?)
    } else {
        None
    };
    let pending = mover.pending().await.map_err(CacheError::Tier)?;
    let bounded = plan.within(settings.tiering.bounds()).len();
    let all = if arguments.top == 0 {
        usize::MAX
    } else {
        arguments.top
    };
    Ok(Report::new(
        &seen, &plan, bounded, run, &pending, &rules, all,
    ))
}

/// Moves, if no other replica does.
async fn apply(
    arguments: &Arguments,
    shared: &Shared,
    tasks: &TaskTree,
    mover: &Mover,
    plan: &Plan<Digest>,
) -> Result<Run, CacheError> {
    let leases = Arc::clone(&shared.leases);
    let clock = SystemClock::shared();
    let candidate = Candidate::new(leases, None, tasks.clone(), clock, Timing::default());
    let taken = candidate.take(&Duty::Tiering).await;
    let Some(guard) = taken.map_err(CacheError::Fleet)? else {
        return Err(CacheError::Tiering);
    };
    let moved = async {
        mover.begin(plan).await?;
        if arguments.wait {
            mover.finish().await
        } else {
            mover.run().await
        }
    };
    let run = moved.await.map_err(CacheError::Tier);
    let lease = guard.lease().clone();
    // Given back here, because nobody runs tasks a moment later.
    if let Err(error) = shared.leases.release(&lease).await {
        tracing::debug!(error = orlop_types::chain(&error), "a lease ends by time");
    }
    run
}

/// What should be moved, by what there is now.
pub(crate) async fn planned(
    shared: &Shared,
    root: &Path,
    rules: &Rules,
    upstream_per_gb: Option<f64>,
) -> Result<Plan<Digest>, CacheError> {
    let seen = view::look(shared, root, upstream_per_gb).await?;
    Ok(plan(rules, &seen.blobs, &seen.images))
}

/// Who moves blobs of the bucket; its journal is in the cache's folder.
pub(crate) fn mover(
    settings: &SharedSettings,
    shared: &Shared,
    root: &Path,
) -> Result<Mover, CacheError> {
    let path = root.join(JOURNAL);
    let journal = Journal::open(&path).map_err(|source| CacheError::Journal { path, source })?;
    let class = settings.depot.as_ref().map(|depot| depot.class.clone());
    let rules = settings.tiering.rules()?;
    let class = class.unwrap_or_else(|| rules.prices.restored_as.clone());
    Ok(Mover::new(
        Arc::clone(&shared.depot) as _,
        Arc::new(NoDisk),
        Arc::new(journal),
        SystemClock::shared(),
        settings.tiering.settings(&rules, class),
        shared.life.clone(),
    ))
}

/// Blobs are moved within the bucket, and out of it: the disk is filled by pulls and emptied by its own rules.
#[derive(Debug)]
struct NoDisk;

impl NoDisk {
    fn refuse<T>() -> std::io::Result<T> {
        let error = "the disk is filled by pulls, and emptied by its own rules";
        Err(std::io::Error::other(error))
    }
}

impl Shelf for NoDisk {
    fn open(&self, _digest: &Digest) -> std::io::Result<Option<Source>> {
        Self::refuse()
    }

    fn remove(&self, _digest: &Digest) -> std::io::Result<Removal> {
        Self::refuse()
    }

    fn receive(&self, _digest: &Digest, _bytes: u64) -> std::io::Result<Box<dyn Receive>> {
        Self::refuse()
    }
}

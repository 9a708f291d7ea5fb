//! One move, step by step: what the machine wants is done here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use orlop_base::blocking;
use orlop_types::{Digest, chain};

use super::journal::Pending;
use super::machine::{self, Effect, Route, Step};
use super::{Mover, Outcome, Removal, Shelf, TierError, WANTED};
use crate::depot::{Body, DepotError, DepotErrorKind, Readable, Restore, Source};
use crate::tier::{ClassName, Place, gigabytes};

/// The wait after a first failure; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(30);

/// The longest wait after a failure.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What one effect led to.
enum Next {
    /// On with this step.
    Step(Step),
    /// Later, and nothing is wrong.
    Wait,
    /// The move has ended.
    Over(Outcome),
}

/// Why an effect failed.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Depot(#[from] DepotError),
    #[error("cannot {operation} {digest} on the disk")]
    Disk {
        operation: &'static str,
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("{digest} has {found} bytes in the object store, not {expected}")]
    WrongSize {
        digest: Digest,
        found: u64,
        expected: u64,
    },
    /// What was recorded is true no more: the move starts again.
    #[error("{digest} {why}")]
    Changed { digest: Digest, why: &'static str },
    #[error(transparent)]
    Own(#[from] TierError),
}

impl Mover {
    /// Goes on with a move until it ends, waits or fails. `None`: it is still on record.
    pub(super) async fn advance(&self, mut pending: Pending) -> Result<Option<Outcome>, TierError> {
        let route = Route::of(&pending.from, &pending.to);
        let is_archived = self.is_archive(&pending.from);
        loop {
            let Some(effect) = machine::effect(route, is_archived, pending.step) else {
                return self.close(&pending, Outcome::Gone).await.map(Some);
            };
            match self.perform(&mut pending, effect).await {
                Ok(Next::Step(step)) => {
                    pending.step = step;
                    pending.life.clone_from(&self.life);
                    let (digest, life) = (pending.digest, self.life.clone());
                    self.book("write to", move |journal| {
                        journal.step(&digest, step, &life)
                    })
                    .await?;
                }
                Ok(Next::Wait) => {
                    self.postpone(&pending, self.settings.poll, None).await?;
                    return Ok(None);
                }
                Ok(Next::Over(outcome)) => {
                    return self.close(&pending, outcome).await.map(Some);
                }
                Err(Fault::Own(error)) => return Err(error),
                Err(fault) => return self.failed(&pending, &fault).await,
            }
        }
    }

    async fn perform(&self, pending: &mut Pending, effect: Effect) -> Result<Next, Fault> {
        match effect {
            Effect::Ask => self.ask(pending).await,
            Effect::Await => self.see(pending).await,
            Effect::Put => self.put(pending).await,
            Effect::Copy => self.copy(pending).await,
            Effect::Fetch => self.fetch(pending).await,
            Effect::Leave => self.leave(pending).await,
        }
    }

    async fn ask(&self, pending: &Pending) -> Result<Next, Fault> {
        let how = Restore {
            days: self.settings.restored_days,
            tier: self.restore_tier(pending),
        };
        let asked = self.depot.restore(&pending.digest, &how).await;
        Ok(match gone(asked)? {
            Some(()) => Next::Step(Step::Asked),
            None => Next::Over(Outcome::Gone),
        })
    }

    async fn see(&self, pending: &Pending) -> Result<Next, Fault> {
        let Some(held) = gone(self.depot.head(&pending.digest).await)? else {
            return Ok(Next::Over(Outcome::Gone));
        };
        Ok(match held.readable {
            Readable::Now | Readable::Until(_) => Next::Step(Step::Readable),
            Readable::Restoring => Next::Wait,
            Readable::Archived => return Err(expired(pending)),
        })
    }

    async fn put(&self, pending: &mut Pending) -> Result<Next, Fault> {
        let Some(source) = self.on_disk(&pending.digest).await? else {
            return Ok(Next::Over(Outcome::Gone));
        };
        self.clean_up(pending).await?;
        let Place::Stored(class) = &pending.to else {
            return Ok(Next::Over(Outcome::Gone));
        };
        match self.depot.put(&pending.digest, source, class).await {
            Ok(()) => {
                self.pace(pending.bytes).await;
                Ok(Next::Step(Step::Placed))
            }
            // By an earlier life, or by another replica and perhaps into another class.
            Err(error) if error.kind == DepotErrorKind::Exists => Ok(Next::Step(Step::Readable)),
            Err(error) => Err(error.into()),
        }
    }

    async fn copy(&self, pending: &mut Pending) -> Result<Next, Fault> {
        let Place::Stored(class) = pending.to.clone() else {
            return Ok(Next::Over(Outcome::Gone));
        };
        let Some(held) = gone(self.depot.head(&pending.digest).await)? else {
            return Ok(Next::Over(Outcome::Gone));
        };
        if held.class == class {
            return Ok(Next::Step(Step::Placed));
        }
        self.clean_up(pending).await?;
        match self.depot.copy(&pending.digest, &class).await {
            Ok(()) => {
                self.pace(pending.bytes).await;
                Ok(Next::Step(Step::Placed))
            }
            Err(error) => not_readable(pending, error),
        }
    }

    async fn fetch(&self, pending: &Pending) -> Result<Next, Fault> {
        if self.on_disk(&pending.digest).await?.is_some() {
            return Ok(Next::Step(Step::Placed));
        }
        match self.depot.get(&pending.digest, None).await {
            Ok(body) => {
                self.keep(pending, body).await?;
                self.pace(pending.bytes).await;
                Ok(Next::Step(Step::Placed))
            }
            Err(error) => not_readable(pending, error),
        }
    }

    /// Sees that the blob is where it should be, and only then takes it away where it was.
    async fn leave(&self, pending: &Pending) -> Result<Next, Fault> {
        let is_there = match &pending.to {
            Place::Stored(class) => self.is_stored(pending, class).await?,
            Place::Local => self.on_disk(&pending.digest).await?.is_some(),
            Place::Dropped => true,
        };
        if !is_there {
            return Err(Fault::Changed {
                digest: pending.digest,
                why: "is not where it was brought: somebody took it away, or the store does not know the class",
            });
        }
        match (&pending.from, &pending.to) {
            (Place::Stored(_), Place::Local | Place::Dropped) => {
                self.depot.delete(&pending.digest).await?;
            }
            (Place::Local, Place::Stored(_) | Place::Dropped) => {
                if self.remove(&pending.digest).await? == Removal::Kept {
                    return Ok(Next::Over(Outcome::Copied));
                }
            }
            (Place::Stored(_), Place::Stored(_))
            | (Place::Local, Place::Local)
            | (Place::Dropped, _) => {}
        }
        Ok(Next::Over(Outcome::Moved))
    }

    async fn is_stored(&self, pending: &Pending, class: &ClassName) -> Result<bool, Fault> {
        let Some(held) = gone(self.depot.head(&pending.digest).await)? else {
            return Ok(false);
        };
        if held.bytes != pending.bytes {
            return Err(Fault::WrongSize {
                digest: pending.digest,
                found: held.bytes,
                expected: pending.bytes,
            });
        }
        Ok(held.class == *class)
    }

    /// Gives up what an earlier life of this process left half transferred.
    async fn clean_up(&self, pending: &mut Pending) -> Result<(), Fault> {
        if pending.life != self.life {
            let left = self
                .depot
                .abandon(&pending.digest, self.clock.wall())
                .await?;
            if left > 0 {
                tracing::info!(digest = %pending.digest, uploads = left, "transfers that were cut short are given up");
            }
            pending.life.clone_from(&self.life);
        }
        Ok(())
    }

    async fn keep(&self, pending: &Pending, mut body: Body) -> Result<(), Fault> {
        let (digest, bytes) = (pending.digest, pending.bytes);
        let disk = |operation| {
            move |source| Fault::Disk {
                operation,
                digest,
                source,
            }
        };
        let shelf = Arc::clone(&self.shelf);
        let receiver = job(move || shelf.receive(&digest, bytes)).await?;
        let mut receiver = receiver.map_err(disk("make room for"))?;
        while let Some(chunk) = body.chunks.next().await {
            let chunk = chunk?;
            let (back, written) = job(move || {
                let written = receiver.write(&chunk);
                (receiver, written)
            })
            .await?;
            receiver = back;
            written.map_err(disk("write"))?;
        }
        job(move || receiver.commit()).await?.map_err(disk("keep"))
    }

    async fn on_disk(&self, digest: &Digest) -> Result<Option<Source>, Fault> {
        self.ask_shelf("open", digest, |shelf, digest| shelf.open(digest))
            .await
    }

    async fn remove(&self, digest: &Digest) -> Result<Removal, Fault> {
        self.ask_shelf("remove", digest, |shelf, digest| shelf.remove(digest))
            .await
    }

    async fn ask_shelf<T: Send + 'static>(
        &self,
        operation: &'static str,
        digest: &Digest,
        ask: impl FnOnce(&dyn Shelf, &Digest) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let (shelf, digest) = (Arc::clone(&self.shelf), *digest);
        let answer = job(move || ask(&*shelf, &digest)).await?;
        answer.map_err(|source| Fault::Disk {
            operation,
            digest,
            source,
        })
    }

    async fn failed(&self, pending: &Pending, fault: &Fault) -> Result<Option<Outcome>, TierError> {
        let said = chain(fault);
        let is_passing = match fault {
            Fault::Depot(error) => error.is_passing(),
            Fault::Disk { .. } | Fault::Changed { .. } => true,
            Fault::WrongSize { .. } | Fault::Own(_) => false,
        };
        if !is_passing || pending.attempts + 1 >= self.settings.attempts_max {
            tracing::warn!(digest = %pending.digest, error = said, "a move is given up");
            let outcome = Outcome::GivenUp(said);
            return self.close(pending, outcome).await.map(Some);
        }
        let wait = FIRST_WAIT.saturating_mul(1 << pending.attempts.min(10));
        let asked = match fault {
            Fault::Depot(DepotError {
                kind: DepotErrorKind::Throttled(after),
                ..
            }) => after.unwrap_or_default(),
            Fault::Depot(_)
            | Fault::Disk { .. }
            | Fault::WrongSize { .. }
            | Fault::Changed { .. }
            | Fault::Own(_) => Duration::ZERO,
        };
        if matches!(fault, Fault::Changed { .. }) {
            let (digest, life) = (pending.digest, self.life.clone());
            self.book("write to", move |journal| {
                journal.step(&digest, Step::Begun, &life)
            })
            .await?;
        }
        self.postpone(pending, wait.min(WAIT_MAX).max(asked), Some(said))
            .await?;
        Ok(None)
    }

    async fn postpone(
        &self,
        pending: &Pending,
        after: Duration,
        error: Option<String>,
    ) -> Result<(), TierError> {
        let (digest, next) = (pending.digest, self.later(after));
        self.book("write to", move |journal| {
            journal.postpone(&digest, next, error.as_deref())
        })
        .await
    }

    async fn close(&self, pending: &Pending, outcome: Outcome) -> Result<Outcome, TierError> {
        let (digest, word, now) = (pending.digest, outcome.word(), self.clock.wall());
        self.book("write to", move |journal| journal.close(&digest, word, now))
            .await?;
        Ok(outcome)
    }

    /// Waits as long as so many bytes may take.
    async fn pace(&self, bytes: u64) {
        if let Some(rate) = self.settings.bytes_per_second_max.filter(|rate| *rate > 0) {
            let millis = u128::from(bytes) * 1000 / u128::from(rate);
            let wait = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
            self.clock.sleep(wait).await;
        }
    }

    fn restore_tier(&self, pending: &Pending) -> String {
        let asked = if pending.image == WANTED {
            &self.settings.restore_wanted
        } else {
            &self.settings.restore_planned
        };
        let prices = match &pending.from {
            Place::Stored(class) => self.settings.prices.class.get(class),
            Place::Local | Place::Dropped => None,
        };
        let Some(prices) = prices.filter(|prices| !prices.restore.contains_key(asked)) else {
            return asked.clone();
        };
        let size = gigabytes(pending.bytes);
        let cheapest = prices
            .restore
            .iter()
            .min_by(|one, other| one.1.dollars(size).total_cmp(&other.1.dollars(size)));
        cheapest.map_or_else(|| asked.clone(), |(name, _)| name.clone())
    }

    fn is_archive(&self, place: &Place) -> bool {
        match place {
            Place::Stored(class) => self
                .settings
                .prices
                .class
                .get(class)
                .is_some_and(crate::tier::ClassPrices::is_archive),
            Place::Local | Place::Dropped => false,
        }
    }
}

fn expired(pending: &Pending) -> Fault {
    Fault::Changed {
        digest: pending.digest,
        why: "was restored, and cannot be read any more",
    }
}

/// Absence is no failure of a move: somebody else was faster.
fn gone<T>(answer: Result<T, DepotError>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == DepotErrorKind::Absent => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What an object that should be readable is not: it is asked for again, or it is gone.
fn not_readable(pending: &Pending, error: DepotError) -> Result<Next, Fault> {
    match error.kind {
        DepotErrorKind::Absent => Ok(Next::Over(Outcome::Gone)),
        // The restored copy has expired between two steps.
        DepotErrorKind::Archived if pending.step == Step::Readable => Err(expired(pending)),
        DepotErrorKind::Restoring => Ok(Next::Wait),
        DepotErrorKind::Archived
        | DepotErrorKind::Exists
        | DepotErrorKind::Throttled(_)
        | DepotErrorKind::Refused
        | DepotErrorKind::Corrupt
        | DepotErrorKind::Away
        | DepotErrorKind::Local => Err(error.into()),
    }
}

async fn job<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    let done = blocking::run("move of a blob", work).await;
    done.map_err(|error| Fault::Own(error.into()))
}

//! Carrying a plan out: blobs go between the node's disk and the classes of an object store.
//!
//! - A blob is taken away from where it was only after the object store was seen to have it where it should be.
//! - A move is on record before anything is done for it. Whoever finds it there does its last step again, and every step
//!   done twice is done once: a put finds the object there, a copy finds it in its class, a removal finds nothing.
//! - What a day may cost is bounded, over restarts too; so are a run's moves and bytes, and bytes a second.
//!
//! Crash: after `kill -9` at any moment [`Mover::run`] goes on; a transfer in parts that was cut short is given up first,
//! because its parts are paid for. Cancellation: dropping a run is the same. Ordering: moves go one after the other;
//! those that wait for an archive hold up nobody. Of several replicas one moves: `fleet` elects it.

mod execute;
mod journal;
mod machine;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use orlop_base::blocking::{self, BlockingError};
use orlop_base::clock::SharedClock;
use orlop_types::Digest;

use super::{Bounds, Place, Plan, Prices, of_move};
use crate::depot::{Depot, DepotError, Source};

pub use journal::{Entry, Journal, JournalError, Pending};

const DAY: Duration = Duration::from_secs(86_400);

/// The node's disk, as moving needs it. All of it may block.
pub trait Shelf: fmt::Debug + Send + Sync {
    /// The verified file of a blob; `None` if there is none.
    ///
    /// # Errors
    /// The disk failed.
    fn open(&self, digest: &Digest) -> io::Result<Option<Source>>;

    /// Removes a blob that is elsewhere now. That there is none is no error.
    ///
    /// # Errors
    /// The disk failed.
    fn remove(&self, digest: &Digest) -> io::Result<Removal>;

    /// Makes room for a blob and takes its bytes.
    ///
    /// # Errors
    /// There is no room, or the disk failed.
    fn receive(&self, digest: &Digest, bytes: u64) -> io::Result<Box<dyn Receive>>;
}

/// What became of a wish to remove a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Gone,
    /// It is pinned or in use, and stays.
    Kept,
}

/// A blob coming in, its bytes in their order.
pub trait Receive: Send {
    /// Takes some.
    ///
    /// # Errors
    /// The disk failed or is full.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Keeps the blob if its digest is right.
    ///
    /// # Errors
    /// It is not, or the disk failed.
    fn commit(self: Box<Self>) -> io::Result<()>;
}

/// How plans are carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What everything costs.
    pub prices: Prices,
    /// How much of a plan is begun in a run.
    pub bounds: Bounds,
    /// What moves may cost in any 24 hours, in dollars.
    pub dollars_per_day_max: f64,
    /// Bytes a second that moves may take, on average.
    pub bytes_per_second_max: Option<u64>,
    /// For how many days a restored copy stands.
    pub restored_days: u32,
    /// The name of the price for restores that a plan asks for; the cheapest if there is none of that name.
    pub restore_planned: String,
    /// The same for restores that a pull asks for.
    pub restore_wanted: String,
    /// The class that a blob is promoted to when a pull finds it archived.
    pub promoted_to: super::ClassName,
    /// How often to ask whether a restore is done.
    pub poll: Duration,
    /// How often a move may fail before it is given up.
    pub attempts_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prices: Prices::default(),
            bounds: Bounds {
                moves_max: 1000,
                bytes_max: 1 << 40,
                dollars_max: 1.0,
            },
            dollars_per_day_max: 5.0,
            bytes_per_second_max: None,
            restored_days: 2,
            restore_planned: "bulk".to_owned(),
            restore_wanted: "standard".to_owned(),
            promoted_to: super::ClassName::new("STANDARD"),
            poll: Duration::from_secs(300),
            attempts_max: 8,
        }
    }
}

/// Carries plans out.
#[derive(Debug)]
pub struct Mover {
    depot: Arc<dyn Depot>,
    shelf: Arc<dyn Shelf>,
    journal: Arc<Journal>,
    clock: SharedClock,
    settings: Settings,
    /// Tells this process's moves from those of one that died.
    life: String,
    /// Moves go one after the other.
    running: tokio::sync::Mutex<()>,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// Moves that ended, and how.
    pub ended: Vec<Ended>,
    /// Moves that go on later: they wait for an archive, or failed and will be tried again.
    pub waiting: usize,
}

/// A move that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// The move.
    pub pending: Pending,
    /// How.
    pub outcome: Outcome,
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The blob is where it should be, and nowhere else.
    Moved,
    /// The blob is where it should be, and stays where it was as well: it is pinned or in use there.
    Copied,
    /// The blob is gone from where it was, by somebody else: nothing is to be moved.
    Gone,
    /// It failed too often, or in a way that no retry mends.
    GivenUp(String),
}

impl Outcome {
    const fn word(&self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Copied => "copied",
            Self::Gone => "gone",
            Self::GivenUp(_) => "given up",
        }
    }
}

/// What becomes of an archived blob that a pull wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is being made readable, and will be promoted. A client may come again after so long.
    Coming(Duration),
    /// What a day may cost is spent: it stays in the archive for now.
    TooDear,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The journal failed.
    #[error("cannot {operation} the journal of moves")]
    Journal {
        /// What was attempted.
        operation: &'static str,
        /// What the database said.
        #[source]
        source: rusqlite::Error,
    },
    /// A job gave no result.
    #[error("cannot move blobs")]
    Job(#[from] BlockingError),
    /// The object store cannot be asked.
    #[error("cannot see what the object store has")]
    Depot(#[from] DepotError),
}

impl TierError {
    /// The id of the page that explains it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Journal { .. } => "ORL-E9311",
            Self::Job(_) => "ORL-E9312",
            Self::Depot(error) => error.code(),
        }
    }
}

impl Mover {
    /// Moves blobs between `depot` and `shelf`, and keeps book in `journal`. `life` names this process, as nobody else.
    #[must_use]
    pub fn new(
        depot: Arc<dyn Depot>,
        shelf: Arc<dyn Shelf>,
        journal: Arc<Journal>,
        clock: SharedClock,
        settings: Settings,
        life: String,
    ) -> Self {
        Self {
            depot,
            shelf,
            journal,
            clock,
            settings,
            life,
            running: tokio::sync::Mutex::default(),
        }
    }

    /// Enters what of `plan` is within the bounds of a run and of a day. Returns how many moves that are.
    ///
    /// # Errors
    /// The journal failed.
    pub async fn begin(&self, plan: &Plan<Digest>) -> Result<usize, TierError> {
        let left = self.dollars_left().await?;
        let bounds = Bounds {
            dollars_max: self.settings.bounds.dollars_max.min(left),
            ..self.settings.bounds
        };
        let entries: Vec<Entry> = plan.within(bounds).iter().map(Entry::from).collect();
        self.enter(entries).await
    }

    /// Goes on with every move on record as far as it goes now.
    ///
    /// # Errors
    /// The journal failed. What single moves fail of is in their outcome.
    pub async fn run(&self) -> Result<Run, TierError> {
        let _running = self.running.lock().await;
        let mut run = Run::default();
        for pending in self.pending().await? {
            if pending.next > self.clock.wall() {
                run.waiting += 1;
                continue;
            }
            match self.advance(pending.clone()).await? {
                Some(outcome) => run.ended.push(Ended { pending, outcome }),
                None => run.waiting += 1,
            }
        }
        Ok(run)
    }

    /// Goes on until no move is left.
    ///
    /// # Errors
    /// The journal failed.
    pub async fn finish(&self) -> Result<Run, TierError> {
        let mut all = Run::default();
        loop {
            let run = self.run().await?;
            all.ended.extend(run.ended);
            if run.waiting == 0 {
                return Ok(all);
            }
            let next = self.pending().await?.iter().map(|one| one.next).min();
            let wait = next.and_then(|next| next.duration_since(self.clock.wall()).ok());
            let wait = wait.unwrap_or_default().max(Duration::from_millis(10));
            self.clock.sleep(wait).await;
        }
    }

    /// A pull found `digest` archived in `from`: it is restored and promoted, unless the day's money is spent.
    ///
    /// # Errors
    /// The journal failed, or the object store refuses.
    pub async fn wanted(
        &self,
        digest: &Digest,
        bytes: u64,
        from: &super::ClassName,
    ) -> Result<Wanted, TierError> {
        let (from, to) = (
            Place::Stored(from.clone()),
            Place::Stored(self.settings.promoted_to.clone()),
        );
        // How long it was there is not known here; a day is what makes the bill largest.
        let dollars = of_move(&self.settings.prices, bytes, &from, 1, &to).unwrap_or_default();
        let known = self
            .pending()
            .await?
            .iter()
            .any(|one| one.digest == *digest);
        if !known && dollars > self.dollars_left().await? {
            return Ok(Wanted::TooDear);
        }
        self.enter(vec![Entry {
            digest: *digest,
            bytes,
            image: WANTED.to_owned(),
            from,
            to,
            dollars,
        }])
        .await?;
        Ok(Wanted::Coming(self.settings.poll))
    }

    /// Moves on record.
    ///
    /// # Errors
    /// The journal failed.
    pub async fn pending(&self) -> Result<Vec<Pending>, TierError> {
        self.book("read", Journal::pending).await
    }

    async fn dollars_left(&self) -> Result<f64, TierError> {
        let since = self.clock.wall() - DAY;
        let spent = self
            .book("read", move |journal| journal.spent_since(since))
            .await?;
        Ok((self.settings.dollars_per_day_max - spent).max(0.0))
    }

    async fn enter(&self, entries: Vec<Entry>) -> Result<usize, TierError> {
        let (life, now) = (self.life.clone(), self.clock.wall());
        self.book("write to", move |journal| {
            journal.enter(&entries, &life, now)
        })
        .await
    }

    /// Asks the journal something, where that may block.
    async fn book<T: Send + 'static>(
        &self,
        operation: &'static str,
        ask: impl FnOnce(&Journal) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, TierError> {
        let journal = Arc::clone(&self.journal);
        let answer = blocking::run("journal of moves", move || ask(&journal)).await?;
        answer.map_err(|source| TierError::Journal { operation, source })
    }

    fn later(&self, after: Duration) -> SystemTime {
        self.clock.wall() + after
    }
}

/// Stands for the image of a move that a pull asked for.
pub const WANTED: &str = "(a pull)";

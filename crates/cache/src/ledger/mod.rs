//! The ledger: every request for a blob or manifest, exact counts by digest and day, and what they tell.
//!
//! Purpose: [`LedgerSender::record`] takes a request without ever waiting; one thread writes batches into `cache.db` and adds
//! up UTC days; [`LedgerReader`] tells what was pulled most, what became hotter or colder, and which repository uses how much.
//!
//! Non-goals: log lines, Prometheus figures by digest (only the most pulled few).
//!
//! Invariants:
//! - a day's sums are exact: a request and its sums are written in one transaction, once;
//! - a window of seven days is today, as far as it has gone, and the six UTC days before it; so with thirty;
//! - what cannot be taken or written is counted, and said once until it works again.
//!
//! Crash: requests of the last moment ([`Options::batch_every`]) are lost. Clock: a request belongs to the day of its own
//! time, whatever came before; nothing old is deleted on a day that the day before did not foresee, so that a clock that
//! jumps ahead deletes nothing. Cancellation: dropping the [`Ledger`] writes what is queued and ends its thread.

mod figures;
mod query;
mod writer;

pub use query::{
    By, Change, Changed, Comparison, Counts, LedgerReader, RepositoryLine, TopLine, Window,
};

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use orlop_base::clock::SharedClock;
use orlop_types::Digest;
use prometheus_client::registry::Registry;

use figures::Figures;

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it came.
    pub at: SystemTime,
    /// Who asked: a name or an address.
    pub client: String,
    /// The repository, as `registry/repository`.
    pub locator: String,
    /// What was asked for.
    pub kind: Kind,
    /// The tag, if it was one.
    pub reference: Option<String>,
    /// The digest, if it is known.
    pub digest: Option<Digest>,
    /// Bytes that were sent.
    pub bytes: u64,
    /// Where they came from.
    pub source: Source,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, to the last byte.
    pub took: Duration,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A manifest or an index.
    Manifest,
    /// A blob: a layer, a config.
    Blob,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// From memory.
    Memory,
    /// From this node's disk.
    Disk,
    /// From the shared second tier.
    Depot,
    /// From the registry it is a copy of.
    Upstream,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All that was asked for was sent: a pull. A range is one, too.
    Served,
    /// The client went away, or the fill failed half-way.
    Cut,
    /// There is no such thing.
    Missing,
    /// It may not have it.
    Refused,
    /// Upstream asks to come later.
    Limited,
    /// Upstream or this node failed.
    Failed,
}

/// How a ledger is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Requests that wait to be written, at most; more are dropped and counted. Default 4096.
    pub queue_max: usize,
    /// The longest a request waits to be written. Default 1 s.
    pub batch_every: Duration,
    /// How long single requests are kept, in days. Default 7.
    pub requests_days: u32,
    /// How long the sums of days are kept, in days. Default 120: two windows of thirty, and a season to look back on.
    pub days: u32,
    /// How many of the most pulled blobs Prometheus is shown. Default 20; 0: none.
    pub top: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_max: 4096,
            batch_every: Duration::from_secs(1),
            requests_days: 7,
            days: 120,
            top: 20,
        }
    }
}

/// The ledger cannot be begun.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread that writes the ledger")]
pub struct LedgerError(#[source] pub std::io::Error);

/// A running ledger. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Ledger {
    sender: LedgerSender,
    thread: Option<JoinHandle<()>>,
}

/// The way into the ledger. Clones are the same way.
#[derive(Debug, Clone)]
pub struct LedgerSender {
    queue: SyncSender<Message>,
    figures: Arc<Figures>,
}

#[derive(Debug)]
enum Message {
    Record(Box<Record>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
    End,
}

impl Ledger {
    /// Begins to write into the database of the folder `root`, which need not be there, or be sound, or have room: then
    /// requests are counted as dropped until it is.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(root: &Path, options: Options, clock: SharedClock) -> Result<Self, LedgerError> {
        let (queue, received) = mpsc::sync_channel(options.queue_max.max(1));
        let figures = Arc::new(Figures::default());
        let writer = writer::Writer::new(root, options, clock, Arc::clone(&figures));
        let thread = std::thread::Builder::new()
            .name("cache-ledger".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(LedgerError)?;
        Ok(Self {
            sender: LedgerSender { queue, figures },
            thread: Some(thread),
        })
    }

    /// The way in.
    #[must_use]
    pub fn sender(&self) -> LedgerSender {
        self.sender.clone()
    }

    /// Waits until all that was recorded before is written, or dropped.
    pub fn flush(&self) {
        let (answer, answered) = mpsc::sync_channel(1);
        if self.sender.queue.send(Message::Flush(answer)).is_ok() {
            // An end without an answer is a thread that is gone: there is nothing to wait for.
            answered.recv().ok();
        }
    }

    /// Shows its figures among `registry`'s.
    pub fn register(&self, registry: &mut Registry) {
        self.sender.figures.register(registry);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Senders may outlive this: the thread ends by the message, not by their going.
        self.sender.queue.send(Message::End).ok();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ledger's thread panicked");
        }
    }
}

impl LedgerSender {
    /// Takes a request. Never waits: if the queue is full it is dropped and counted.
    pub fn record(&self, record: Record) {
        self.figures.seen(&record);
        match self.queue.try_send(Message::Record(Box::new(record))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.figures.dropped(1),
        }
    }

    /// How many requests were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.figures.dropped_so_far()
    }
}

impl Kind {
    const fn number(self) -> i64 {
        match self {
            Self::Manifest => 0,
            Self::Blob => 1,
        }
    }
}

impl Source {
    /// As it stands in figures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Depot => "depot",
            Self::Upstream => "upstream",
        }
    }

    const fn number(self) -> i64 {
        match self {
            Self::Memory => 0,
            Self::Disk => 1,
            Self::Depot => 2,
            Self::Upstream => 3,
        }
    }
}

impl Outcome {
    /// As it stands in figures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Cut => "cut",
            Self::Missing => "missing",
            Self::Refused => "refused",
            Self::Limited => "limited",
            Self::Failed => "failed",
        }
    }

    const fn number(self) -> i64 {
        match self {
            Self::Served => 0,
            Self::Cut => 1,
            Self::Missing => 2,
            Self::Refused => 3,
            Self::Limited => 4,
            Self::Failed => 5,
        }
    }
}

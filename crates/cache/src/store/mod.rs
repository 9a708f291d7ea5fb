//! What one node keeps: blobs and manifests on disk, and what is known of them.
//!
//! Purpose: find a blob, take one in, give up what is worth least, and remember which repository has what, what tags say,
//! who may have it and what must stay.
//!
//! Non-goals: asking anybody (that is `origin`'s), deciding who may have a blob (`serve` asks [`Store::is_granted`]), sockets.
//!
//! ```text
//! <root>/
//! ├── content/                    an `orlop_content::Store`: blobs/, ingest/, aside/
//! ├── cache.db, -wal, -shm        rows of the above, tags, grants, pins, and the ledger
//! └── cache.db.damaged-<time>     what a damaged database was renamed to
//! ```
//!
//! Invariants:
//! - nothing unverified is ever found: a blob is found only after `content` has committed it;
//! - the bytes on disk of blobs, fills, what was set aside and what is still read stay within the cap, always. Only pins
//!   win over a cap that was lowered; the database and the rounding of files to blocks are not counted;
//! - what is pinned, being filled or being read is never given up for room;
//! - one [`Fill`] of a digest at a time;
//! - trouble with the database stops neither finding nor filling.
//!
//! Crash: rows go before files and come after them. A file without a row is taken in at opening, a row without a file is
//! dropped, an interrupted removal is finished, an interrupted fill goes on where its last checkpoint was. Uses of the last
//! seconds ([`Options::flush_every`]) are forgotten. A damaged database is put aside: what is kept is found again, without
//! links, tags, grants and pins, which upstream and people can tell anew.
//! Cancellation: dropping the last clone of a [`Fill`] parks its bytes.
//! Ordering: content's commit → found in memory → row and link. Given up: not found → row gone → file gone → room free.
//!
//! Everything here blocks, mostly for microseconds; what waits for the disk says so. From async code use
//! `orlop_base::blocking`.

mod adopt;
mod error;
mod figures;
mod fill;
mod inspect;
mod links;
mod pins;
mod recover;
mod remove;
mod rights;
mod rows;
mod scrub;
mod shelf;
mod upkeep;

pub use adopt::Adoption;
pub use error::{ErrorKind, StoreError};
pub use fill::{Fill, Opening, Unfinished};
pub use inspect::{BlobInfo, Inspection, Listed, Pin, Removal, Status};
pub use links::{Child, TagRow};
pub use scrub::{Scrub, Scrubbed};
pub use shelf::Usage;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use orlop_base::clock::SharedClock;
use orlop_base::telemetry::Throttle;
use orlop_content::{Blob, ContentError};
use orlop_types::Digest;
use prometheus_client::registry::Registry;
use rusqlite::{Connection, Transaction};

use crate::db::{Database, DatabaseError, seconds};
use figures::{Figures, Reason};
use shelf::{Shelf, Victim};

/// The blob store's folder.
pub(crate) const CONTENT: &str = "content";

/// Database trouble that goes on is logged once in so long.
const WARN_EVERY: Duration = Duration::from_secs(300);

/// How a store keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The most bytes on disk. Default 50 GiB.
    pub cap_bytes: u64,
    /// What was not used for so long goes. Default 30 days; `None`: only for room.
    pub ttl: Option<Duration>,
    /// What has up to so many bytes is small, and has a tenth of the cap for itself. Default 1 MiB.
    pub small_max_bytes: u64,
    /// How often uses are written down and rows of other processes looked at. Default 5 s.
    pub flush_every: Duration,
    /// Bytes a second that the scrub reads. Default 8 MiB; 0: it does not run.
    pub scrub_bytes_per_second: u64,
    /// A blob is hashed again when its last check is so long ago. Default 30 days.
    pub scrub_every: Duration,
    /// Fills that nobody takes up, and what was set aside, go after so long. Default 7 days.
    pub leftovers_ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            cap_bytes: 50 << 30,
            ttl: Some(30 * DAY),
            small_max_bytes: 1 << 20,
            flush_every: Duration::from_secs(5),
            scrub_bytes_per_second: 8 << 20,
            scrub_every: 30 * DAY,
            leftovers_ttl: 7 * DAY,
        }
    }
}

/// An open store. Clones share it; the folder stays locked until the last clone, [`Fill`] and [`Reading`] are gone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// A blob that was found.
#[derive(Debug)]
pub struct Found {
    /// Its bytes.
    pub blob: Blob,
    /// What upstream called it; not known of what was found on disk without a row.
    pub media_type: Option<Arc<str>>,
    /// Keeps it from being given up. Hold it as long as bytes are read.
    pub reading: Reading,
}

/// Somebody reads a blob. Dropping it costs no disk access.
#[derive(Debug)]
pub struct Reading {
    inner: Arc<Inner>,
    digest: Digest,
    serial: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.inner.shelf().read(&self.digest, self.serial);
    }
}

/// What a store and its fills and readers share.
struct Inner {
    root: PathBuf,
    content: orlop_content::Store,
    /// Replaced when the file is damaged or gone.
    database: RwLock<Arc<Database>>,
    shelf: Mutex<Shelf>,
    /// A victim is gone.
    left: Condvar,
    pinned: Mutex<HashSet<Digest>>,
    /// Victims whose files could not be removed.
    stuck: Mutex<Vec<Victim>>,
    /// Rows could not be written: all are written anew.
    is_behind: AtomicBool,
    /// The database's file itself is damaged: a new one has to be begun.
    is_damaged: AtomicBool,
    /// The time of day less the boot clock, in seconds, when uses were last written down.
    clock_offset: AtomicI64,
    /// When old names were last forgotten, on the boot clock.
    tidied: AtomicI64,
    warned: Throttle<&'static str>,
    clock: SharedClock,
    options: Options,
    figures: Figures,
}

impl fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Store")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `root`, creating it if it is missing, and brings rows and files together. Reads the whole folder.
    ///
    /// # Errors
    /// [`StoreError::is_in_use`] if another process has it; a newer or foreign database; a disk that fails.
    pub fn open(root: &Path, options: Options, clock: SharedClock) -> Result<Self, StoreError> {
        let inner = Arc::new(recover::open(root, options, clock)?);
        let victims = inner.settle_what_was_found()?;
        inner.remove(victims, Reason::Room);
        Ok(Self { inner })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// What is asked of it.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Finds a blob or manifest: a use of it, which is noted in memory.
    ///
    /// # Errors
    /// The disk fails. What is not there, or damaged, is `None`.
    pub fn find(&self, digest: &Digest) -> Result<Option<Found>, StoreError> {
        let inner = &self.inner;
        let Some(seen) = inner.shelf().begin_reading(digest, Some(inner.now())) else {
            return Ok(None);
        };
        let reading = Reading {
            inner: Arc::clone(inner),
            digest: *digest,
            serial: seen.serial,
        };
        match inner.content.blob(digest) {
            Ok(blob) if blob.size_bytes() == seen.size => Ok(Some(Found {
                blob,
                media_type: seen.media_type,
                reading,
            })),
            Ok(blob) => {
                let reason = format!(
                    "it has {} bytes instead of {}",
                    blob.size_bytes(),
                    seen.size
                );
                drop(reading);
                inner.set_aside(digest, &reason);
                Ok(None)
            }
            Err(ContentError::BlobNotFound { .. }) => {
                drop(reading);
                tracing::warn!(%digest, "a cached blob's file is gone");
                inner.take_out(digest, Reason::Missing);
                Ok(None)
            }
            Err(source) => Err(StoreError::content("open", digest)(source)),
        }
    }

    /// Whether a blob would be found, from memory. No use of it.
    #[must_use]
    pub fn holds(&self, digest: &Digest) -> bool {
        self.inner.shelf().kept(digest).is_some()
    }

    /// A blob's size in bytes: of what is kept, else as a manifest tells it.
    ///
    /// # Errors
    /// The database fails.
    pub fn size_of(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        if let Some(kept) = self.inner.shelf().kept(digest) {
            return Ok(Some(kept.size));
        }
        let told = self.inner.read("look for a size in", |db| {
            let sql = "SELECT size FROM children WHERE digest = ?1 LIMIT 1";
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query([digest.to_string()])?;
            rows.next()?.map(|row| row.get(0)).transpose()
        })?;
        Ok(told.map(crate::db::from_column))
    }

    /// How many bytes are what, at this moment.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.inner.shelf().usage()
    }

    /// Shows its figures among `registry`'s.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.figures.register(registry, &self.inner);
    }

    /// Writes down what was used. Upkeep does it every few seconds, dropping the last clone does it too.
    ///
    /// # Errors
    /// The database fails; what was used is kept for the next time.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "the last uses of cached blobs are not written down");
        }
    }
}

impl Inner {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        lock(&self.shelf)
    }

    /// The boot clock, in seconds.
    fn now(&self) -> i64 {
        i64::try_from(self.clock.boottime().as_secs()).unwrap_or(i64::MAX)
    }

    /// The time of day, in seconds since 1970.
    fn wall(&self) -> i64 {
        seconds(self.clock.wall())
    }

    fn database(&self) -> Arc<Database> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&database)
    }

    fn read<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let read = self.database().read(operation, job);
        read.inspect_err(|error| self.look_at(error))
    }

    fn write<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let written = self.database().write(operation, job);
        written.inspect_err(|error| self.look_at(error))
    }

    fn look_at(&self, error: &DatabaseError) {
        if error.is_damage() {
            self.is_damaged.store(true, Ordering::Relaxed);
        }
    }

    /// Writes rows of what is the case already. If they cannot be written all of them are, later: a cache without its
    /// database still serves.
    fn note<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Option<T> {
        match self.write(operation, job) {
            Ok(value) => Some(value),
            Err(error) => {
                self.is_behind.store(true, Ordering::Relaxed);
                self.figures.database_failures.inc();
                self.warn(operation, &error);
                None
            }
        }
    }

    fn warn(&self, operation: &'static str, error: &DatabaseError) {
        let now = self.clock.boottime();
        if let Some(suppressed) = self.warned.admit(operation, now) {
            let error = orlop_types::chain(error);
            tracing::warn!(
                error,
                suppressed,
                "the cache's database fails; serving goes on without it"
            );
        }
    }
}

/// Takes a lock whose sections do not panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

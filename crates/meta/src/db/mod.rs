//! The database file: opening, reading, writing, waking those who wait for events.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::SharedClock;
use orlop_snapshot::Snapshotter;
use orlop_types::{Namespace, SnapshotterName};
use rusqlite::Connection;

use crate::claims::Claims;
use crate::event::Event;
use crate::records::Namespaces;
use crate::time::to_nanos;
use crate::watch::{WatchGuard, Watchers};
use crate::{Error, View, activations, schema, snapshots};

mod readers;
mod writer;

use readers::Readers;
use writer::Writer;

/// How long a connection waits for one of another process, such as a doctor's checkpoint.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// SQLite's page cache of the writing connection, in KiB.
const WRITER_CACHE_KIB: i64 = 2048;

/// What the views act on besides rows. Views of absent backends still read rows.
#[derive(Clone, Default)]
pub struct Backends {
    /// Where blobs are.
    pub content: Option<Arc<orlop_content::Store>>,
    /// Where snapshots' files are, by the name clients ask for.
    pub snapshotters: BTreeMap<SnapshotterName, Arc<dyn Snapshotter>>,
    /// Where mounts are made ahead.
    pub mounts: Option<Arc<orlop_mounts::Store>>,
}

impl Backends {
    /// Opens a blob store and both snapshotters below one folder, as tools and tests want them. The daemon, which has
    /// options for each, opens them itself.
    ///
    /// # Errors
    /// `Content`, `Snapshot`.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let content = orlop_content::Store::open(&folder.join("content"));
        let content = content.map_err(|source| Error::Content {
            operation: "open content store below",
            subject: folder.display().to_string(),
            source: Arc::new(source),
        })?;
        let failed = |source| Error::Snapshot {
            operation: "open a backend for",
            key: folder.display().to_string(),
            source: Arc::new(source),
        };
        let overlayfs = orlop_snapshot::Overlayfs::open(&folder.join("overlayfs"), &[]);
        let overlayfs: Arc<dyn Snapshotter> = Arc::new(overlayfs.map_err(failed)?);
        let native = orlop_snapshot::Native::open(&folder.join("native"));
        let native: Arc<dyn Snapshotter> = Arc::new(native.map_err(failed)?);
        let named = [overlayfs, native].map(|backend| (backend.name().clone(), backend));
        Ok(Self {
            content: Some(Arc::new(content)),
            snapshotters: BTreeMap::from(named),
            mounts: None,
        })
    }
}

impl fmt::Debug for Backends {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Backends")
            .field("content", &self.content.is_some())
            .field("snapshotters", &self.snapshotters.keys())
            .field("mounts", &self.mounts.is_some())
            .finish()
    }
}

/// The database. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    clock: SharedClock,
    backends: Backends,
    /// Absent where the database was opened only to read.
    writer: Option<Writer>,
    readers: Readers,
    watchers: Watchers,
    claims: Arc<Claims>,
    /// Held as long as this process may write.
    _lock: Option<File>,
}

/// What a committed batch of transactions did, for those who wait for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// The sequence of the newest event, if there was one.
    pub event: Option<i64>,
    /// How many records or references were removed: a reason to collect.
    pub deletions: u64,
    /// How many things were queued for the sweep: a reason to sweep.
    pub sweeps: u64,
}

impl Committed {
    fn merge(&mut self, other: &Self) {
        self.event = self.event.max(other.event);
        self.deletions += other.deletions;
        self.sweeps += other.sweeps;
    }
}

impl Db {
    /// Opens the database at `path` for this process alone, creating it or migrating it after a backup.
    ///
    /// # Errors
    /// `InUse`, `NewerSchema`, `Foreign`, `Database`, `Io`.
    pub fn open(path: &Path, clock: SharedClock, backends: Backends) -> Result<Self, Error> {
        let lock = schema::lock(path)?;
        let report = schema::migrate_locked(path, &clock)?;
        if let Some(backup) = &report.backup {
            tracing::info!(from = report.from, to = report.to, backup = %backup.display(), "database migrated");
        }
        let connection = schema::open_for_writing(path)?;
        connection
            .pragma_update(None, "cache_size", -WRITER_CACHE_KIB)
            .map_err(Error::database("configure the database"))?;
        let db = Self::new(path, clock, backends, Some((connection, lock)));
        let interrupted = db.write("take interrupted preparations back", snapshots::recover)?;
        if interrupted > 0 {
            tracing::info!(
                snapshots = interrupted,
                "interrupted preparations are swept"
            );
        }
        let lost = activations::recover(&db)?;
        if lost > 0 {
            tracing::info!(
                activations = lost,
                "lost or half-made mounts are taken down"
            );
        }
        Ok(db)
    }

    /// Opens the database only to read, also while a daemon is writing it.
    ///
    /// # Errors
    /// `NewerSchema`, `OlderSchema`, `Foreign`, `Database`.
    pub fn inspect(path: &Path, clock: SharedClock) -> Result<Self, Error> {
        schema::check_readable(path)?;
        Ok(Self::new(path, clock, Backends::default(), None))
    }

    fn new(
        path: &Path,
        clock: SharedClock,
        backends: Backends,
        writing: Option<(Connection, File)>,
    ) -> Self {
        let (connection, lock) = writing.unzip();
        Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                clock,
                backends,
                writer: connection.map(Writer::new),
                readers: Readers::new(path),
                watchers: Watchers::default(),
                claims: Arc::new(Claims::default()),
                _lock: lock,
            }),
        }
    }

    /// The records of one namespace. It need not exist: reading finds nothing, and the first write creates it.
    #[must_use]
    pub fn namespace(&self, namespace: &Namespace) -> View {
        View::new(self.clone(), namespace.clone())
    }

    /// The namespaces themselves.
    #[must_use]
    pub fn namespaces(&self) -> Namespaces<'_> {
        Namespaces::new(self)
    }

    /// Calls `callback` after every batch of transactions that appended an event, removed or queued something.
    ///
    /// It runs on the thread of a writer, so it must be short and must not call the database: wake somebody.
    #[must_use = "dropping the guard ends the watch"]
    pub fn watch(&self, callback: impl Fn(Committed) + Send + Sync + 'static) -> WatchGuard {
        self.inner.watchers.add(Arc::new(callback))
    }

    /// Appends an event that no record's change brings: a task's, or one that a shim or client forwards.
    /// Returns its sequence.
    ///
    /// # Errors
    /// `ReadOnly`, `Database`.
    pub fn publish(&self, namespace: &Namespace, event: &Event) -> Result<i64, Error> {
        self.write("append an event", |tx| tx.append(namespace, event))
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The backends the views act on.
    #[must_use]
    pub fn backends(&self) -> &Backends {
        &self.inner.backends
    }

    /// The clock that times records.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.inner.clock
    }

    /// Gives SQLite's caches back; for a daemon that has been idle for a while.
    pub fn shrink(&self) {
        self.inner.readers.shrink();
        if let Some(writer) = &self.inner.writer {
            let shrunk = writer.idle(|connection| {
                connection.flush_prepared_statement_cache();
                connection.execute_batch("PRAGMA shrink_memory")
            });
            if let Err(error) = shrunk {
                tracing::warn!(%error, "the database's caches could not be given back");
            }
        }
    }

    pub(crate) fn claims(&self) -> &Arc<Claims> {
        &self.inner.claims
    }

    pub(crate) fn now(&self) -> i64 {
        to_nanos(self.inner.clock.wall())
    }

    /// Reads in one transaction.
    pub(crate) fn read<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.inner.readers.run(operation, job)
    }

    /// Writes in one transaction and returns when it is on disk.
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let ran = self.writer(operation)?.run(operation, self.now(), job)?;
        Ok(self.announce(ran))
    }

    /// Writes in one transaction that a power cut may undo: for figures and bookkeeping that can be found again.
    pub(crate) fn write_relaxed<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let writer = self.writer(operation)?;
        Ok(self.announce(writer.run_relaxed(operation, self.now(), job)?))
    }

    /// Returns when everything written so far, also by [`Db::write_relaxed`], is on disk.
    pub(crate) fn make_durable(&self) -> Result<(), Error> {
        // Any change commits with an fsync of the log, and with it of all that is in the log before.
        self.write("sync the database", |tx| {
            tx.prepare_cached("UPDATE counters SET value = value")
                .and_then(|mut touch| touch.execute([]))
                .map_err(Error::database("sync the database"))
        })?;
        Ok(())
    }

    fn announce<T>(&self, ran: writer::Ran<T>) -> T {
        if let Some(committed) = ran.committed
            && committed != Committed::default()
        {
            self.inner.watchers.call(committed);
        }
        ran.value
    }

    fn writer(&self, operation: &'static str) -> Result<&Writer, Error> {
        let writer = self.inner.writer.as_ref();
        writer.ok_or(Error::ReadOnly { operation })
    }
}

/// One transaction that writes.
pub(crate) struct Tx<'a> {
    connection: &'a Connection,
    /// The time that all rows of this transaction carry, in nanoseconds since 1970.
    pub(crate) now: i64,
    effects: RefCell<Committed>,
}

impl<'a> Tx<'a> {
    fn new(connection: &'a Connection, now: i64) -> Self {
        Self {
            connection,
            now,
            effects: RefCell::new(Committed::default()),
        }
    }

    fn into_effects(self) -> Committed {
        self.effects.into_inner()
    }

    /// Notes that a record or reference went.
    pub(crate) fn note_deletion(&self) {
        self.effects.borrow_mut().deletions += 1;
    }

    /// Does `job`, whose removals are no reason to collect: what goes lives on under another name.
    pub(crate) fn renaming<T>(&self, job: impl FnOnce() -> T) -> T {
        let before = self.effects.borrow().deletions;
        let done = job();
        self.effects.borrow_mut().deletions = before;
        done
    }

    /// Notes that something was queued for the sweep.
    pub(crate) fn note_sweep(&self) {
        self.effects.borrow_mut().sweeps += 1;
    }

    /// Appends an event to the outbox and returns its sequence.
    pub(crate) fn append(&self, namespace: &Namespace, event: &Event) -> Result<i64, Error> {
        let sequence = crate::outbox::append(self, namespace, event)?;
        self.effects.borrow_mut().event = Some(sequence);
        Ok(sequence)
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

//! The one database of a cache's folder, `cache.db`: opening, versions, reading, writing, and what to do when it breaks.
//!
//! **Crash.** A transaction is there as a whole or not at all, also after kill -9. A power cut may take the last ones
//! (`synchronous=NORMAL`): everything in here but pins and the ledger's last seconds can be found again
//! ([ADR 30](../../../docs/adr/0030-cache-store.md)). **Ordering.** Versions only grow; a newer one is refused. **Other processes.**
//! Any number may read, and write short transactions, while a server runs.

mod error;

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orlop_base::units::format_moment;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

pub use error::DatabaseError;

/// The file's name in a cache's folder.
pub(crate) const FILE_NAME: &str = "cache.db";

/// "Orlc" in `application_id`, so that a foreign SQLite file is never touched.
const APPLICATION_ID: i64 = 0x4f72_6c63;

/// The schema version this program writes.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = include_str!("0001.sql");

/// How long a connection waits for one of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reading connections that stay open between reads.
const IDLE_MAX: usize = 4;

/// SQLite's page cache of one connection, in KiB. The kernel's page cache is behind it.
const CACHE_KIB: i64 = 1024;

/// How much of the write-ahead log stays on disk after a checkpoint, in bytes.
const JOURNAL_BYTES_MAX: i64 = 4 << 20;

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    // Closed before the writer: the last to close takes the log into the file, which only the writer can.
    idle: Mutex<Vec<Connection>>,
    /// None: open for reading only.
    writer: Option<Mutex<Connection>>,
    /// Device and inode of the file that was opened.
    identity: (u64, u64),
}

impl Database {
    /// Opens the database in `folder` for writing, creating it if it is missing.
    pub(crate) fn open(folder: &Path) -> Result<Self, DatabaseError> {
        let path = folder.join(FILE_NAME);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut connection = connect(&path, flags)?;
        prepare(&connection, &path)?;
        migrate(&mut connection, &path)?;
        Self::from_parts(path, Some(connection))
    }

    /// Opens the database in `folder` as it is: to write short rows beside a server, or only to read.
    pub(crate) fn join(folder: &Path, to_write: bool) -> Result<Self, DatabaseError> {
        let path = folder.join(FILE_NAME);
        let flags = if to_write {
            OpenFlags::SQLITE_OPEN_READ_WRITE
        } else {
            OpenFlags::SQLITE_OPEN_READ_ONLY
        };
        let connection = connect(&path, flags)?;
        if version(&connection, &path)? == 0 {
            return Err(DatabaseError::Foreign { path });
        }
        Self::from_parts(path, to_write.then_some(connection))
    }

    fn from_parts(path: PathBuf, writer: Option<Connection>) -> Result<Self, DatabaseError> {
        let identity = identity(&path).map_err(|source| DatabaseError::Io {
            operation: "look at",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            writer: writer.map(Mutex::new),
            idle: Mutex::new(Vec::new()),
            identity,
        })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file that was opened is still the one of that name: SQLite goes on writing to one that was removed.
    pub(crate) fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }

    /// Reads in one transaction, so that all is of one moment.
    pub(crate) fn read<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let pooled = lock(&self.idle).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let read = || {
            let transaction = connection.unchecked_transaction()?;
            let value = job(&transaction)?;
            transaction.finish()?;
            Ok(value)
        };
        let value = read().map_err(|source| self.failed(operation, source))?;
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(value)
    }

    /// Writes in one transaction.
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let writer = self.writer.as_ref();
        let mut connection = lock(writer.ok_or(DatabaseError::ReadOnly { operation })?);
        let write = || {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = job(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        write().map_err(|source| self.failed(operation, source))
    }

    fn failed(&self, operation: &'static str, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sqlite {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}

/// Opens the database in `folder`; one that is damaged is put aside, and a new one begun. Returns where the old one is.
pub(crate) fn open_or_begin_anew(
    folder: &Path,
    now: SystemTime,
) -> Result<(Database, Option<PathBuf>), DatabaseError> {
    match Database::open(folder) {
        Err(error) if error.is_damage() => {
            let aside = put_aside(folder, now)?;
            Ok((Database::open(folder)?, Some(aside)))
        }
        other => Ok((other?, None)),
    }
}

/// Renames a damaged database, with what belongs to it, for a person to look at.
pub(crate) fn put_aside(folder: &Path, now: SystemTime) -> Result<PathBuf, DatabaseError> {
    let moment: String = format_moment(now)
        .chars()
        .filter(|character| character.is_ascii_alphanumeric())
        .collect();
    let target = folder.join(format!("{FILE_NAME}.damaged-{moment}"));
    // The log first: without it the file alone would still be opened by its old name, and that is what must not be.
    for suffix in ["-wal", "-shm", ""] {
        let from = folder.join(format!("{FILE_NAME}{suffix}"));
        let mut to = target.clone().into_os_string();
        to.push(suffix);
        match std::fs::rename(&from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DatabaseError::Io {
                    operation: "put aside",
                    path: from,
                    source: error,
                });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(target)
}

/// Whole seconds since 1970; 0 before.
pub(crate) fn seconds(moment: SystemTime) -> i64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The moment so many seconds after 1970. What is before counts as 1970.
pub(crate) fn moment(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A size as a column holds it.
pub(crate) fn to_column(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A size from a column; negative ones are never written.
pub(crate) fn from_column(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}

/// Takes a lock whose sections leave nothing half-changed: a transaction that panics is rolled back by its drop.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let of = |metadata: Metadata| (metadata.dev(), metadata.ino());
    std::fs::metadata(path).map(of)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, DatabaseError> {
    let open = || {
        let connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(|source| DatabaseError::Sqlite {
        operation: "open",
        path: path.to_owned(),
        source,
    })
}

fn prepare(connection: &Connection, path: &Path) -> Result<(), DatabaseError> {
    let sql = format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; \
         PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}"
    );
    let failed = |source| DatabaseError::Sqlite {
        operation: "configure",
        path: path.to_owned(),
        source,
    };
    connection.execute_batch(&sql).map_err(failed)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), DatabaseError> {
    if version(connection, path)? == SCHEMA_VERSION {
        return Ok(());
    }
    let mut make = || {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Somebody else may have been first: store and ledger each open it.
        let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        transaction.commit()
    };
    make().map_err(|source| DatabaseError::Sqlite {
        operation: "make the tables of",
        path: path.to_owned(),
        source,
    })
}

/// The version of the schema; 0 for an empty file.
fn version(connection: &Connection, path: &Path) -> Result<i64, DatabaseError> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let read = || {
        Ok((
            number("PRAGMA user_version")?,
            number("PRAGMA application_id")?,
            number("SELECT count(*) FROM sqlite_schema")?,
        ))
    };
    let (version, application, tables) = read().map_err(|source| DatabaseError::Sqlite {
        operation: "read the version of",
        path: path.to_owned(),
        source,
    })?;
    let is_empty = version == 0 && application == 0 && tables == 0;
    if !is_empty && application != APPLICATION_ID {
        let path = path.to_owned();
        return Err(DatabaseError::Foreign { path });
    }
    if version > SCHEMA_VERSION {
        return Err(DatabaseError::Newer {
            path: path.to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        });
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    #[allow(
        clippy::disallowed_methods,
        reason = "the test damages a file on purpose"
    )]
    fn overwrite(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_damaged_database_is_put_aside_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        overwrite(&folder.path().join(FILE_NAME), &[7; 9000]);
        let (database, aside) = open_or_begin_anew(folder.path(), NOW).unwrap();
        let aside = aside.unwrap();
        assert_eq!(std::fs::read(aside).unwrap(), [7; 9000]);
        assert!(database.is_in_place());
        let count = database.read("count", |db| {
            db.query_row("SELECT count(*) FROM blobs", [], |row| row.get::<_, i64>(0))
        });
        assert_eq!(count.unwrap(), 0);
    }

    #[test]
    fn what_is_not_ours_or_newer_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let foreign = Connection::open(&path).unwrap();
        foreign.execute_batch("CREATE TABLE a (b)").unwrap();
        let error = Database::open(folder.path()).unwrap_err();
        assert!(matches!(error, DatabaseError::Foreign { .. }), "{error}");
        foreign.execute_batch("DROP TABLE a").unwrap();
        drop(foreign);
        drop(Database::open(folder.path()).unwrap());
        let newer = Connection::open(&path).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        let error = open_or_begin_anew(folder.path(), NOW).unwrap_err();
        assert!(
            matches!(error, DatabaseError::Newer { found: 99, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_database_that_was_removed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).unwrap();
        assert!(database.is_in_place());
        std::fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
        assert!(!database.is_in_place());
        let joined = Database::join(folder.path(), false);
        assert!(joined.is_err(), "joining creates nothing");
    }
}

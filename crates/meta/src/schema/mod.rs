//! The schema: its versions, the migrations between them, backups, and the way back.
//!
//! ```text
//! ROOT/meta.db                         the database, with -wal and -shm beside it while it is open
//! ROOT/meta.db.lock                    locked by the one process that may write
//! ROOT/meta.db.v1-20261123T125639Z     a backup of schema version 1, made before a migration
//! ROOT/meta.db.undone-2026…            what a rollback replaced
//! ```
//!
//! **Crash.** All steps of a migration, and the new version, are one transaction: a database has its old version or
//! the new one. A backup is written aside, synced and renamed before that transaction begins. **Ordering.** Versions
//! only grow; `user_version` holds it, and `application_id` says that the file is ours.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_base::clock::SharedClock;
use rusqlite::{Connection, OpenFlags};

use crate::Error;

mod backup;
mod unknown;

pub use backup::rollback;

/// "Orlp" in `application_id`, so that a foreign SQLite file is never touched.
const APPLICATION_ID: i64 = 0x4f72_6c70;

/// How much of the write-ahead log stays on disk after a checkpoint, in bytes.
const JOURNAL_BYTES_MAX: i64 = 4 << 20;

struct Step {
    version: i64,
    title: &'static str,
    sql: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        version: 1,
        title: "records, references, outbox and sweep queue",
        sql: include_str!("0001.sql"),
    },
    Step {
        version: 2,
        title: "sandboxes",
        sql: include_str!("0002.sql"),
    },
    Step {
        version: 3,
        title: "mounts made ahead",
        sql: include_str!("0003.sql"),
    },
];

/// The schema version this program writes.
pub const SCHEMA_VERSION: i64 = 3;

/// What a migration did, or in a dry run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// The version found; 0 for a database that did not exist.
    pub from: i64,
    /// The version reached.
    pub to: i64,
    /// The steps between them, such as `2: sandboxes`.
    pub steps: Vec<String>,
    /// The backup made before; none for a new database, for an up-to-date one, and in a dry run.
    pub backup: Option<PathBuf>,
    /// Tables, and rows of known tables, that this program does not know. They are left as they are.
    pub unknown: Vec<String>,
}

/// Says what opening the database would migrate, without changing anything.
///
/// # Errors
/// `NewerSchema`, `Foreign`, `Database`.
pub fn dry_run(path: &Path) -> Result<MigrationReport, Error> {
    if !path.exists() {
        return Ok(report(0, Vec::new(), None));
    }
    let connection = open_to_read(path)?;
    let from = version(&connection, path)?;
    Ok(report(from, strangers(&connection, from)?, None))
}

/// Migrates the database of a stopped daemon, as opening it would.
///
/// # Errors
/// `InUse`, `NewerSchema`, `Foreign`, `Database`, `Io`.
pub fn migrate(path: &Path, clock: &SharedClock) -> Result<MigrationReport, Error> {
    let _lock = lock(path)?;
    migrate_locked(path, clock)
}

/// Brings the database at `path` to [`SCHEMA_VERSION`], after a backup if it holds an older one. The caller holds the
/// lock.
pub(crate) fn migrate_locked(path: &Path, clock: &SharedClock) -> Result<MigrationReport, Error> {
    let mut connection = open_for_writing(path)?;
    let from = version(&connection, path)?;
    let unknown = if from == SCHEMA_VERSION {
        unknown::tables(&connection)?
    } else {
        strangers(&connection, from)?
    };
    if !unknown.is_empty() {
        tracing::warn!(
            ?unknown,
            "the database holds what this program does not know"
        );
    }
    if from == SCHEMA_VERSION {
        return Ok(report(from, unknown, None));
    }
    let backup = match from {
        0 => None,
        _ => Some(backup::create(&connection, path, from, clock)?),
    };
    apply(&mut connection, from)?;
    Ok(report(from, unknown, backup))
}

/// Takes the lock of the one process that may write.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let path = suffixed(path, ".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("open the lock file", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path }),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", &path)(source)),
    }
}

/// Opens the connection that writes. The caller holds the lock.
pub(crate) fn open_for_writing(path: &Path) -> Result<Connection, Error> {
    let failed = Error::database("open the database");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection
        .busy_timeout(Duration::from_secs(5))
        .map_err(failed)?;
    for (name, value) in [
        ("journal_mode", "WAL"),
        ("synchronous", "FULL"),
        ("foreign_keys", "ON"),
        ("temp_store", "MEMORY"),
    ] {
        set(&connection, name, value).map_err(|error| foreign_or(error, path))?;
    }
    set(
        &connection,
        "journal_size_limit",
        &JOURNAL_BYTES_MAX.to_string(),
    )
    .map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Checks that the views of this program can read the database.
pub(crate) fn check_readable(path: &Path) -> Result<(), Error> {
    let connection = open_to_read(path)?;
    let found = version(&connection, path)?;
    if found < SCHEMA_VERSION {
        return Err(Error::OlderSchema {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    Ok(())
}

fn open_to_read(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(Error::database("open the database"))
}

/// The version of the schema; 0 for an empty file.
fn version(connection: &Connection, path: &Path) -> Result<i64, Error> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let read = || -> rusqlite::Result<_> {
        Ok((
            number("PRAGMA user_version")?,
            number("PRAGMA application_id")?,
            number("SELECT count(*) FROM sqlite_schema")?,
        ))
    };
    let (version, application, tables) = read().map_err(|error| foreign_or(error, path))?;
    let empty = version == 0 && application == 0 && tables == 0;
    if !empty && (application != APPLICATION_ID || version < 1) {
        let path = path.to_owned();
        return Err(Error::Foreign { path });
    }
    if version > SCHEMA_VERSION {
        return Err(Error::NewerSchema {
            path: path.to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        });
    }
    Ok(version)
}

fn apply(connection: &mut Connection, from: i64) -> Result<(), Error> {
    let failed = Error::database("migrate the database");
    let transaction = connection.transaction().map_err(failed)?;
    for step in STEPS.iter().filter(|step| step.version > from) {
        transaction.execute_batch(step.sql).map_err(failed)?;
    }
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(failed)?;
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// All that a migration from version `from` would meet and not know.
fn strangers(connection: &Connection, from: i64) -> Result<Vec<String>, Error> {
    let mut found = unknown::tables(connection)?;
    if from > 0 {
        found.extend(unknown::rows(connection)?);
    }
    Ok(found)
}

fn report(from: i64, unknown: Vec<String>, backup: Option<PathBuf>) -> MigrationReport {
    let steps = STEPS.iter().filter(|step| step.version > from);
    MigrationReport {
        from,
        to: SCHEMA_VERSION,
        steps: steps
            .map(|step| format!("{}: {}", step.version, step.title))
            .collect(),
        backup,
        unknown,
    }
}

/// Sets a pragma, whether it answers with a row or not.
fn set(connection: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("PRAGMA {name} = {value}"))
}

fn foreign_or(error: rusqlite::Error, path: &Path) -> Error {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) {
        let path = path.to_owned();
        return Error::Foreign { path };
    }
    Error::database("read the database's version")(error)
}

/// `path` with `suffix` appended to its file name.
fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

//! A small pool of connections that only read. Each sees the last commit at the time its transaction began.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};

use crate::Error;

/// How many connections stay open between reads; each costs some 100 KiB.
const IDLE_MAX: usize = 2;

/// SQLite's page cache of one reading connection, in KiB. The kernel's page cache is behind it.
const CACHE_KIB: i64 = 512;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Runs `job` in one read transaction, so that all it reads is of one moment.
    pub(super) fn run<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let pooled = self.lock().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => open(&self.path)?,
        };
        let failed = Error::database(operation);
        let transaction = connection.unchecked_transaction().map_err(failed)?;
        let value = job(&transaction);
        transaction.finish().map_err(failed)?;
        let mut idle = self.lock();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        value
    }

    /// Closes idle connections and with them their caches.
    pub(super) fn shrink(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> Result<Connection, Error> {
    let failed = Error::database("open the database for reading");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection
        .busy_timeout(super::BUSY_TIMEOUT)
        .map_err(failed)?;
    connection
        .pragma_update(None, "cache_size", -CACHE_KIB)
        .map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

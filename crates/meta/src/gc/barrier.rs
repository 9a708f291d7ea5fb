//! Notices what gets held while a collection is under way.
//!
//! Marks are made on a snapshot of the past; rows go later, while others write. While the barrier is up, SQLite itself
//! notes the target of every new edge and every record that is made or kept anew, in a table of the one connection
//! that writes. Triggers see every statement, whoever wrote it, and are rolled back with it. A transaction of the
//! sweep reads the notes before it removes anything, so it knows all that was committed before it, and nothing can be
//! committed between its look and its removals.

use rusqlite::Connection;

use crate::db::Tx;
use crate::{Db, Error};

const RAISE: &str = "
    CREATE TEMP TABLE IF NOT EXISTS gc_held (id INTEGER PRIMARY KEY);
    DELETE FROM gc_held;
    CREATE TEMP TRIGGER IF NOT EXISTS gc_held_by_edge AFTER INSERT ON main.refs
        BEGIN INSERT OR IGNORE INTO gc_held VALUES (NEW.target); END;
    CREATE TEMP TRIGGER IF NOT EXISTS gc_held_by_itself
        AFTER UPDATE OF live, root, flat, expires_at ON main.nodes WHEN NEW.live = 1
        BEGIN INSERT OR IGNORE INTO gc_held VALUES (NEW.id); END;";

/// Moves the log into the database file as usual, after so many pages; SQLite's own default.
const CHECKPOINTS: &str = "PRAGMA wal_autocheckpoint = 1000;";

/// Removals write much log. Moving it would happen in somebody's commit, who then waits for the disk twice; the
/// collector does it on a connection of its own instead, beside the writers.
const NO_CHECKPOINTS: &str = "PRAGMA wal_autocheckpoint = 0;";

const LOWER: &str = "
    DROP TRIGGER IF EXISTS gc_held_by_edge;
    DROP TRIGGER IF EXISTS gc_held_by_itself;
    DELETE FROM gc_held;";

/// After so many transactions of the collector, a few MiB of log, it is moved.
const CHECKPOINT_TRANSACTIONS: u32 = 64;

/// Up until it is dropped. There is one at a time: collections exclude each other.
#[derive(Debug)]
pub(super) struct Barrier<'a> {
    db: &'a Db,
}

impl<'a> Barrier<'a> {
    /// Returns when every transaction that it does not watch has been committed: read the marks' snapshot after that.
    pub(super) fn raise(db: &'a Db) -> Result<Self, Error> {
        // The watch is of this connection alone: there is nothing for the disk to keep.
        db.write_relaxed("begin a collection", |tx| {
            tx.execute_batch(RAISE)
                .and_then(|()| tx.execute_batch(NO_CHECKPOINTS))
                .map_err(Error::database("begin a collection"))
        })?;
        Ok(Self { db })
    }

    /// What was noted since the last call, in the transaction that is going to remove.
    pub(super) fn take(tx: &Tx<'_>) -> Result<Vec<i64>, Error> {
        let failed = Error::database("read what was held meanwhile");
        let mut select = tx
            .prepare_cached("SELECT id FROM temp.gc_held")
            .map_err(failed)?;
        let ids = select
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect::<Result<Vec<i64>, _>>)
            .map_err(failed)?;
        if !ids.is_empty() {
            tx.prepare_cached("DELETE FROM temp.gc_held")
                .and_then(|mut delete| delete.execute([]))
                .map_err(failed)?;
        }
        Ok(ids)
    }
}

/// Moves the log into the database file while others write.
#[derive(Debug)]
pub(super) struct Checkpointer {
    connection: Option<Connection>,
    transactions: u32,
}

impl Checkpointer {
    /// A connection of its own. Without one the log grows until the collection ends, which harms nobody.
    pub(super) fn new(db: &Db) -> Self {
        let opened = Connection::open(db.path());
        if let Err(error) = &opened {
            tracing::warn!(%error, "the log is not moved during this collection");
        }
        Self {
            connection: opened.ok(),
            transactions: 0,
        }
    }

    /// Counts a transaction, and once in a while moves what is there.
    pub(super) fn wrote(&mut self) {
        self.transactions += 1;
        if self.transactions.is_multiple_of(CHECKPOINT_TRANSACTIONS) {
            self.move_log();
        }
    }

    /// Moves what is left, so that the next writer does not have to.
    pub(super) fn finish(self) {
        if self.transactions > 0 {
            self.move_log();
        }
    }

    fn move_log(&self) {
        let Some(connection) = &self.connection else {
            return;
        };
        // Passive: it waits for nobody and keeps nobody waiting; what it cannot move now it moves later.
        let moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = moved {
            tracing::debug!(%error, "the log could not be moved just now");
        }
    }
}

impl Drop for Barrier<'_> {
    fn drop(&mut self) {
        let lowered = self.db.write_relaxed("end a collection", |tx| {
            tx.execute_batch(CHECKPOINTS)
                .and_then(|()| tx.execute_batch(LOWER))
                .map_err(Error::database("end a collection"))
        });
        if let Err(error) = lowered {
            // It costs writers a little until the next collection, and is otherwise harmless.
            tracing::warn!(%error, "the watch over a collection could not be ended");
        }
    }
}

//! The rows of the sweep queue.

use std::time::SystemTime;

use orlop_base::retry::{Jitter, RetryPolicy};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::db::Tx;
use crate::sweep::SweepKind;
use crate::time::from_nanos;
use crate::{Db, Error};

/// Seconds for what is just in use, an hour at most for what will need somebody to look.
const RETRY: RetryPolicy = RetryPolicy {
    initial: std::time::Duration::from_secs(1),
    ceiling_max: std::time::Duration::from_secs(3600),
    retry_after_max: std::time::Duration::ZERO,
    attempts_max: u32::MAX,
};

const SELECT: &str =
    "SELECT id, kind, scope, key, bytes, attempts, queued_at, next_try_at, last_error FROM sweeps";

/// Something whose last record is gone and whose bytes are not, yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueItem {
    pub(super) id: i64,
    pub(super) sweep: SweepKind,
    /// The snapshotter of a snapshot, else empty.
    pub scope: String,
    /// A digest or a number; empty for what a snapshotter put aside.
    pub key: String,
    /// What it takes on disk, where that is known; else 0.
    pub bytes: u64,
    /// How often its removal failed.
    pub attempts: u32,
    /// When its last record went.
    pub queued_at: SystemTime,
    /// When it is tried again.
    pub next_try_at: SystemTime,
    /// Why it is still there.
    pub last_error: Option<String>,
}

impl QueueItem {
    /// `content`, `ingest`, `snapshot`, `leftovers` or `mount`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.sweep.as_str()
    }

    /// The key as logs and events spell it.
    #[must_use]
    pub fn name(&self) -> String {
        match self.sweep {
            SweepKind::Blob | SweepKind::Ingest | SweepKind::Mount => self.key.clone(),
            SweepKind::Snapshot => format!("{}/{}", self.scope, self.key),
            SweepKind::Leftovers => self.scope.clone(),
        }
    }
}

/// The sweep queue as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// How many entries there are.
    pub items: u64,
    /// What they take on disk, as far as it is known.
    pub bytes: u64,
    /// How many failed at least once.
    pub failing: u64,
    /// When the first of them is tried next.
    pub next_try_at: Option<SystemTime>,
    /// The entries in the order they came, at most as many as were asked for.
    pub first: Vec<QueueItem>,
}

/// The queue's figures and its first `limit` entries; those that fail come first.
pub(super) fn status(db: &Db, limit: usize) -> Result<QueueStatus, Error> {
    let failed = Error::database("read the sweep queue");
    db.read("read the sweep queue", |connection| {
        let mut status = connection
            .prepare_cached(
                "SELECT count(*), total(bytes), total(attempts > 0), min(next_try_at) FROM sweeps",
            )
            .and_then(|mut select| {
                select.query_row([], |row| {
                    let (bytes, failing): (f64, f64) = (row.get(1)?, row.get(2)?);
                    let next: Option<i64> = row.get(3)?;
                    Ok(QueueStatus {
                        items: row.get::<_, i64>(0)?.unsigned_abs(),
                        bytes: whole(bytes),
                        failing: whole(failing),
                        next_try_at: next.map(from_nanos),
                        first: Vec::new(),
                    })
                })
            })
            .map_err(failed)?;
        let sql = format!("{SELECT} ORDER BY attempts > 0 DESC, id LIMIT ?1");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        status.first = items(connection, &sql, params![limit])?;
        Ok(status)
    })
}

/// The newest entry but those of what was put aside. Numbers of entries are never used twice.
pub(super) fn newest(connection: &Connection) -> Result<Option<i64>, Error> {
    connection
        .prepare_cached("SELECT max(id) FROM sweeps WHERE kind <> ?1")
        .and_then(|mut select| select.query_row([SweepKind::Leftovers as u8], |row| row.get(0)))
        .map_err(Error::database("read the sweep queue"))
}

/// At most `limit` entries after `after` and up to `newest` whose time has come by `now`, in the order they came.
pub(super) fn due(
    connection: &Connection,
    now: i64,
    (after, newest): (i64, i64),
    limit: usize,
) -> Result<Vec<QueueItem>, Error> {
    let sql = format!(
        "{SELECT} WHERE id > ?1 AND id <= ?2 AND next_try_at <= ?3 AND kind <> {} ORDER BY id LIMIT ?4",
        SweepKind::Leftovers as u8
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    items(connection, &sql, params![after, newest, now, limit])
}

/// What snapshotters put aside, whether its time has come or not.
pub(super) fn leftovers(connection: &Connection) -> Result<Vec<QueueItem>, Error> {
    let sql = format!("{SELECT} WHERE kind = ?1 ORDER BY id");
    items(connection, &sql, params![SweepKind::Leftovers as u8])
}

/// Entries for what a text can name: a digest, a number, or `SNAPSHOTTER/NUMBER`.
pub(super) fn named(connection: &Connection, text: &str) -> Result<Vec<QueueItem>, Error> {
    let sql = format!("{SELECT} WHERE key = ?1 OR scope || '/' || key = ?1 ORDER BY id");
    items(connection, &sql, params![text])
}

/// When the next entry is to be tried.
pub(super) fn next_try(connection: &Connection) -> Result<Option<i64>, Error> {
    connection
        .prepare_cached("SELECT min(next_try_at) FROM sweeps")
        .and_then(|mut select| select.query_row([], |row| row.get(0)).optional())
        .map(Option::flatten)
        .map_err(Error::database("read the sweep queue"))
}

/// Takes an entry off that has been dealt with. One queued anew has another id and stays.
pub(super) fn finish(tx: &Tx<'_>, item: &QueueItem) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM sweeps WHERE id = ?1")
        .and_then(|mut delete| delete.execute([item.id]))
        .map_err(Error::database("finish a sweep"))?;
    Ok(())
}

/// Puts an entry off after a failure, for longer each time.
pub(super) fn postpone(
    tx: &Tx<'_>,
    item: &QueueItem,
    (now, error): (i64, &str),
    jitter: &mut Jitter,
) -> Result<(), Error> {
    let attempts = item.attempts.saturating_add(1);
    // Half the ceiling at least, so that what is in use is not asked for in a circle.
    let ceiling = RETRY.ceiling(attempts) / 2;
    let wait = i64::try_from((ceiling + jitter.up_to(ceiling)).as_nanos()).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "UPDATE sweeps SET attempts = ?2, next_try_at = ?3, last_error = ?4 WHERE id = ?1",
    )
    .and_then(|mut update| {
        update.execute(params![item.id, attempts, now.saturating_add(wait), error])
    })
    .map_err(Error::database("put a sweep off"))?;
    Ok(())
}

fn items(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<QueueItem>, Error> {
    let failed = Error::database("read the sweep queue");
    let mut select = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = select.query(values).map_err(failed)?;
    let mut items = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        items.push(item(row)?);
    }
    Ok(items)
}

fn item(row: &Row<'_>) -> Result<QueueItem, Error> {
    let failed = Error::database("read the sweep queue");
    let (id, kind): (i64, i64) = (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
    let sweep = match kind {
        1 => SweepKind::Blob,
        2 => SweepKind::Ingest,
        3 => SweepKind::Snapshot,
        4 => SweepKind::Leftovers,
        5 => SweepKind::Mount,
        _ => {
            return Err(Error::Corrupt {
                table: "sweeps",
                subject: id.to_string(),
                reason: format!("kind {kind} is not known"),
            });
        }
    };
    let columns = || -> rusqlite::Result<QueueItem> {
        Ok(QueueItem {
            id,
            sweep,
            scope: row.get(2)?,
            key: row.get(3)?,
            bytes: u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0),
            attempts: row.get(5)?,
            queued_at: from_nanos(row.get(6)?),
            next_try_at: from_nanos(row.get(7)?),
            last_error: row.get(8)?,
        })
    };
    columns().map_err(failed)
}

/// A sum that SQLite gives as a float so that it cannot overflow.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a sum of sizes is not negative, and `as` stops at the largest number"
)]
fn whole(sum: f64) -> u64 {
    sum as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use orlop_base::clock::{ManualClock, SharedClock};

    use super::*;
    use crate::{Backends, sweep};

    #[test]
    fn what_is_queued_after_the_rows_were_made_durable_waits_for_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(ManualClock::new());
        let db = Db::open(&folder.path().join("meta.db"), clock, Backends::default()).unwrap();
        let queue = |kind, key: &str| {
            db.write_relaxed("queue", |tx| sweep::enqueue(tx, kind, ("s", key), 0))
                .unwrap();
        };
        assert_eq!(db.read("look", newest).unwrap(), None);
        queue(SweepKind::Snapshot, "1");
        queue(SweepKind::Leftovers, "");
        let newest = db.read("look", newest).unwrap().unwrap();
        queue(SweepKind::Snapshot, "2");
        let due = db.read("look", |connection| {
            due(connection, i64::MAX, (0, newest), 10)
        });
        let keys: Vec<_> = due.unwrap().into_iter().map(|item| item.key).collect();
        assert_eq!(keys, ["1"]);
    }
}

//! What is being moved, on disk: two tables of a database of their own, `tier.db`.
//!
//! Crash: a move is on record before its first effect and until after its last one; each step is recorded after its
//! effect and synced. Ordering: a digest has one move at a time. What has ended stays for [`KEPT_DAYS`], as a bill.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orlop_types::Digest;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::machine::Step;
use crate::tier::{ClassName, Move, Place};

/// How long moves that have ended are remembered.
const KEPT_DAYS: u64 = 90;

/// How long to wait for another connection to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS tier_move (
    digest TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    image TEXT NOT NULL,
    origin TEXT NOT NULL,
    target TEXT NOT NULL,
    dollars REAL NOT NULL,
    step INTEGER NOT NULL,
    life TEXT NOT NULL,
    begun_ms INTEGER NOT NULL,
    next_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS tier_done (
    digest TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    origin TEXT NOT NULL,
    target TEXT NOT NULL,
    dollars REAL NOT NULL,
    outcome TEXT NOT NULL,
    ended_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS tier_done_ended ON tier_done (ended_ms);
";

/// Why a journal cannot be used: what the database said.
pub type JournalError = rusqlite::Error;

/// The journal of moves.
#[derive(Debug)]
pub struct Journal {
    connection: Mutex<Connection>,
}

/// A move that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// Which blob.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// For whose sake.
    pub image: String,
    /// Where it was.
    pub from: Place,
    /// Where it should be.
    pub to: Place,
    /// What the move costs, in dollars.
    pub dollars: f64,
    /// When it was decided.
    pub begun: SystemTime,
    /// When to go on.
    pub next: SystemTime,
    /// How often it failed.
    pub attempts: u32,
    /// How it failed last.
    pub error: Option<String>,
    pub(super) step: Step,
    /// Who was at it.
    pub(super) life: String,
}

impl From<&Move<Digest>> for Entry {
    fn from(one: &Move<Digest>) -> Self {
        Self {
            digest: one.blob,
            bytes: one.bytes,
            image: one.image.clone(),
            from: one.from.clone(),
            to: one.to.clone(),
            dollars: one.costs,
        }
    }
}

/// A move to be entered.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Which blob.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// For whose sake.
    pub image: String,
    /// Where it is.
    pub from: Place,
    /// Where it should be.
    pub to: Place,
    /// What the move costs, in dollars.
    pub dollars: f64,
}

impl Journal {
    /// Opens the journal at `path`, or begins it.
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(TABLES)?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    /// Enters moves, all or none; passes over blobs that are being moved already. Returns how many were entered.
    pub(super) fn enter(
        &self,
        entries: &[Entry],
        life: &str,
        now: SystemTime,
    ) -> rusqlite::Result<usize> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let mut entered = 0;
        for entry in entries {
            entered += transaction
                .prepare_cached(
                    "INSERT OR IGNORE INTO tier_move
                     (digest, bytes, image, origin, target, dollars, step, life, begun_ms, next_ms, attempts)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, 0)",
                )?
                .execute(params![
                    entry.digest.to_string(),
                    signed(entry.bytes),
                    entry.image,
                    place_text(&entry.from),
                    place_text(&entry.to),
                    entry.dollars,
                    Step::Begun as i64,
                    life,
                    millis(now),
                ])?;
        }
        transaction.commit()?;
        Ok(entered)
    }

    /// All moves that have not ended, the earliest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn pending(&self) -> rusqlite::Result<Vec<Pending>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT digest, bytes, image, origin, target, dollars, step, life, begun_ms, next_ms, attempts, error
             FROM tier_move ORDER BY begun_ms, rowid",
        )?;
        let rows = statement.query_map([], pending)?;
        // A row that nobody understands was written by a newer version: it waits for one.
        Ok(rows
            .collect::<rusqlite::Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// Records that a step was done, by whom, and that the next one may follow at once.
    pub(super) fn step(&self, digest: &Digest, step: Step, life: &str) -> rusqlite::Result<()> {
        self.lock()
            .prepare_cached("UPDATE tier_move SET step = ?2, life = ?3 WHERE digest = ?1")?
            .execute(params![digest.to_string(), step as i64, life])?;
        Ok(())
    }

    /// Records that a move goes on later, and why, if it failed.
    pub(super) fn postpone(
        &self,
        digest: &Digest,
        next: SystemTime,
        error: Option<&str>,
    ) -> rusqlite::Result<()> {
        self.lock()
            .prepare_cached(
                "UPDATE tier_move SET next_ms = ?2, error = ?3, attempts = attempts + (?3 IS NOT NULL)
                 WHERE digest = ?1",
            )?
            .execute(params![digest.to_string(), millis(next), error])?;
        Ok(())
    }

    /// Ends a move. What it cost stays on record.
    pub(super) fn close(
        &self,
        digest: &Digest,
        outcome: &str,
        now: SystemTime,
    ) -> rusqlite::Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let digest = digest.to_string();
        transaction.execute(
            "INSERT INTO tier_done (digest, bytes, origin, target, dollars, outcome, ended_ms)
             SELECT digest, bytes, origin, target, dollars, ?2, ?3 FROM tier_move WHERE digest = ?1",
            params![digest, outcome, millis(now)],
        )?;
        transaction.execute("DELETE FROM tier_move WHERE digest = ?1", [&digest])?;
        let oldest = now - Duration::from_secs(KEPT_DAYS * 86_400);
        transaction.execute(
            "DELETE FROM tier_done WHERE ended_ms < ?1",
            [millis(oldest)],
        )?;
        transaction.commit()
    }

    /// Dollars of moves that were begun or ended since then.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn spent_since(&self, since: SystemTime) -> rusqlite::Result<f64> {
        let spent = self
            .lock()
            .prepare_cached(
                "SELECT (SELECT coalesce(sum(dollars), 0.0) FROM tier_done WHERE ended_ms >= ?1)
                      + (SELECT coalesce(sum(dollars), 0.0) FROM tier_move)",
            )?
            .query_row([millis(since)], |row| row.get(0))
            .optional()?;
        Ok(spent.unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic of another holder has rolled its transaction back.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row, or nothing if this version does not understand it.
fn pending(row: &Row<'_>) -> rusqlite::Result<Option<Pending>> {
    let digest: String = row.get(0)?;
    let (from, to): (String, String) = (row.get(3)?, row.get(4)?);
    let known = (
        digest.parse(),
        place(&from),
        place(&to),
        Step::from_number(row.get(6)?),
    );
    let (Ok(digest), Some(from), Some(to), Some(step)) = known else {
        return Ok(None);
    };
    Ok(Some(Pending {
        digest,
        bytes: row.get::<_, i64>(1)?.unsigned_abs(),
        image: row.get(2)?,
        from,
        to,
        dollars: row.get(5)?,
        step,
        life: row.get(7)?,
        begun: moment(row.get(8)?),
        next: moment(row.get(9)?),
        attempts: row.get(10)?,
        error: row.get(11)?,
    }))
}

/// Names of classes come from object stores, so the two others are told apart by having no colon.
fn place_text(place: &Place) -> String {
    match place {
        Place::Local => "local".to_owned(),
        Place::Dropped => "dropped".to_owned(),
        Place::Stored(class) => format!("stored:{class}"),
    }
}

fn place(text: &str) -> Option<Place> {
    match text {
        "local" => Some(Place::Local),
        "dropped" => Some(Place::Dropped),
        other => {
            let class = other.strip_prefix("stored:")?;
            Some(Place::Stored(ClassName::new(class)))
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970; times before it are 1970.
fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn moment(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs())
}

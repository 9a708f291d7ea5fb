//! What the ledger tells: the most pulled, what changed between two windows, and how much each repository uses.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use rusqlite::{Connection, params};

use super::writer::DAY_SECONDS;
use crate::db::{Database, DatabaseError, from_column, moment, seconds};

/// A change by less than this, as a part of three, is none.
const STEADY_THIRDS: u64 = 3;

/// Days up to and with today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Seven.
    Week,
    /// Thirty.
    Month,
}

/// UTC days, counted from 1970-01-01, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    first: i64,
    last: i64,
}

/// What an order goes by, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Pulls.
    Requests,
    /// Bytes sent.
    Bytes,
}

/// How much within a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were served in whole.
    pub requests: u64,
    /// Bytes sent, of all requests.
    pub bytes: u64,
    /// Of the requests, those that upstream was asked for.
    pub upstream_requests: u64,
    /// Of the bytes, those that came from upstream.
    pub upstream_bytes: u64,
}

/// A digest and how much it was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopLine {
    /// The digest.
    pub digest: String,
    /// Whether it is a manifest.
    pub is_manifest: bool,
    /// The most bytes one request was sent: its size, if any was for the whole.
    pub size: u64,
    /// Who was asked for it, by name.
    pub repositories: Vec<String>,
    /// Within the window.
    pub counts: Counts,
}

/// A repository and how much it was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryLine {
    /// `registry/repository`.
    pub locator: String,
    /// Requests for manifests: pulls, or looks whether there is anything new.
    pub manifests: u64,
    /// Requests for blobs.
    pub blobs: u64,
    /// All of it.
    pub counts: Counts,
}

/// What became of something between two windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It was not asked for before.
    New,
    /// It is pulled half as often again, or more.
    Hotter,
    /// It is pulled a third less often, or less.
    Colder,
    /// It is not asked for any more.
    Gone,
    /// Neither.
    Steady,
}

/// A digest in two windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The digest.
    pub digest: String,
    /// The repositories it was asked for in, in either window.
    pub repositories: Vec<String>,
    /// What became of it.
    pub change: Change,
    /// Pulls in the window before.
    pub before: u64,
    /// Pulls in this one.
    pub now: u64,
}

/// Two windows beside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The window before begins here, at midnight UTC.
    pub from: SystemTime,
    /// This one begins here.
    pub middle: SystemTime,
    /// And ends here: now.
    pub until: SystemTime,
    /// What changed, by kind of change and then by how much. Steady ones are only counted.
    pub changed: Vec<Changed>,
    /// How many are steady.
    pub steady: u64,
}

/// Reads a ledger, also while it is written.
#[derive(Debug)]
pub struct LedgerReader {
    database: Database,
}

impl Window {
    /// How many days.
    #[must_use]
    pub const fn length_days(self) -> i64 {
        match self {
            Self::Week => 7,
            Self::Month => 30,
        }
    }

    pub(super) const fn days(self, today: i64) -> Days {
        Days {
            first: today - self.length_days() + 1,
            last: today,
        }
    }

    /// The window before.
    const fn days_before(self, today: i64) -> Days {
        self.days(today - self.length_days())
    }
}

impl LedgerReader {
    /// Opens the ledger of the folder `root` for reading.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(root: &Path) -> Result<Self, DatabaseError> {
        Ok(Self {
            database: Database::join(root, false)?,
        })
    }

    /// The most pulled within a window that ends `now`.
    ///
    /// # Errors
    /// The database fails.
    pub fn top(
        &self,
        window: Window,
        by: By,
        most: usize,
        now: SystemTime,
    ) -> Result<Vec<TopLine>, DatabaseError> {
        let days = window.days(day_of(now));
        self.database
            .read("add up days of", |db| top(db, days, by, most))
    }

    /// What changed from the window before to the one that ends `now`, the most changed first, so many of each kind.
    ///
    /// # Errors
    /// The database fails.
    pub fn compare(
        &self,
        window: Window,
        most: usize,
        now: SystemTime,
    ) -> Result<Comparison, DatabaseError> {
        let today = day_of(now);
        let (days, before) = (window.days(today), window.days_before(today));
        let all = self
            .database
            .read("compare days of", |db| both(db, days, before))?;
        let mut changed: Vec<Changed> = all;
        let steady = changed
            .iter()
            .filter(|one| one.change == Change::Steady)
            .count() as u64;
        changed.retain(|one| one.change != Change::Steady);
        changed.sort_by_key(|one| {
            (
                one.change,
                std::cmp::Reverse(one.before.abs_diff(one.now)),
                one.digest.clone(),
            )
        });
        let mut taken: BTreeMap<Change, usize> = BTreeMap::new();
        changed.retain(|one| {
            let count = taken.entry(one.change).or_default();
            *count += 1;
            *count <= most
        });
        self.name_repositories(&mut changed, before.first, days.last)?;
        Ok(Comparison {
            from: moment(before.first * DAY_SECONDS),
            middle: moment(days.first * DAY_SECONDS),
            until: now,
            changed,
            steady,
        })
    }

    /// The repositories of a window that ends `now`, those with the most bytes first.
    ///
    /// # Errors
    /// The database fails.
    pub fn repositories(
        &self,
        window: Window,
        most: usize,
        now: SystemTime,
    ) -> Result<Vec<RepositoryLine>, DatabaseError> {
        let days = window.days(day_of(now));
        self.database
            .read("add up repositories of", |db| repositories(db, days, most))
    }

    /// Pulls of every digest in the last seven and thirty days, for whoever decides where blobs are kept.
    ///
    /// # Errors
    /// The database fails.
    pub fn frequencies(
        &self,
        now: SystemTime,
    ) -> Result<BTreeMap<String, (u64, u64)>, DatabaseError> {
        let today = day_of(now);
        let (week, month) = (Window::Week.days(today), Window::Month.days(today));
        self.database.read("add up pulls of", |db| {
            let sql = "SELECT ledger_digests.digest,
                              sum(CASE WHEN day >= ?1 THEN requests ELSE 0 END), sum(requests)
                       FROM ledger_days JOIN ledger_digests ON id = ledger_days.digest
                       WHERE day BETWEEN ?2 AND ?3 GROUP BY ledger_days.digest";
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement.query_map([week.first, month.first, month.last], |row| {
                let counts = (from_column(row.get(1)?), from_column(row.get(2)?));
                Ok((row.get(0)?, counts))
            })?;
            rows.collect()
        })
    }

    fn name_repositories(
        &self,
        changed: &mut [Changed],
        first: i64,
        last: i64,
    ) -> Result<(), DatabaseError> {
        self.database.read("name repositories of", |db| {
            for one in changed {
                one.repositories = repositories_of(db, &one.digest, Days { first, last })?;
            }
            Ok(())
        })
    }
}

fn day_of(now: SystemTime) -> i64 {
    seconds(now).div_euclid(DAY_SECONDS)
}

pub(super) fn top(
    db: &Connection,
    days: Days,
    by: By,
    most: usize,
) -> rusqlite::Result<Vec<TopLine>> {
    let order = match by {
        By::Requests => "3 DESC, 4 DESC",
        By::Bytes => "4 DESC, 3 DESC",
    };
    let sql = format!(
        "SELECT ledger_digests.digest, kind, sum(requests), sum(bytes), sum(upstream_requests), sum(upstream_bytes), size
         FROM ledger_days JOIN ledger_digests ON id = ledger_days.digest
         WHERE day BETWEEN ?1 AND ?2 GROUP BY ledger_days.digest ORDER BY {order}, 1 LIMIT ?3"
    );
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map([days.first, days.last, most], |row| {
        Ok(TopLine {
            digest: row.get(0)?,
            is_manifest: row.get::<_, i64>(1)? == 0,
            size: row.get(6).map(from_column)?,
            repositories: Vec::new(),
            counts: Counts {
                requests: row.get(2).map(from_column)?,
                bytes: row.get(3).map(from_column)?,
                upstream_requests: row.get(4).map(from_column)?,
                upstream_bytes: row.get(5).map(from_column)?,
            },
        })
    })?;
    let mut lines = rows.collect::<rusqlite::Result<Vec<TopLine>>>()?;
    for line in &mut lines {
        line.repositories = repositories_of(db, &line.digest, days)?;
    }
    Ok(lines)
}

fn repositories_of(db: &Connection, digest: &str, days: Days) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT locator FROM ledger_repositories WHERE id IN
                   (SELECT repository FROM ledger_days WHERE day BETWEEN ?2 AND ?3
                    AND digest = (SELECT id FROM ledger_digests WHERE digest = ?1))
               ORDER BY locator";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params![digest, days.first, days.last], |row| row.get(0))?;
    rows.collect()
}

/// Every digest of either window.
fn both(db: &Connection, days: Days, before: Days) -> rusqlite::Result<Vec<Changed>> {
    let sql = "SELECT ledger_digests.digest,
                      sum(CASE WHEN day < ?2 THEN requests ELSE 0 END),
                      sum(CASE WHEN day >= ?2 THEN requests ELSE 0 END)
               FROM ledger_days JOIN ledger_digests ON id = ledger_days.digest
               WHERE day BETWEEN ?1 AND ?3 GROUP BY ledger_days.digest";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([before.first, days.first, days.last], |row| {
        let (before, now) = (row.get(1).map(from_column)?, row.get(2).map(from_column)?);
        Ok(Changed {
            digest: row.get(0)?,
            repositories: Vec::new(),
            change: change(before, now),
            before,
            now,
        })
    })?;
    rows.collect()
}

/// What counts as a change: half as much again, or a third less.
fn change(before: u64, now: u64) -> Change {
    match (before, now) {
        (0, 0) => Change::Steady,
        (0, _) => Change::New,
        (_, 0) => Change::Gone,
        (before, now) if now.saturating_mul(2) >= before.saturating_mul(STEADY_THIRDS) => {
            Change::Hotter
        }
        (before, now) if before.saturating_mul(2) >= now.saturating_mul(STEADY_THIRDS) => {
            Change::Colder
        }
        _ => Change::Steady,
    }
}

fn repositories(db: &Connection, days: Days, most: usize) -> rusqlite::Result<Vec<RepositoryLine>> {
    let sql = "SELECT locator,
                      sum(CASE WHEN kind = 0 THEN requests ELSE 0 END),
                      sum(CASE WHEN kind = 1 THEN requests ELSE 0 END),
                      sum(requests), sum(bytes), sum(upstream_requests), sum(upstream_bytes)
               FROM ledger_days
               JOIN ledger_repositories ON ledger_repositories.id = ledger_days.repository
               JOIN ledger_digests ON ledger_digests.id = ledger_days.digest
               WHERE day BETWEEN ?1 AND ?2 GROUP BY ledger_days.repository ORDER BY 5 DESC, 1 LIMIT ?3";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([days.first, days.last, most], |row| {
        let number = |column| row.get(column).map(from_column);
        Ok(RepositoryLine {
            locator: row.get(0)?,
            manifests: number(1)?,
            blobs: number(2)?,
            counts: Counts {
                requests: number(3)?,
                bytes: number(4)?,
                upstream_requests: number(5)?,
                upstream_bytes: number(6)?,
            },
        })
    })?;
    rows.collect()
}

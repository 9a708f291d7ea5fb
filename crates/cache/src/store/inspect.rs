//! Looking at a cache's folder from outside, while a server may be running on it; and asking that server for something.
//!
//! Reading sees what is committed. What is asked for is a row that the server honours within seconds
//! ([`super::Options::flush_every`]), or whoever opens the folder next.

use std::path::Path;
use std::time::SystemTime;

use orlop_base::clock::SharedClock;
use orlop_types::Digest;
use rusqlite::{Connection, Row, params};

use super::figures::Reason;
use super::rows::{self, digest_of};
use super::{Child, StoreError, pins};
use crate::db::{Database, from_column, moment, seconds};

/// Shorter beginnings of a digest name nothing.
const PREFIX_MIN: usize = 6;

/// A cache's folder, seen from outside.
#[derive(Debug)]
pub struct Inspection {
    database: Database,
    clock: SharedClock,
}

/// A line of the list of what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What upstream called it, if that is known.
    pub media_type: Option<String>,
    /// When it came.
    pub added: SystemTime,
    /// When it was used last, up to a few seconds.
    pub used: SystemTime,
    /// How often it was used, its coming included.
    pub uses: u64,
    /// Whether it is pinned, itself or by what names it.
    pub pinned: bool,
    /// The repositories that have it, by name.
    pub repositories: Vec<String>,
}

/// All that is known of one digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobInfo {
    /// What is kept; `None` if it is only spoken of.
    pub listed: Option<Listed>,
    /// When its bytes were last checked.
    pub checked: Option<SystemTime>,
    /// What it names.
    pub children: Vec<Child>,
    /// Manifests that name it.
    pub parents: Vec<Digest>,
    /// Tags that are it, as `locator:tag`.
    pub tags: Vec<String>,
    /// Its own pins.
    pub pins: Vec<Pin>,
    /// Why it was set aside, and when.
    pub aside: Option<(SystemTime, String)>,
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What.
    pub digest: Digest,
    /// Who.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
}

/// How a removal that was asked for stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Nobody has honoured it yet.
    Waiting,
    /// It is gone.
    Done,
}

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The most bytes on disk, as whoever had it open last was told.
    pub cap_bytes: u64,
    /// Seconds without use after which a blob goes; 0: never.
    pub ttl_seconds: u64,
    /// What has up to so many bytes is small.
    pub small_max_bytes: u64,
    /// Blobs and manifests.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the small.
    pub small_bytes: u64,
    /// Pinned bytes.
    pub pinned_bytes: u64,
    /// Fills that were begun and not finished.
    pub fills: u64,
    /// Damaged blobs that were set aside.
    pub aside: u64,
    /// Repositories that have something here.
    pub repositories: u64,
    /// Tags known.
    pub tags: u64,
    /// Blobs whose bytes were never checked again, or too long ago to know.
    pub unchecked: u64,
}

impl Inspection {
    /// Looks at the folder `root`.
    ///
    /// # Errors
    /// There is no cache, or its database cannot be read.
    pub fn open(root: &Path, clock: SharedClock) -> Result<Self, StoreError> {
        let database = Database::join(root, false)?;
        Ok(Self { database, clock })
    }

    /// The same, to ask for something.
    ///
    /// # Errors
    /// There is no cache, or its database cannot be written.
    pub fn open_to_ask(root: &Path, clock: SharedClock) -> Result<Self, StoreError> {
        let database = Database::join(root, true)?;
        Ok(Self { database, clock })
    }

    /// The whole of it.
    ///
    /// # Errors
    /// The database fails.
    pub fn status(&self) -> Result<Status, StoreError> {
        let status = self.database.read("count what is in", |db| {
            let setting = |name| -> rusqlite::Result<u64> {
                let text = rows::setting(db, name)?;
                Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
            };
            let number = |sql: &str| db.query_row(sql, [], |row| row.get(0).map(from_column));
            let small_max_bytes = setting("small_max_bytes")?;
            Ok(Status {
                cap_bytes: setting("cap_bytes")?,
                ttl_seconds: setting("ttl_seconds")?,
                small_max_bytes,
                blobs: number("SELECT count(*) FROM blobs")?,
                bytes: number("SELECT coalesce(sum(size), 0) FROM blobs")?,
                small_bytes: number(&format!(
                    "SELECT coalesce(sum(size), 0) FROM blobs WHERE size <= {small_max_bytes}"
                ))?,
                pinned_bytes: number(
                    "SELECT coalesce(sum(size), 0) FROM blobs WHERE digest IN (SELECT digest FROM pinned)",
                )?,
                fills: number("SELECT count(*) FROM fills")?,
                aside: number("SELECT count(*) FROM aside")?,
                repositories: number("SELECT count(DISTINCT repository) FROM links")?,
                tags: number("SELECT count(*) FROM tags")?,
                unchecked: number("SELECT count(*) FROM blobs WHERE checked_at IS NULL")?,
            })
        })?;
        Ok(status)
    }

    /// What is kept, the most recently used first, at most so many.
    ///
    /// # Errors
    /// The database fails.
    pub fn list(&self, most: usize) -> Result<Vec<Listed>, StoreError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let listed = self.database.read("list what is in", |db| {
            let sql = "SELECT digest, size, media_type, added_at, used_at, uses,
                              digest IN (SELECT digest FROM pinned)
                       FROM blobs ORDER BY used_at DESC, digest LIMIT ?1";
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement.query_map([most], listed)?;
            let listed = rows
                .filter_map(Result::transpose)
                .collect::<rusqlite::Result<Vec<_>>>()?;
            with_repositories(db, listed)
        })?;
        Ok(listed)
    }

    /// All that is known of a digest.
    ///
    /// # Errors
    /// The database fails.
    pub fn blob(&self, digest: &Digest) -> Result<BlobInfo, StoreError> {
        let text = digest.to_string();
        let info = self.database.read("look for a blob in", |db| {
            let sql = "SELECT digest, size, media_type, added_at, used_at, uses,
                              digest IN (SELECT digest FROM pinned), checked_at
                       FROM blobs WHERE digest = ?1";
            let mut statement = db.prepare_cached(sql)?;
            let mut found = statement.query([&text])?;
            let (row, checked) = match found.next()? {
                Some(row) => (listed(row)?, row.get::<_, Option<i64>>(7)?),
                None => (None, None),
            };
            let mut row = with_repositories(db, row.into_iter().collect())?;
            Ok(BlobInfo {
                listed: row.pop(),
                checked: checked.map(moment),
                children: rows::children(db, digest)?,
                parents: rows::digests(
                    db,
                    "SELECT DISTINCT parent FROM children WHERE digest = ?1 ORDER BY parent",
                    [&text],
                )?,
                tags: tags_of(db, &text)?,
                pins: pins_of(db, Some(&text))?,
                aside: aside_of(db, &text)?,
            })
        })?;
        Ok(info)
    }

    /// All pins, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        Ok(self
            .database
            .read("list the pins of", |db| pins_of(db, None))?)
    }

    /// The digests a person may mean: a digest, the beginning of one, or `registry/repository:tag`.
    ///
    /// # Errors
    /// The database fails.
    pub fn meant(&self, text: &str) -> Result<Vec<Digest>, StoreError> {
        if let Ok(digest) = text.parse() {
            return Ok(vec![digest]);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_prefix = hex.len() >= PREFIX_MIN && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let found = self.database.read("look for a name in", |db| {
            if is_prefix {
                let sql =
                    "SELECT digest FROM blobs WHERE digest >= ?1 AND digest < ?1 || 'g' LIMIT 8";
                let found = rows::digests(db, sql, [format!("sha256:{hex}")])?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            let Some((locator, tag)) = text.rsplit_once(':') else {
                return Ok(Vec::new());
            };
            Ok(rows::tag(db, locator, tag)?
                .map(|row| row.digest)
                .into_iter()
                .collect())
        })?;
        Ok(found)
    }

    /// Pins, as [`super::Store::pin`] does: whoever has the folder open knows within seconds, and takes it to heart at once
    /// where something is given up.
    ///
    /// # Errors
    /// The database fails.
    pub fn pin(&self, digest: &Digest, owner: &str, reason: &str) -> Result<(), StoreError> {
        let since = seconds(self.clock.wall());
        self.database.write("pin a blob in", |db| {
            pins::put(db, digest, (owner, reason), since)
        })?;
        Ok(())
    }

    /// Takes a pin back, or with no owner all pins of a digest. Returns how many.
    ///
    /// # Errors
    /// The database fails.
    pub fn unpin(&self, digest: &Digest, owner: Option<&str>) -> Result<usize, StoreError> {
        let removed = self.database.write("unpin a blob in", |db| match owner {
            Some(owner) => pins::take_back(db, digest, owner).map(usize::from),
            None => rows::run(
                db,
                "DELETE FROM pins WHERE digest = ?1",
                [digest.to_string()],
            ),
        })?;
        Ok(removed)
    }

    /// Asks whoever has the folder open to remove a blob.
    ///
    /// # Errors
    /// The database fails.
    pub fn ask_removal(&self, digest: &Digest) -> Result<(), StoreError> {
        let asked_at = seconds(self.clock.wall());
        self.database.write("ask for a removal in", |db| {
            let sql =
                "INSERT OR REPLACE INTO removals (digest, reason, asked_at) VALUES (?1, ?2, ?3)";
            rows::run(
                db,
                sql,
                params![digest.to_string(), Reason::Asked.as_str(), asked_at],
            )
        })?;
        Ok(())
    }

    /// How a removal that was asked for stands.
    ///
    /// # Errors
    /// The database fails.
    pub fn removal(&self, digest: &Digest) -> Result<Removal, StoreError> {
        let waits = self.database.read("look for a removal in", |db| {
            rows::exists(
                db,
                "SELECT 1 FROM removals WHERE digest = ?1",
                [digest.to_string()],
            )
        })?;
        Ok(if waits {
            Removal::Waiting
        } else {
            Removal::Done
        })
    }

    /// Asks whoever has the folder open to check a blob's bytes next; no digest means all.
    ///
    /// # Errors
    /// The database fails.
    pub fn ask_check(&self, digest: Option<&Digest>) -> Result<usize, StoreError> {
        let asked = self
            .database
            .write("ask for a check in", |db| match digest {
                Some(digest) => {
                    let sql = "UPDATE blobs SET checked_at = NULL WHERE digest = ?1";
                    rows::run(db, sql, [digest.to_string()])
                }
                None => rows::run(db, "UPDATE blobs SET checked_at = NULL", []),
            })?;
        Ok(asked)
    }
}

fn listed(row: &Row<'_>) -> rusqlite::Result<Option<Listed>> {
    let time = |column| row.get(column).map(moment);
    let Some(digest) = digest_of(row, 0)? else {
        return Ok(None);
    };
    Ok(Some(Listed {
        digest,
        size: row.get(1).map(from_column)?,
        media_type: row.get(2)?,
        added: time(3)?,
        used: time(4)?,
        uses: row.get(5).map(from_column)?,
        pinned: row.get(6)?,
        repositories: Vec::new(),
    }))
}

fn with_repositories(db: &Connection, mut all: Vec<Listed>) -> rusqlite::Result<Vec<Listed>> {
    let sql = "SELECT DISTINCT locator FROM holders JOIN repositories ON id = repository WHERE digest = ?1 ORDER BY locator";
    let mut statement = db.prepare_cached(sql)?;
    for one in &mut all {
        let names = statement.query_map([one.digest.to_string()], |row| row.get(0))?;
        one.repositories = names.collect::<rusqlite::Result<_>>()?;
    }
    Ok(all)
}

fn tags_of(db: &Connection, digest: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT locator || ':' || tag FROM tags JOIN repositories ON id = repository WHERE digest = ?1 ORDER BY 1";
    let mut statement = db.prepare_cached(sql)?;
    statement.query_map([digest], |row| row.get(0))?.collect()
}

fn pins_of(db: &Connection, digest: Option<&str>) -> rusqlite::Result<Vec<Pin>> {
    let sql = "SELECT digest, owner, reason, pinned_at FROM pins WHERE ?1 IS NULL OR digest = ?1
               ORDER BY pinned_at DESC, digest, owner";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([digest], |row| {
        let Some(digest) = digest_of(row, 0)? else {
            return Ok(None);
        };
        Ok(Some(Pin {
            digest,
            owner: row.get(1)?,
            reason: row.get(2)?,
            since: moment(row.get(3)?),
        }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

fn aside_of(db: &Connection, digest: &str) -> rusqlite::Result<Option<(SystemTime, String)>> {
    let mut statement = db.prepare_cached("SELECT since, reason FROM aside WHERE digest = ?1")?;
    let mut rows = statement.query([digest])?;
    let row = rows.next()?;
    row.map(|row| Ok((moment(row.get(0)?), row.get(1)?)))
        .transpose()
}

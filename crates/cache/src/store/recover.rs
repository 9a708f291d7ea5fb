//! Opening: bringing rows and files together after whatever happened.

use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use orlop_base::clock::SharedClock;
use orlop_base::telemetry::Throttle;
use orlop_content::{ContentError, ErrorKind as ContentKind, Expected};
use orlop_types::{Digest, IngestRef};
use rusqlite::{Connection, params};

use super::figures::Figures;
use super::fill::digest_of;
use super::rows::{self, BlobRow};
use super::shelf::{Kept, Shelf, Victim};
use super::{CONTENT, Inner, Options, StoreError, WARN_EVERY, lock};
use crate::db::{self, DatabaseError, to_column};

/// What the rows say.
#[derive(Debug, Default)]
struct Rows {
    blobs: Vec<BlobRow>,
    removals: Vec<Digest>,
    aside: Vec<Digest>,
    pinned: HashSet<Digest>,
}

/// What differs between rows and files.
#[derive(Debug, Default)]
struct Differences {
    adopted: Vec<BlobRow>,
    dropped: Vec<Digest>,
    damaged: Vec<(Digest, u64, String)>,
}

pub(super) fn open(root: &Path, options: Options, clock: SharedClock) -> Result<Inner, StoreError> {
    // What is kept may be of private repositories: it is nobody's business but the server's.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.map_err(|source| DatabaseError::Io {
        operation: "make",
        path: root.to_owned(),
        source,
    })?;
    let content = orlop_content::Store::open(&root.join(CONTENT))
        .map_err(StoreError::content("open the blobs of", root.display()))?;
    let (database, aside) = db::open_or_begin_anew(root, clock.wall())?;
    if let Some(aside) = aside {
        tell_of_damage(&aside);
    }
    let shelf = Shelf::new(options.cap_bytes, options.small_max_bytes);
    Ok(Inner {
        root: root.to_owned(),
        content,
        database: RwLock::new(Arc::new(database)),
        shelf: Mutex::new(shelf),
        left: Condvar::new(),
        pinned: Mutex::default(),
        stuck: Mutex::default(),
        is_behind: AtomicBool::new(false),
        is_damaged: AtomicBool::new(false),
        clock_offset: AtomicI64::new(i64::MIN),
        tidied: AtomicI64::new(i64::MIN),
        warned: Throttle::new(WARN_EVERY),
        clock,
        options,
        figures: Figures::default(),
    })
}

pub(super) fn tell_of_damage(aside: &Path) {
    tracing::error!(
        aside = %aside.display(),
        "the cache's database was damaged and is begun anew: tags, grants and pins are to be told again"
    );
}

impl Inner {
    /// Fills the shelf from rows and files. Returns what has no room any more.
    pub(super) fn settle_what_was_found(&self) -> Result<Vec<Victim>, StoreError> {
        let rows = match self.read_rows() {
            Err(error) if error.is_damage() => {
                self.renew_database()?;
                Rows::default()
            }
            other => other?,
        };
        self.finish_removals(&rows)?;
        let (kept, differences) = self.compare(rows.blobs, &rows.removals)?;
        self.apply(&differences);
        let mut victims = self.load_leftovers(&kept)?;
        victims.extend(self.load_blobs(kept, &rows.pinned));
        *lock(&self.pinned) = rows.pinned;
        Ok(victims)
    }

    fn read_rows(&self) -> Result<Rows, DatabaseError> {
        self.read("read the rows of", |db| {
            Ok(Rows {
                blobs: rows::blobs(db)?,
                removals: rows::digests(db, "SELECT digest FROM removals", [])?,
                aside: rows::digests(
                    db,
                    "SELECT digest FROM aside WHERE digest NOT IN (SELECT digest FROM blobs)",
                    [],
                )?,
                pinned: rows::pinned(db)?,
            })
        })
    }

    /// Removes and sets aside the files whose rows went before a crash.
    fn finish_removals(&self, rows: &Rows) -> Result<(), StoreError> {
        for digest in &rows.removals {
            let removed = self.content.remove(digest);
            removed.map_err(StoreError::content("remove", digest))?;
        }
        for digest in &rows.aside {
            match self.content.set_aside(digest) {
                Ok(_) => {}
                Err(error) if error.kind() == ContentKind::NotFound => {}
                Err(source) => return Err(StoreError::content("set aside", digest)(source)),
            }
        }
        let gone = rows.removals.clone();
        self.note("finish removals in", |db| {
            for digest in &gone {
                let digest = digest.to_string();
                rows::delete_blob(db, &digest)?;
                rows::run(db, "DELETE FROM removals WHERE digest = ?1", [&digest])?;
            }
            Ok(())
        });
        Ok(())
    }

    fn compare(
        &self,
        rows: Vec<BlobRow>,
        removed: &[Digest],
    ) -> Result<(Vec<BlobRow>, Differences), StoreError> {
        let removed: HashSet<_> = removed.iter().collect();
        let mut rows: HashMap<Digest, BlobRow> = rows
            .into_iter()
            .filter(|row| !removed.contains(&row.digest))
            .map(|row| (row.digest, row))
            .collect();
        let mut differences = Differences::default();
        let mut kept = Vec::new();
        let walked = self.content.walk();
        for found in walked.map_err(StoreError::content("list blobs below", self.root.display()))? {
            let info = match found {
                Ok(info) => info,
                Err(ContentError::Stray { path }) => {
                    tracing::warn!(path, "this is no blob, and is left alone");
                    continue;
                }
                Err(source) => {
                    return Err(
                        StoreError::content("list blobs below", self.root.display())(source),
                    );
                }
            };
            match rows.remove(&info.digest) {
                Some(row) if row.size == info.size_bytes => kept.push(row),
                Some(row) => {
                    let reason =
                        format!("it has {} bytes instead of {}", info.size_bytes, row.size);
                    differences
                        .damaged
                        .push((info.digest, info.size_bytes, reason));
                }
                None => {
                    let at = db::seconds(info.written_at).min(self.wall());
                    let row = BlobRow {
                        digest: info.digest,
                        size: info.size_bytes,
                        media_type: None,
                        added_at: at,
                        used_at: self.wall(),
                        uses: 0,
                    };
                    differences.adopted.push(row.clone());
                    kept.push(row);
                }
            }
        }
        differences.dropped = rows.into_keys().collect();
        Ok((kept, differences))
    }

    fn apply(&self, differences: &Differences) {
        let since = self.wall();
        for (digest, _, reason) in &differences.damaged {
            tracing::error!(%digest, reason, "a cached blob is damaged: set aside, and fetched anew when it is asked for");
            self.figures.damaged.inc();
            let aside = self.content.set_aside(digest).map(drop);
            let gone = aside.or_else(|_| self.content.remove(digest).map(drop));
            if let Err(error) = gone {
                tracing::error!(%digest, %error, "a damaged blob can neither be set aside nor removed");
            }
        }
        if !differences.adopted.is_empty() || !differences.dropped.is_empty() {
            let (adopted, dropped) = (differences.adopted.len(), differences.dropped.len());
            tracing::info!(
                adopted,
                dropped,
                "rows and files of the cache were brought together"
            );
        }
        self.note("bring rows and files together in", |db| {
            for row in &differences.adopted {
                rows::put_blob(db, row, None)?;
            }
            for digest in &differences.dropped {
                rows::delete_blob(db, &digest.to_string())?;
            }
            for (digest, size, reason) in &differences.damaged {
                let digest = digest.to_string();
                rows::delete_blob(db, &digest)?;
                let sql = "INSERT OR REPLACE INTO aside (digest, size, since, reason) VALUES (?1, ?2, ?3, ?4)";
                rows::run(db, sql, params![digest, to_column(*size), since, reason])?;
            }
            self.tell_settings(db)
        });
    }

    /// Tells those who look from outside what was asked for.
    pub(super) fn tell_settings(&self, db: &Connection) -> rusqlite::Result<()> {
        let options = &self.options;
        rows::set(db, "cap_bytes", &options.cap_bytes.to_string())?;
        rows::set(db, "small_max_bytes", &options.small_max_bytes.to_string())?;
        let ttl = options.ttl.map_or(0, |ttl| ttl.as_secs());
        rows::set(db, "ttl_seconds", &ttl.to_string())
    }

    /// Fills that were not finished, and what was set aside: they take room.
    fn load_leftovers(&self, kept: &[BlobRow]) -> Result<Vec<Victim>, StoreError> {
        let is_kept: HashSet<_> = kept.iter().map(|row| row.digest).collect();
        let failed = || StoreError::content("list fills below", self.root.display());
        let mut victims = Vec::new();
        for status in self.content.statuses().map_err(failed())? {
            let digest = digest_of(&status.reference).filter(|digest| !is_kept.contains(digest));
            let end = match digest {
                Some(_) => self.reach_of(&status.reference),
                None => 0,
            };
            match digest {
                Some(digest) if end > 0 => {
                    let now = self.now();
                    victims.extend(self.shelf().load_parked(digest, end, now));
                }
                Some(_) | None => {
                    let aborted = self.content.abort(&status.reference);
                    aborted.map_err(failed())?;
                }
            }
        }
        let parked: HashSet<_> = self.shelf().parked(i64::MAX).into_iter().collect();
        self.note("forget finished fills in", |db| {
            for digest in rows::digests(db, "SELECT digest FROM fills", [])? {
                if !parked.contains(&digest) {
                    rows::run(
                        db,
                        "DELETE FROM fills WHERE digest = ?1",
                        [digest.to_string()],
                    )?;
                }
            }
            Ok(())
        });
        let aside = self.content.aside();
        for (digest, bytes) in aside.map_err(StoreError::content(
            "list damaged blobs below",
            self.root.display(),
        ))? {
            let since = self.wall();
            victims.extend(self.shelf().load_aside(&digest, bytes));
            self.note("note a damaged blob in", |db| {
                let sql = "INSERT OR IGNORE INTO aside (digest, size, since, reason)
                           VALUES (?1, ?2, ?3, 'the row that said why was lost')";
                rows::run(
                    db,
                    sql,
                    params![digest.to_string(), to_column(bytes), since],
                )
            });
        }
        Ok(victims)
    }

    /// How far the bytes of a fill that was left reach. Opening it cuts off what was written and not checkpointed.
    fn reach_of(&self, reference: &IngestRef) -> u64 {
        let opened = self.content.ingest(reference, Expected::default());
        opened.map_or(0, |ingest| ingest.extents().end())
    }

    fn load_blobs(&self, mut kept: Vec<BlobRow>, pinned: &HashSet<Digest>) -> Vec<Victim> {
        kept.sort_by_key(|row| (row.used_at, row.digest));
        let (now, wall) = (self.now(), self.wall());
        let mut shelf = self.shelf();
        let mut victims = Vec::new();
        // What is pinned first: the rest has what it leaves.
        let (of_pins, others): (Vec<_>, Vec<_>) = kept
            .into_iter()
            .partition(|row| pinned.contains(&row.digest));
        for row in of_pins.into_iter().chain(others) {
            let is_pinned = pinned.contains(&row.digest);
            victims.extend(shelf.load(Kept::from_row(row, now, wall), is_pinned));
        }
        victims
    }

    /// Begins a new database in the place of a damaged or lost one. All rows are to be written anew.
    pub(super) fn renew_database(&self) -> Result<(), DatabaseError> {
        let mut place = self
            .database
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if place.is_in_place() {
            let aside = db::put_aside(&self.root, self.clock.wall())?;
            tell_of_damage(&aside);
        } else {
            tracing::error!(path = %place.path().display(), "the cache's database is gone and is begun anew");
        }
        let (database, _) = db::open_or_begin_anew(&self.root, self.clock.wall())?;
        *place = Arc::new(database);
        Ok(())
    }
}

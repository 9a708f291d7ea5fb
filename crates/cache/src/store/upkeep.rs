//! What has to be done from time to time: uses written down, rows of other processes honoured, what is old given up, a
//! broken database replaced, and the scrub.
//!
//! Cancellation: a step that began runs to its end. Crash: each step may be repeated.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orlop_base::blocking;
use orlop_base::task::{TaskKind, TaskTree};
use orlop_types::Digest;
use rusqlite::params;

use super::figures::Reason;
use super::scrub::{Scrub, Scrubbed};
use super::{Inner, Store, StoreError, rows};
use crate::db::to_column;

const UPKEEP: TaskKind = TaskKind::dropped("cache-upkeep");
const SCRUB: TaskKind = TaskKind::dropped("cache-scrub");

/// The time of day is taken to have been set when it moved so much against the boot clock.
const CLOCK_SET_SECONDS: i64 = 3600;

/// Bytes hashed in one go; between two the scrub rests.
const SCRUB_STEP_BYTES: u64 = 1 << 20;

/// How long the scrub waits when all is checked, or the disk fails.
const SCRUB_REST: Duration = Duration::from_secs(60);

/// How often what grows slowly is looked through.
const TIDY_SECONDS: i64 = 900;

/// Tags nobody asked upstream about for so long, and whose manifest is not here, are forgotten.
const TAGS_TTL_SECONDS: i64 = 90 * 86_400;

impl Store {
    /// Starts what has to be done from time to time. Once, after opening.
    pub fn spawn_upkeep(&self, tasks: &TaskTree) {
        let store = self.clone();
        drop(tasks.spawn(UPKEEP, |_| async move {
            loop {
                let pause = store.inner.options.flush_every;
                store.inner.clock.sleep(pause).await;
                let one = store.clone();
                let done = blocking::run("cache upkeep", move || one.tick()).await;
                if let Ok(Err(error)) = done {
                    tracing::warn!(error = %orlop_types::chain(&error), "upkeep of the cache failed; it is tried again");
                }
            }
        }));
        if self.inner.options.scrub_bytes_per_second > 0 {
            let store = self.clone();
            drop(tasks.spawn(SCRUB, |_| scrub_for_ever(store)));
        }
    }

    /// One round of upkeep, as [`Store::spawn_upkeep`] does it every few seconds.
    ///
    /// # Errors
    /// The database fails. What does not need it was done.
    pub fn tick(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.retry_stuck();
        inner.expire();
        inner.mend_database()?;
        inner.flush()?;
        inner.refresh_pins()?;
        inner.honour_removals()?;
        inner.forget_old_rows()
    }
}

async fn scrub_for_ever(store: Store) {
    let mut scrub = Scrub::new(&store);
    loop {
        let step = move || {
            let done = scrub.step(SCRUB_STEP_BYTES);
            (scrub, done)
        };
        let Ok((given_back, done)) = blocking::run("cache scrub", step).await else {
            return;
        };
        scrub = given_back;
        let rate = store.inner.options.scrub_bytes_per_second;
        let pause = match done {
            Ok(Scrubbed::Nothing) => SCRUB_REST,
            Ok(
                Scrubbed::Read(bytes)
                | Scrubbed::Sound { bytes, .. }
                | Scrubbed::Damaged { bytes, .. },
            ) => Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1)),
            Err(error) => {
                tracing::warn!(error = %orlop_types::chain(&error), "the scrub of the cache rests");
                SCRUB_REST
            }
        };
        store.inner.clock.sleep(pause).await;
    }
}

impl Inner {
    /// Writes down what was used since the last time; all of it after the time of day was set, so that no row's time is of
    /// another clock than the next opening's.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let (now, wall) = (self.now(), self.wall());
        let offset = wall.saturating_sub(now);
        let before = self.clock_offset.swap(offset, Ordering::Relaxed);
        let was_set = before != i64::MIN && (offset - before).abs() > CLOCK_SET_SECONDS;
        if was_set {
            tracing::warn!(
                seconds = offset - before,
                "the time of day was set; uses are counted on from there"
            );
        }
        let dirty = self.shelf().take_dirty(was_set);
        if dirty.is_empty() {
            return Ok(());
        }
        let written = self.write("write down uses in", |db| {
            for kept in &dirty {
                let row = kept.to_row(now, wall);
                let sql = "UPDATE blobs SET used_at = ?2, uses = ?3 WHERE digest = ?1";
                rows::run(
                    db,
                    sql,
                    params![row.digest.to_string(), row.used_at, to_column(row.uses)],
                )?;
            }
            Ok(())
        });
        if let Err(error) = written {
            let mut shelf = self.shelf();
            for kept in &dirty {
                shelf.mark_dirty(&kept.digest);
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Replaces a database that is damaged or gone, and writes all rows anew if some could not be written.
    fn mend_database(&self) -> Result<(), StoreError> {
        let is_damaged = self.is_damaged.swap(false, Ordering::Relaxed);
        if is_damaged || !self.database().is_in_place() {
            self.is_behind.store(true, Ordering::Relaxed);
            if let Err(error) = self.renew_database() {
                self.is_damaged.store(is_damaged, Ordering::Relaxed);
                return Err(error.into());
            }
        }
        if !self.take_behind() {
            return Ok(());
        }
        let (now, wall) = (self.now(), self.wall());
        let all = self.shelf().take_dirty(true);
        let written = self.write("write all rows anew in", |db| {
            for kept in &all {
                rows::put_blob(db, &kept.to_row(now, wall), None)?;
            }
            self.tell_settings(db)?;
            let kept: HashSet<_> = all.iter().map(|kept| kept.digest).collect();
            for digest in rows::digests(db, "SELECT digest FROM blobs", [])? {
                if !kept.contains(&digest) {
                    rows::delete_blob(db, &digest.to_string())?;
                }
            }
            Ok(())
        });
        if let Err(error) = written {
            self.is_behind.store(true, Ordering::Relaxed);
            return Err(error.into());
        }
        tracing::info!(
            blobs = all.len(),
            "the cache's database is up to date again"
        );
        Ok(())
    }

    /// Removes what the command line asked for.
    fn honour_removals(&self) -> Result<(), StoreError> {
        let asked = self.read("read removals of", |db| {
            rows::digests(
                db,
                "SELECT digest FROM removals WHERE reason = ?1",
                [Reason::Asked.as_str()],
            )
        })?;
        for digest in asked {
            self.take_out(&digest, Reason::Asked);
            let text = digest.to_string();
            self.write("finish a removal in", |db| {
                rows::run(db, "DELETE FROM removals WHERE digest = ?1", [&text])
            })?;
        }
        Ok(())
    }

    /// Gives up what was not used for too long.
    fn expire(&self) {
        let now = self.now();
        let before =
            |age: Duration| now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        if let Some(ttl) = self.options.ttl {
            let victims = self.shelf().expire(before(ttl));
            self.remove(victims, Reason::Expired);
        }
        let leftovers = self.options.leftovers_ttl;
        let nobody = Digest::sha256([0; 32]);
        self.drop_leftovers(before(leftovers), &nobody);
        let age = i64::try_from(leftovers.as_secs()).unwrap_or(i64::MAX);
        self.drop_aside(self.wall().saturating_sub(age));
    }

    fn forget_old_rows(&self) -> Result<(), StoreError> {
        let now = self.wall();
        self.write("forget old rows of", |db| {
            rows::run(db, "DELETE FROM grants WHERE until <= ?1", [now])
        })?;
        // The rest grows slowly, and looking for it reads whole tables.
        let before = self.tidied.load(Ordering::Relaxed);
        if self.now().saturating_sub(before) < TIDY_SECONDS {
            return Ok(());
        }
        self.tidied.store(self.now(), Ordering::Relaxed);
        self.write("forget old names of", |db| {
            let sql = "DELETE FROM tags WHERE checked_at < ?1 AND digest NOT IN (SELECT digest FROM blobs)";
            rows::run(db, sql, [now.saturating_sub(TAGS_TTL_SECONDS)])?;
            let sql = "DELETE FROM repositories WHERE id NOT IN (SELECT repository FROM links
                           UNION SELECT repository FROM tags UNION SELECT repository FROM grants
                           UNION SELECT repository FROM fills)";
            rows::run(db, sql, [])
        })?;
        Ok(())
    }
}

//! Giving up: rows first, then files, and what crashed in between is finished at the next opening.

use std::sync::atomic::Ordering;

use orlop_content::ContentError;
use orlop_types::Digest;
use rusqlite::params;

use super::figures::Reason;
use super::fill::reference_of;
use super::rows;
use super::shelf::{Kept, Victim};
use super::{Inner, Store, StoreError, lock};

/// What came of [`Store::remove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Gone(u64),
    NotThere,
}

impl Store {
    /// Removes a blob, also a pinned one. Those who read it may read on. Returns its bytes, `None` if it was not here.
    ///
    /// # Errors
    /// The disk fails; it is not found any more in any case, and tried again.
    pub fn remove(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        match self.inner.take_out(digest, Reason::Asked) {
            Taken::Gone(bytes) => Ok(Some(bytes)),
            Taken::NotThere => Ok(None),
        }
    }
}

impl Store {
    /// Sets a blob aside whose bytes somebody found to be wrong or unreadable while sending them: it is not found any more,
    /// and fetched anew when it is asked for.
    pub fn set_aside(&self, digest: &Digest, why: &str) {
        self.inner.set_aside(digest, why);
    }
}

impl Inner {
    /// Takes one blob out, whatever the policy and pins say.
    pub(super) fn take_out(&self, digest: &Digest, reason: Reason) -> Taken {
        let victim = self.shelf().take(digest);
        match victim {
            None => Taken::NotThere,
            Some(victim) => {
                self.remove_all(vec![victim], reason, false);
                Taken::Gone(victim.size)
            }
        }
    }

    /// Removes rows and files of what the shelf gave up. What turns out to be pinned stays, and others go for it.
    pub(super) fn remove(&self, victims: Vec<Victim>, reason: Reason) {
        self.remove_all(victims, reason, true);
    }

    fn remove_all(&self, victims: Vec<Victim>, reason: Reason, heeds_pins: bool) {
        let mut victims = victims;
        while !victims.is_empty() {
            let pinned = self.delete_rows(&victims, reason, heeds_pins);
            let mut next = Vec::new();
            for victim in &victims {
                let row = pinned.iter().find(|kept| kept.digest == victim.digest);
                match row {
                    Some(kept) => next.extend(self.shelf().spared(victim, Some(kept.clone()))),
                    None => next.extend(self.remove_file(victim, reason)),
                }
            }
            let gone: Vec<_> = victims
                .iter()
                .filter(|victim| !pinned.iter().any(|kept| kept.digest == victim.digest))
                .map(|victim| victim.digest.to_string())
                .collect();
            self.note("note that files are gone in", |db| {
                for digest in &gone {
                    rows::run(db, "DELETE FROM removals WHERE digest = ?1", [digest])?;
                }
                Ok(())
            });
            self.left.notify_all();
            if !pinned.is_empty()
                && let Err(error) = self.refresh_pins()
            {
                tracing::warn!(error = %orlop_types::chain(&error), "pins are looked at again later");
            }
            victims = next;
        }
    }

    /// Deletes the rows of victims, and says which files are to go. Returns those that somebody pinned meanwhile, whose
    /// rows stay.
    fn delete_rows(&self, victims: &[Victim], reason: Reason, heeds_pins: bool) -> Vec<Kept> {
        let asked_at = self.wall();
        let deleted = self.note("give up blobs in", |db| {
            let pinned = if heeds_pins {
                rows::pinned(db)?
            } else {
                Default::default()
            };
            for victim in victims.iter().filter(|victim| !pinned.contains(&victim.digest)) {
                let digest = victim.digest.to_string();
                rows::delete_blob(db, &digest)?;
                let sql = "INSERT OR REPLACE INTO removals (digest, reason, asked_at) VALUES (?1, ?2, ?3)";
                rows::run(db, sql, params![digest, reason.as_str(), asked_at])?;
            }
            let of_victims = victims.iter().filter(|victim| pinned.contains(&victim.digest));
            let mut kept = Vec::new();
            for victim in of_victims {
                kept.extend(rows::blob(db, &victim.digest)?);
            }
            Ok(kept)
        });
        let (now, wall) = (self.now(), self.wall());
        let kept = deleted.unwrap_or_default().into_iter();
        kept.map(|row| Kept::from_row(row, now, wall)).collect()
    }

    /// Removes a victim's file. If that fails its bytes go on being counted, and others go for them.
    fn remove_file(&self, victim: &Victim, reason: Reason) -> Vec<Victim> {
        match self.content.remove(&victim.digest) {
            Ok(_) => {
                self.figures.gave_up(reason, victim.size);
                self.shelf().gone(victim);
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(digest = %victim.digest, %error, "a blob's file cannot be removed; it will be tried again");
                lock(&self.stuck).push(*victim);
                self.shelf().spared(victim, None)
            }
        }
    }

    /// Tries once more what could not be removed.
    pub(super) fn retry_stuck(&self) {
        let stuck = std::mem::take(&mut *lock(&self.stuck));
        for victim in stuck {
            let next = self.remove_file(&victim, Reason::Room);
            self.remove(next, Reason::Room);
        }
        self.left.notify_all();
    }

    /// A blob's bytes are not what its digest says: it is not found any more, and its file lies aside with a row that
    /// says why.
    pub(super) fn set_aside(&self, digest: &Digest, why: &str) {
        let Some(victim) = self.shelf().take(digest) else {
            return;
        };
        tracing::error!(%digest, why, "a cached blob is damaged: set aside, and fetched anew when it is asked for");
        self.figures.damaged.inc();
        let since = self.wall();
        self.note("note a damaged blob in", |db| {
            let text = digest.to_string();
            rows::delete_blob(db, &text)?;
            let sql = "INSERT OR REPLACE INTO aside (digest, size, since, reason) VALUES (?1, ?2, ?3, ?4)";
            let size = crate::db::to_column(victim.size);
            rows::run(db, sql, params![text, size, since, why])
        });
        match self.content.set_aside(digest) {
            Ok(bytes) => {
                self.figures.gave_up(Reason::Damaged, victim.size);
                let mut shelf = self.shelf();
                shelf.gone(&victim);
                let victims = shelf.load_aside(digest, bytes);
                drop(shelf);
                self.left.notify_all();
                self.remove(victims, Reason::Room);
            }
            // Whatever is wrong with the folder: these bytes must not stay under that name.
            Err(error) => {
                tracing::warn!(%digest, %error, "a damaged blob cannot be set aside: removing it");
                let victims = self.remove_file(&victim, Reason::Damaged);
                self.left.notify_all();
                self.remove(victims, Reason::Room);
            }
        }
    }

    /// Removes fills that nobody has been at since `before` (on the boot clock), except for that of `except`, and, if
    /// `before` is the end of time, also what was set aside. Returns how many.
    pub(super) fn drop_leftovers(&self, before: i64, except: &Digest) -> usize {
        let mut count = 0;
        let parked = self.shelf().parked(before);
        for digest in parked.iter().filter(|digest| *digest != except) {
            count += usize::from(self.drop_parked(digest));
        }
        if before == i64::MAX {
            count += self.drop_aside(i64::MAX);
        }
        count
    }

    fn drop_parked(&self, digest: &Digest) -> bool {
        // Taken first, so that nobody goes on with it; if somebody was faster it is theirs.
        let Some(victim) = self.shelf().take_parked(digest) else {
            return false;
        };
        match self.content.abort(&reference_of(digest)) {
            Ok(()) | Err(ContentError::IngestNotFound { .. }) => {}
            Err(error) => tracing::warn!(%digest, %error, "a fill that was left cannot be removed"),
        }
        self.forget_fill(digest);
        self.shelf().gone(&victim);
        self.left.notify_all();
        true
    }

    /// Removes what was set aside before `before`, in seconds since 1970. Returns how many.
    pub(super) fn drop_aside(&self, before: i64) -> usize {
        let old = self.note("look for damaged blobs in", |db| {
            let sql = "DELETE FROM aside WHERE since < ?1 RETURNING digest";
            rows::digests(db, sql, [before])
        });
        let mut count = 0;
        for digest in old.unwrap_or_default() {
            if let Err(error) = self.content.drop_aside(&digest) {
                tracing::warn!(%digest, %error, "a damaged blob that was set aside cannot be removed");
                continue;
            }
            self.shelf().forget_aside(&digest);
            count += 1;
        }
        count
    }

    /// Whether all rows have to be written anew; asked once.
    pub(super) fn take_behind(&self) -> bool {
        self.is_behind.swap(false, Ordering::Relaxed)
    }
}

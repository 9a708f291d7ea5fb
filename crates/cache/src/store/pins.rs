//! What must stay: pins, and what they name.

use orlop_types::Digest;
use rusqlite::{Connection, params};

use super::{Inner, Store, StoreError, lock, rows};

impl Store {
    /// Keeps a blob, or a manifest with all that it names, whatever the policy says and however long it is not used. It
    /// need not be here yet. Several owners may pin the same; each takes back its own.
    ///
    /// # Errors
    /// The database fails.
    pub fn pin(&self, digest: &Digest, owner: &str, reason: &str) -> Result<(), StoreError> {
        let pinned_at = self.inner.wall();
        self.inner.write("pin a blob in", |db| {
            put(db, digest, (owner, reason), pinned_at)
        })?;
        self.inner.refresh_pins()
    }

    /// Takes a pin back. Whether there was one.
    ///
    /// # Errors
    /// The database fails.
    pub fn unpin(&self, digest: &Digest, owner: &str) -> Result<bool, StoreError> {
        let removed = self
            .inner
            .write("unpin a blob in", |db| take_back(db, digest, owner))?;
        self.inner.refresh_pins()?;
        Ok(removed)
    }

    /// Whether a blob is pinned, itself or by what names it.
    #[must_use]
    pub fn is_pinned(&self, digest: &Digest) -> bool {
        self.inner.is_pinned(digest)
    }
}

impl Inner {
    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        lock(&self.pinned).contains(digest)
    }

    /// Follows the rows of pins, which other processes may have changed.
    pub(super) fn refresh_pins(&self) -> Result<(), StoreError> {
        let pinned = self.read("read the pins of", rows::pinned)?;
        let mut shelf = self.shelf();
        shelf.set_pinned(&pinned);
        *lock(&self.pinned) = pinned;
        Ok(())
    }
}

pub(super) fn put(
    db: &Connection,
    digest: &Digest,
    (owner, reason): (&str, &str),
    pinned_at: i64,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO pins (digest, owner, reason, pinned_at) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (digest, owner) DO UPDATE SET reason = excluded.reason";
    rows::run(
        db,
        sql,
        params![digest.to_string(), owner, reason, pinned_at],
    )?;
    Ok(())
}

pub(super) fn take_back(db: &Connection, digest: &Digest, owner: &str) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM pins WHERE digest = ?1 AND owner = ?2";
    Ok(rows::run(db, sql, [digest.to_string().as_str(), owner])? > 0)
}

//! Which repository has what: links, what manifests name, tags.

use std::time::SystemTime;

use orlop_types::Digest;
use rusqlite::params;

use super::figures::Reason;
use super::remove::Taken;
use super::{Store, StoreError, rows};

/// Something that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, as the manifest says.
    pub size: u64,
    /// Its media type, as the manifest says.
    pub media_type: String,
}

/// What upstream said a tag is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    /// The manifest.
    pub digest: Digest,
    /// What upstream called it.
    pub media_type: Option<String>,
    /// When upstream last said so.
    pub checked: SystemTime,
}

/// What went with a repository's last link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unlinked {
    /// Blobs that no other repository has.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Notes that a repository has these. What a linked manifest names needs no link of its own.
    ///
    /// # Errors
    /// The database fails.
    pub fn link(&self, locator: &str, digests: &[Digest]) -> Result<(), StoreError> {
        self.inner.write("link a blob in", |db| {
            let repository = rows::repository(db, locator)?;
            digests
                .iter()
                .try_for_each(|digest| rows::put_link(db, repository, digest))
        })?;
        Ok(())
    }

    /// Whether a repository is known to have this: by a link, or because a manifest of it names it.
    ///
    /// # Errors
    /// The database fails.
    pub fn is_linked(&self, locator: &str, digest: &Digest) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM holders
                   WHERE digest = ?1 AND repository = (SELECT id FROM repositories WHERE locator = ?2)";
        let found = self.inner.read("look for a link in", |db| {
            rows::exists(db, sql, params![digest.to_string(), locator])
        })?;
        Ok(found)
    }

    /// What a manifest names, in its order; empty if it is not known.
    ///
    /// # Errors
    /// The database fails.
    pub fn children(&self, manifest: &Digest) -> Result<Vec<Child>, StoreError> {
        let read = |db: &rusqlite::Connection| rows::children(db, manifest);
        Ok(self.inner.read("read what a manifest names in", read)?)
    }

    /// Forgets a repository with its tags and grants. Blobs go that no other repository has and nothing pins.
    ///
    /// # Errors
    /// The database fails: then nothing has changed.
    pub fn unlink(&self, locator: &str) -> Result<Unlinked, StoreError> {
        let orphans = self.inner.write("forget a repository in", |db| {
            let Some(repository) = rows::find_repository(db, locator)? else {
                return Ok(Vec::new());
            };
            let candidates = rows::digests(
                db,
                "SELECT DISTINCT digest FROM holders WHERE repository = ?1",
                [repository],
            )?;
            for table in ["links", "tags", "grants"] {
                db.execute(&format!("DELETE FROM {table} WHERE repository = ?1"), [repository])?;
            }
            let mut orphans = Vec::new();
            for digest in candidates {
                let sql = "SELECT 1 FROM holders WHERE digest = ?1 UNION ALL SELECT 1 FROM pinned WHERE digest = ?1";
                if !rows::exists(db, sql, [digest.to_string()])? {
                    orphans.push(digest);
                }
            }
            Ok(orphans)
        })?;
        let mut gone = Unlinked::default();
        for digest in orphans {
            if let Taken::Gone(bytes) = self.inner.take_out(&digest, Reason::Unlinked) {
                gone.blobs += 1;
                gone.bytes += bytes;
            }
        }
        Ok(gone)
    }

    /// What a tag was when upstream was last asked.
    ///
    /// # Errors
    /// The database fails.
    pub fn tag(&self, locator: &str, tag: &str) -> Result<Option<TagRow>, StoreError> {
        let read = |db: &rusqlite::Connection| rows::tag(db, locator, tag);
        Ok(self.inner.read("read a tag of", read)?)
    }

    /// Notes what upstream says of a tag, now.
    ///
    /// # Errors
    /// The database fails.
    pub fn set_tag(
        &self,
        locator: &str,
        tag: &str,
        digest: &Digest,
        media_type: Option<&str>,
    ) -> Result<(), StoreError> {
        let checked_at = self.inner.wall();
        self.inner.write("note a tag in", |db| {
            let repository = rows::repository(db, locator)?;
            let sql =
                "INSERT OR REPLACE INTO tags (repository, tag, digest, media_type, checked_at)
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            let digest = digest.to_string();
            rows::run(
                db,
                sql,
                params![repository, tag, digest, media_type, checked_at],
            )
        })?;
        Ok(())
    }

    /// Forgets a tag: upstream says there is none.
    ///
    /// # Errors
    /// The database fails.
    pub fn drop_tag(&self, locator: &str, tag: &str) -> Result<(), StoreError> {
        self.inner.write("forget a tag in", |db| {
            let sql = "DELETE FROM tags WHERE tag = ?2
                       AND repository = (SELECT id FROM repositories WHERE locator = ?1)";
            rows::run(db, sql, [locator, tag])
        })?;
        Ok(())
    }

    /// A repository's known tags, by name.
    ///
    /// # Errors
    /// The database fails.
    pub fn tags(&self, locator: &str) -> Result<Vec<String>, StoreError> {
        let tags = self.inner.read("list tags of", |db| {
            let sql = "SELECT tag FROM tags
                       WHERE repository = (SELECT id FROM repositories WHERE locator = ?1) ORDER BY tag";
            let mut statement = db.prepare_cached(sql)?;
            statement.query_map([locator], |row| row.get(0))?.collect()
        })?;
        Ok(tags)
    }
}

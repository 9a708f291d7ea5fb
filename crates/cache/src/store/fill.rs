//! Taking a blob in, from its first byte to the moment it is found.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use orlop_content::{ContentError, Expected, Ingest, IngestReader};
use orlop_registry::BlobSink;
use orlop_types::{Digest, IngestRef};
use rusqlite::params;

use super::figures::Reason;
use super::rows::{self, BlobRow};
use super::shelf::Reserved;
use super::{Child, Inner, Store, StoreError, lock};
use crate::db::{from_column, to_column};

/// Ingests of the cache are named so, with the digest behind.
const PREFIX: &str = "fill/";

/// When the disk is full before the cap is reached, at least so much is given up at once.
const RELIEF_BYTES: u64 = 64 << 20;

/// How long a fill waits for a blob's own removal. A disk takes longer than that only when it fails.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of [`Store::fill`].
#[derive(Debug)]
pub enum Opening {
    /// It is yours to fill.
    Begun(Fill),
    /// It is kept already.
    Present,
    /// Somebody else of this process is filling it.
    Busy,
    /// It is larger than all that may go for it: pass it through.
    NoRoom {
        /// The largest that could be kept now, in bytes.
        room_bytes: u64,
    },
}

/// A fill that was begun and is not finished; nobody is at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// What it is to become.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The repository it was asked for in; empty if that was lost with the database.
    pub locator: String,
}

/// A blob being taken in. Clones are the same one and may write from several threads.
///
/// Dropping the last clone without [`Fill::commit`] parks the bytes, for a later [`Store::fill`] to go on with: that syncs.
#[derive(Debug, Clone)]
pub struct Fill {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // Goes first: only when it is closed are its bytes counted.
    ingest: Ingest,
    place: Place,
}

/// The digest's spot, given back when the fill ends.
#[derive(Debug)]
struct Place {
    inner: Arc<Inner>,
    digest: Digest,
    locator: Box<str>,
    is_over: AtomicBool,
    /// How far the bytes on disk reach when the last clone goes.
    end: AtomicU64,
}

impl Store {
    /// Begins to take a blob in, or goes on with one: [`Fill::missing`] tells what is still to be had. Room for all of it
    /// is made first, which removes files.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn fill(&self, digest: &Digest, size: u64, locator: &str) -> Result<Opening, StoreError> {
        let inner = &self.inner;
        match inner.reserve(digest, size) {
            Reserved::Room(_) => {}
            Reserved::Present => return Ok(Opening::Present),
            Reserved::Busy | Reserved::Leaving => return Ok(Opening::Busy),
            Reserved::NoRoom { room_bytes } => return Ok(Opening::NoRoom { room_bytes }),
        }
        // From here on the spot is given back however this ends.
        let place = Place {
            inner: Arc::clone(inner),
            digest: *digest,
            locator: locator.into(),
            is_over: AtomicBool::new(false),
            end: AtomicU64::new(0),
        };
        let ingest = inner.ingest(digest, size)?;
        inner.note("note a fill in", |db| {
            let repository = rows::repository(db, locator)?;
            let sql = "INSERT INTO fills (digest, size, repository, begun_at) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (digest) DO UPDATE SET repository = excluded.repository, size = excluded.size";
            let (digest, begun_at) = (digest.to_string(), inner.wall());
            rows::run(db, sql, params![digest, to_column(size), repository, begun_at])
        });
        let shared = Arc::new(Shared { ingest, place });
        Ok(Opening::Begun(Fill { shared }))
    }

    /// Keeps a manifest that is in memory, with what it names and where it was found. `false` if there is no room for it,
    /// or somebody is filling it.
    ///
    /// # Errors
    /// [`super::ErrorKind::WrongBytes`]; the disk or the database fails.
    pub fn put_manifest(
        &self,
        locator: &str,
        digest: &Digest,
        media_type: &str,
        bytes: &[u8],
        children: &[Child],
    ) -> Result<bool, StoreError> {
        match self.fill(digest, bytes.len() as u64, locator)? {
            Opening::Begun(fill) => {
                fill.write_all(bytes)?;
                fill.commit(Some(media_type))?;
            }
            Opening::Present => self.link(locator, &[*digest])?,
            Opening::Busy | Opening::NoRoom { .. } => return Ok(false),
        }
        self.inner.write("note what a manifest names in", |db| {
            rows::put_children(db, digest, children)
        })?;
        if self.inner.is_pinned(digest) {
            self.inner.refresh_pins()?;
        }
        Ok(true)
    }

    /// Fills that were begun and that nobody is at, for whoever goes on with them after a restart.
    ///
    /// # Errors
    /// The disk or the database fails.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError> {
        let parked = self.inner.shelf().parked(i64::MAX);
        let find = |digest: &Digest| {
            self.inner.read("read a fill of", |db| {
                let sql = "SELECT size, locator FROM fills JOIN repositories ON id = repository WHERE digest = ?1";
                let mut statement = db.prepare_cached(sql)?;
                let mut rows = statement.query([digest.to_string()])?;
                let row = rows.next()?;
                row.map(|row| Ok((from_column(row.get(0)?), row.get::<_, String>(1)?))).transpose()
            })
        };
        let mut found = Vec::new();
        for digest in parked {
            // Without a row the size is in the ingest, and where it came from is lost.
            let row = find(&digest)?;
            let status = self.inner.content.status(&reference_of(&digest));
            let expected = status.ok().and_then(|status| status.expected.size_bytes);
            let (size, locator) = match (row, expected) {
                (Some((_, locator)), Some(size)) => (size, locator),
                (None, Some(size)) => (size, String::new()),
                (_, None) => continue,
            };
            found.push(Unfinished {
                digest,
                size,
                locator,
            });
        }
        Ok(found)
    }
}

impl Fill {
    /// What it is to become.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.shared.place.digest
    }

    /// Reads the bytes as they come. **Not verified** before [`Fill::commit`]: see [`IngestReader`].
    #[must_use]
    pub fn reader(&self) -> IngestReader {
        self.shared.ingest.reader()
    }

    /// The ranges that are not there yet.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        self.shared.ingest.missing()
    }

    /// Writes `bytes` at `offset`; those that are there already are skipped. If the disk is full something is given up
    /// for them, once.
    ///
    /// # Errors
    /// The disk fails or stays full, or the fill is over.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let Shared { ingest, place } = &*self.shared;
        let written = match ingest.write_at(offset, bytes) {
            Err(ContentError::OutOfSpace(_)) => {
                place.inner.relieve(bytes.len() as u64);
                ingest.write_at(offset, bytes)
            }
            other => other,
        };
        written.map_err(StoreError::content("fill", place.digest))
    }

    /// Writes what is missing of a blob that is in memory.
    ///
    /// # Errors
    /// As [`Fill::write_at`].
    pub fn write_all(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_at(0, bytes)
    }

    /// Verifies the bytes and keeps them: from now on they are found, and linked to the repository of [`Store::fill`].
    /// Trouble with the database does not fail it.
    ///
    /// # Errors
    /// [`super::ErrorKind::Incomplete`] leaves the fill open; [`super::ErrorKind::WrongBytes`] has discarded the bytes.
    pub fn commit(&self, media_type: Option<&str>) -> Result<(), StoreError> {
        let Shared { ingest, place } = &*self.shared;
        let committed = ingest
            .commit(Expected::default())
            .map_err(StoreError::content("keep", place.digest))?;
        place.is_over.store(true, Ordering::Release);
        let media_type = media_type.map(Arc::from);
        place
            .inner
            .finish(&committed.digest, media_type, &place.locator);
        Ok(())
    }

    /// Discards the bytes.
    ///
    /// # Errors
    /// They could not be removed, or it is over already.
    pub fn abandon(&self) -> Result<(), StoreError> {
        let Shared { ingest, place } = &*self.shared;
        let aborted = ingest.abort();
        aborted.map_err(StoreError::content("discard a fill of", place.digest))
    }
}

impl BlobSink for Fill {
    fn missing(&self) -> Vec<Range<u64>> {
        Self::missing(self)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Self::write_at(self, offset, bytes).map_err(io::Error::other)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let end = self.ingest.extents().end();
        self.place.end.store(end, Ordering::Release);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_over.load(Ordering::Acquire) {
            return;
        }
        // Closed by now; or aborted, or discarded, and then there is nothing left.
        let status = self.inner.content.status(&reference_of(&self.digest));
        let end = self.end.load(Ordering::Acquire);
        let left = status.map_or(0, |status| end.max(status.present_bytes));
        let now = self.inner.now();
        self.inner.shelf().unfilled(&self.digest, left, now);
        if left == 0 {
            self.inner.forget_fill(&self.digest);
        }
    }
}

impl Inner {
    /// Makes room, and removes what has to go for it. [`Reserved::Room`] comes with nothing left to remove.
    pub(super) fn reserve(&self, digest: &Digest, size: u64) -> Reserved {
        let mut reserved = self.wait_and_reserve(digest, size);
        if matches!(reserved, Reserved::NoRoom { .. }) && self.drop_leftovers(i64::MAX, digest) > 0
        {
            reserved = self.wait_and_reserve(digest, size);
        }
        let Reserved::Room(victims) = reserved else {
            return reserved;
        };
        self.remove(victims, Reason::Room);
        let mut shelf = self.shelf();
        if shelf.is_over(self.options.cap_bytes) {
            // What was to go turned out to be pinned, or could not be removed.
            shelf.unfilled(digest, 0, 0);
            return Reserved::NoRoom { room_bytes: 0 };
        }
        Reserved::Room(Vec::new())
    }

    fn wait_and_reserve(&self, digest: &Digest, size: u64) -> Reserved {
        let mut shelf = self.shelf();
        loop {
            let reserved = shelf.reserve(digest, size);
            if reserved != Reserved::Leaving || self.is_stuck(digest) {
                return reserved;
            }
            let waited = self.left.wait_timeout(shelf, LEAVING_TIMEOUT);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return reserved;
            }
            shelf = again;
        }
    }

    fn is_stuck(&self, digest: &Digest) -> bool {
        lock(&self.stuck)
            .iter()
            .any(|victim| victim.digest == *digest)
    }

    fn ingest(&self, digest: &Digest, size: u64) -> Result<Ingest, StoreError> {
        let reference = reference_of(digest);
        let expected = Expected::exactly(size, *digest);
        let opened = match self.content.ingest(&reference, expected) {
            // It was begun with another size, which somebody made up.
            Err(ContentError::ExpectationChanged { .. }) => {
                let aborted = self.content.abort(&reference);
                aborted.and_then(|()| self.content.ingest(&reference, expected))
            }
            Err(ContentError::OutOfSpace(_)) => {
                self.relieve(size);
                self.content.ingest(&reference, expected)
            }
            other => other,
        };
        opened.map_err(StoreError::content("fill", digest))
    }

    /// Content has it: it is found from now on, and has its rows.
    pub(super) fn finish(&self, digest: &Digest, media_type: Option<Arc<str>>, locator: &str) {
        let (now, wall) = (self.now(), self.wall());
        let row = {
            let mut shelf = self.shelf();
            let pinned = self.is_pinned(digest);
            let victims = shelf.filled(digest, media_type, (now, wall), pinned);
            debug_assert!(victims.is_empty(), "its room was held");
            shelf.kept(digest).map(|kept| BlobRow {
                digest: *digest,
                size: kept.size,
                media_type: kept.media_type.clone(),
                added_at: wall,
                used_at: wall,
                uses: kept.uses,
            })
        };
        let Some(row) = row else {
            return;
        };
        self.figures.filled(row.size);
        self.note("note a blob in", |db| {
            rows::put_blob(db, &row, Some(wall))?;
            if !locator.is_empty() {
                let repository = rows::repository(db, locator)?;
                rows::put_link(db, repository, digest)?;
            }
            let digest = digest.to_string();
            rows::run(db, "DELETE FROM fills WHERE digest = ?1", [&digest])?;
            rows::run(db, "DELETE FROM removals WHERE digest = ?1", [&digest])
        });
    }

    /// The disk is full although the cap is not reached: something else lies on it, too.
    fn relieve(&self, bytes: u64) {
        let victims = self.shelf().shed(bytes.max(RELIEF_BYTES));
        tracing::warn!(
            blobs = victims.len(),
            "the disk is full before the cap is reached: giving up blobs"
        );
        self.remove(victims, Reason::DiskFull);
    }

    pub(super) fn forget_fill(&self, digest: &Digest) {
        self.note("forget a fill in", |db| {
            rows::run(
                db,
                "DELETE FROM fills WHERE digest = ?1",
                [digest.to_string()],
            )
        });
    }
}

/// The ingest's name for a digest.
pub(super) fn reference_of(digest: &Digest) -> IngestRef {
    IngestRef::new(format!("{PREFIX}{digest}"))
        .expect("a digest is short and without control characters")
}

/// The digest of one of our ingests.
pub(super) fn digest_of(reference: &IngestRef) -> Option<Digest> {
    reference.as_str().strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingest_is_found_again_by_its_name() {
        let digest = Digest::sha256([7; 32]);
        assert_eq!(digest_of(&reference_of(&digest)), Some(digest));
        let other = IngestRef::new("layer-1").unwrap();
        assert_eq!(digest_of(&other), None);
    }
}

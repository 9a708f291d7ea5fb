//! The scrub: whether bytes are still what they were, one blob after the other, the one checked longest ago first.
//!
//! Which blob comes next is a row, so that a restart goes on where it was; the one in the middle begins anew.

use orlop_content::{Blob, Hasher};
use orlop_types::Digest;
use rusqlite::params;

use super::{Inner, Reading, Store, StoreError, rows};
use std::sync::Arc;

/// A walk over all that is kept.
#[derive(Debug)]
pub struct Scrub {
    inner: Arc<Inner>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    digest: Digest,
    blob: Blob,
    hasher: Hasher,
    offset: u64,
    // Until the end nobody gives it up.
    _reading: Reading,
}

/// What one step came to. `bytes` were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scrubbed {
    /// A part of a blob.
    Read(u64),
    /// A blob's end: it is sound.
    Sound {
        /// Which.
        digest: Digest,
        /// Bytes of this step.
        bytes: u64,
    },
    /// A blob's end: it was set aside.
    Damaged {
        /// Which.
        digest: Digest,
        /// Bytes of this step.
        bytes: u64,
    },
    /// All were checked not too long ago.
    Nothing,
}

impl Scrub {
    /// A walk that goes on where the last one was.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self {
            inner: Arc::clone(&store.inner),
            current: None,
        }
    }

    /// A walk that begins with this blob, whenever it was checked; `None` if it is not here.
    #[must_use]
    pub fn beginning_with(store: &Store, digest: &Digest) -> Option<Self> {
        let inner = Arc::clone(&store.inner);
        let current = inner.begin_check(digest)?;
        Some(Self {
            inner,
            current: Some(current),
        })
    }

    /// Reads up to `bytes_max` of the blob that is next.
    ///
    /// # Errors
    /// The database fails.
    pub fn step(&mut self, bytes_max: u64) -> Result<Scrubbed, StoreError> {
        let Some(mut current) = self
            .current
            .take()
            .map_or_else(|| self.next(), |one| Ok(Some(one)))?
        else {
            return Ok(Scrubbed::Nothing);
        };
        let length = usize::try_from(bytes_max.min(current.left())).unwrap_or(usize::MAX);
        let mut buffer = vec![0; length];
        let read = current.blob.read_at(&mut buffer, current.offset);
        let count = match read {
            Ok(count) if count > 0 || length == 0 => count,
            Ok(_) => return Ok(self.damaged(&current, "it is shorter than it was", 0)),
            Err(error) => {
                return Ok(self.damaged(&current, &format!("it cannot be read: {error}"), 0));
            }
        };
        let bytes = count as u64;
        current.hasher.update(&buffer[..count]);
        current.offset += bytes;
        self.inner.figures.scrubbed_bytes.inc_by(bytes);
        if current.left() > 0 {
            self.current = Some(current);
            return Ok(Scrubbed::Read(bytes));
        }
        let actual = current.hasher.clone().finish();
        if actual != current.digest {
            return Ok(self.damaged(
                &current,
                &format!("its bytes have the digest {actual}"),
                bytes,
            ));
        }
        let (digest, now) = (current.digest, self.inner.wall());
        self.inner.write("note a check in", |db| {
            let sql = "UPDATE blobs SET checked_at = ?2 WHERE digest = ?1";
            rows::run(db, sql, params![digest.to_string(), now])
        })?;
        Ok(Scrubbed::Sound { digest, bytes })
    }

    fn next(&self) -> Result<Option<Current>, StoreError> {
        let inner = &self.inner;
        let age = i64::try_from(inner.options.scrub_every.as_secs()).unwrap_or(i64::MAX);
        let before = inner.wall().saturating_sub(age);
        // The few that come first: one of them may be gone since.
        let next = inner.read("look for what is to be checked in", |db| {
            let sql = "SELECT digest FROM blobs WHERE checked_at IS NULL OR checked_at < ?1
                       ORDER BY checked_at LIMIT 16";
            rows::digests(db, sql, [before])
        })?;
        Ok(next.iter().find_map(|digest| inner.begin_check(digest)))
    }

    fn damaged(&self, current: &Current, why: &str, bytes: u64) -> Scrubbed {
        self.inner.set_aside(&current.digest, why);
        let digest = current.digest;
        Scrubbed::Damaged { digest, bytes }
    }
}

impl Inner {
    /// Opens a blob to be checked. One that cannot be opened is set aside.
    fn begin_check(self: &Arc<Self>, digest: &Digest) -> Option<Current> {
        let seen = self.shelf().begin_reading(digest, None)?;
        let reading = Reading {
            inner: Arc::clone(self),
            digest: *digest,
            serial: seen.serial,
        };
        match self.content.blob(digest) {
            Ok(blob) => Some(Current {
                digest: *digest,
                blob,
                hasher: Hasher::new(digest.algorithm()),
                offset: 0,
                _reading: reading,
            }),
            Err(error) => {
                drop(reading);
                self.set_aside(digest, &format!("it cannot be opened: {error}"));
                None
            }
        }
    }
}

impl Current {
    const fn left(&self) -> u64 {
        self.blob.size_bytes().saturating_sub(self.offset)
    }
}

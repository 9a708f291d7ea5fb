//! Committing an ingest: first the store's bytes, then the row with its event and lease.

use orlop_content::{AdoptMethod, ContentError, Expected};
use orlop_sys::fs::{Dir, Name};
use orlop_types::{Digest, IngestRef, Labels};
use rusqlite::params;

use super::ingest::{Ingest, IngestOptions, backend_reference, load_row, remove_row};
use super::{Blob, Content, failed, key, load, store};
use crate::db::Tx;
use crate::node::{self, NodeKind, already_exists};
use crate::records::{signed, to_json, without_empty};
use crate::sweep::{self, SweepKind};
use crate::{Error, Event};

/// A file of another store, whose bytes may be a blob's.
#[derive(Debug, Clone, Copy)]
pub struct AdoptedFile<'a> {
    /// Its folder.
    pub folder: &'a Dir,
    /// Its name there.
    pub name: &'a Name,
    /// Whether it is linked or copied.
    pub method: AdoptMethod,
}

impl Content<'_> {
    /// Takes a file over as a blob: it is hashed, synced and made visible in this namespace, as a commit does it. Nobody
    /// may collect meanwhile: it is for a daemon that is stopped.
    ///
    /// # Errors
    /// `AlreadyExists` if the namespace sees the blob; `Content` for other bytes, a link that is not possible or a full
    /// disk, after which nothing is left of it; `NoBackend`, `Database`.
    pub fn adopt(
        &self,
        file: &AdoptedFile<'_>,
        (digest, size_bytes): (&Digest, u64),
        labels: &Labels,
    ) -> Result<Blob, Error> {
        let store = store(self.view)?;
        if self.existing(digest)?.is_some() {
            let namespace = self.view.namespace();
            return Err(already_exists(NodeKind::Content, digest, namespace));
        }
        let reference = IngestRef::new(format!("adopt-{digest}"))
            .expect("a word and a digest are a valid reference");
        let options = IngestOptions {
            expected: Expected::exactly(size_bytes, *digest),
            media_type: None,
        };
        let db = self.view.db();
        let row = db.write("begin an adoption", |tx| {
            self.begin(tx, &reference, &options)
        })?;
        let ingest = Ingest {
            view: self.view.clone(),
            reference,
            row,
            // The store does it all at once; what is left is as with bytes that were there before.
            backend: None,
        };
        if !ingest.row.shared {
            let own = backend_reference(ingest.row.number);
            let AdoptedFile {
                folder,
                name,
                method,
            } = *file;
            if let Err(error) = store.adopt(&own, folder, name, options.expected, method) {
                ingest.forget();
                return Err(failed("adopt blob", digest)(error));
            }
        }
        ingest.commit(options.expected, labels)
    }
}

impl Ingest {
    /// Verifies the bytes, syncs them and makes the blob visible in this namespace.
    ///
    /// What `expected` and the ingest both know must agree. On return the blob is on disk, its row, event and lease are
    /// committed, and the ingest is gone.
    ///
    /// # Errors
    /// `AlreadyExists` if the namespace sees the blob by now: it is bound to the lease and the ingest is gone, too.
    /// `Content` for missing, wrong or unwritable bytes; `NotFound` if the ingest was aborted; `FailedPrecondition` for
    /// other expectations than a shared ingest has; `Database`.
    pub fn commit(&self, expected: Expected, labels: &Labels) -> Result<Blob, Error> {
        let db = self.view.db();
        let known = expected.digest.or(self.row.expected.digest);
        let mut claim = known.map(|digest| db.claims().claim(digest));
        let (digest, size) = self.finish_bytes(expected)?;
        if claim.is_none() {
            claim = Some(db.claims().claim(digest));
        }
        // With the claim held nobody sweeps the blob; before, an older entry of the queue may have been worked off.
        store(&self.view)?
            .stat(&digest)
            .map_err(failed("commit blob", digest))?;
        let (blob, is_new) = db.write("commit a blob", |tx| {
            self.make_visible(tx, (digest, size), labels)
        })?;
        drop(claim);
        if is_new {
            return Ok(blob);
        }
        Err(already_exists(
            NodeKind::Content,
            digest,
            self.view.namespace(),
        ))
    }

    fn finish_bytes(&self, expected: Expected) -> Result<(Digest, u64), Error> {
        let Some(backend) = &self.backend else {
            return self.check_shared(expected);
        };
        match backend.commit(expected) {
            Ok(committed) => Ok((committed.digest, committed.size_bytes)),
            Err(
                error @ (ContentError::SizeMismatch { .. } | ContentError::DigestMismatch { .. }),
            ) => {
                // The store has discarded the bytes; the row must not promise to resume them.
                self.forget();
                Err(failed("commit ingest", &self.reference)(error))
            }
            Err(other) => Err(failed("commit ingest", &self.reference)(other)),
        }
    }

    fn check_shared(&self, expected: Expected) -> Result<(Digest, u64), Error> {
        let refuse = |reason: String| Error::FailedPrecondition {
            operation: "commit ingest",
            subject: self.reference.to_string(),
            reason,
        };
        let Some(digest) = self.row.expected.digest else {
            return Err(refuse("it has no bytes and no digest".to_owned()));
        };
        if expected.digest.is_some_and(|other| other != digest) {
            return Err(refuse(format!("it was begun for {digest}")));
        }
        let info = store(&self.view)?
            .stat(&digest)
            .map_err(failed("commit ingest", &self.reference))?;
        if expected
            .size_bytes
            .is_some_and(|size| size != info.size_bytes)
        {
            return Err(refuse(format!("the blob has {} bytes", info.size_bytes)));
        }
        Ok((digest, info.size_bytes))
    }

    /// Writes the blob's row if there is none, and removes the ingest's. Whether the blob is new.
    fn make_visible(
        &self,
        tx: &Tx<'_>,
        (digest, size): (Digest, u64),
        labels: &Labels,
    ) -> Result<(Blob, bool), Error> {
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        match load_row(tx, &self.view, &self.reference) {
            Ok(row) if row.id == self.row.id => {
                tx.renaming(|| {
                    self.view.unbind(tx, namespace, row.id)?;
                    remove_row(tx, row.id)
                })?;
            }
            // Collected, or aborted and begun anew, while the bytes were being synced: they are good all the same.
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(other) => return Err(other),
        }
        let text = digest.to_string();
        let labels = without_empty(labels);
        let kept = node::expiry(NodeKind::Content, "", &labels);
        let fresh = node::enliven(tx, key(namespace, &text), kept)?;
        if let Some(id) = fresh {
            self.insert(tx, (id, namespace), (digest, size), &labels)?;
        }
        let (id, blob) = load(tx, &self.view, &digest)?;
        self.view.bind(tx, namespace, id)?;
        sweep::dequeue(tx, SweepKind::Blob, ("", &text))?;
        Ok((blob, fresh.is_some()))
    }

    fn insert(
        &self,
        tx: &Tx<'_>,
        (id, namespace): (i64, i64),
        (digest, size): (Digest, u64),
        labels: &Labels,
    ) -> Result<(), Error> {
        let stored_size = signed("commit blob", self.reference.as_str(), size)?;
        tx.prepare_cached("INSERT INTO content VALUES (?1, ?2, ?3, ?4, ?5, ?5)")
            .and_then(|mut insert| {
                insert.execute(params![
                    id,
                    stored_size,
                    self.row.media_type,
                    to_json(labels),
                    tx.now
                ])
            })
            .map_err(Error::database("commit a blob"))?;
        node::relabel(tx, (id, namespace), labels, None)?;
        let event = Event::ContentCreate {
            digest,
            size,
            media_type: self.row.media_type.clone(),
            labels: labels.clone(),
        };
        tx.append(self.view.namespace(), &event).map(drop)
    }

    fn forget(&self) {
        let forgotten = self.view.db().write("remove an ingest", |tx| {
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            self.view.unbind(tx, namespace, self.row.id)?;
            remove_row(tx, self.row.id)
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, reference = %self.reference, "a discarded ingest keeps its row");
        }
    }
}

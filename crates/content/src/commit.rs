//! From an ingest to a blob.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use orlop_sys::fs::{FileKind, Name, remove_tree_beneath};
use orlop_types::Digest;

use crate::hash::PrefixHash;
use crate::ingest::Core;
use crate::layout::DATA;
use crate::progress::{Exclusive, How, lock};
use crate::{ContentError, Expected};

/// A blob is never written again.
const BLOB_PERMISSIONS: u32 = 0o444;

/// Whether a commit brought something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The blob is new.
    Created,
    /// The store had it already; the ingest's bytes are gone. Not an error: the blob is there and durable.
    AlreadyExists,
}

/// A verified, durable blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether it is new.
    pub outcome: Outcome,
}

impl Core {
    pub(crate) fn commit(
        &self,
        exclusive: Exclusive<'_>,
        asked: Expected,
    ) -> Result<Committed, ContentError> {
        let expected = self
            .progress
            .expected()
            .merge(asked, &self.progress.reference)?;
        let checked = self
            .check_size(expected)
            .and_then(|size_bytes| Ok((size_bytes, self.check_digest(size_bytes, expected)?)));
        let (size_bytes, digest) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                if is_mismatch(&error) {
                    self.fail_exclusive(exclusive);
                }
                return Err(error);
            }
        };
        if let Err(error) = self.make_durable(size_bytes) {
            self.fail_exclusive(exclusive);
            return Err(error);
        }
        let outcome = self.publish(digest, size_bytes)?;
        // A reader without an expected size learns here where the end is.
        self.progress.expect(Expected::exactly(size_bytes, digest));
        self.clear_folder();
        exclusive.end(How::Committed);
        self.shelves.release(&self.progress.reference);
        Ok(Committed {
            digest,
            size_bytes,
            outcome,
        })
    }

    fn check_size(&self, expected: Expected) -> Result<u64, ContentError> {
        let extents = self.progress.extents();
        let contiguous_bytes = extents.contiguous_bytes();
        let expected_bytes = expected.size_bytes.unwrap_or_else(|| extents.end());
        if extents.end() > expected_bytes {
            return Err(ContentError::SizeMismatch {
                reference: self.progress.reference.clone(),
                expected_bytes,
                actual_bytes: extents.end(),
            });
        }
        if contiguous_bytes < expected_bytes {
            return Err(ContentError::Incomplete {
                reference: self.progress.reference.clone(),
                contiguous_bytes,
                present_bytes: extents.present_bytes(),
                expected_bytes,
            });
        }
        Ok(expected_bytes)
    }

    fn check_digest(&self, size_bytes: u64, expected: Expected) -> Result<Digest, ContentError> {
        let mut hash = lock(&self.hash);
        if let Some(digest) = expected.digest
            && digest.algorithm() != hash.algorithm()
        {
            // The algorithm is known only now: begin anew with it.
            *hash = PrefixHash::new(digest.algorithm());
        }
        self.hash_up_to(&mut hash, size_bytes)?;
        let actual = hash.digest();
        match expected.digest {
            Some(expected) if expected != actual => Err(ContentError::DigestMismatch {
                reference: self.progress.reference.clone(),
                expected: Box::new(expected),
                actual: Box::new(actual),
            }),
            Some(_) | None => Ok(actual),
        }
    }

    pub(crate) fn digest_so_far(&self) -> Result<Digest, ContentError> {
        let mut hash = lock(&self.hash);
        self.hash_up_to(&mut hash, self.progress.contiguous_bytes())?;
        Ok(hash.digest())
    }

    fn hash_up_to(&self, hash: &mut PrefixHash, size_bytes: u64) -> Result<(), ContentError> {
        while hash.hashed_bytes() < size_bytes {
            let count = hash
                .advance_from_file(&self.progress.file, size_bytes)
                .map_err(|source| self.data_error("read", source))?;
            if count == 0 {
                let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(self.data_error("read", source));
            }
        }
        Ok(())
    }

    fn make_durable(&self, size_bytes: u64) -> Result<(), ContentError> {
        // A failed sync is reported once: if a checkpoint has had the report, ours would say that all is well.
        let checkpoint = lock(&self.checkpoint);
        if checkpoint.sync_failed {
            return Err(self.progress.ended(How::Failed));
        }
        let file = &self.progress.file;
        let metadata = file
            .metadata()
            .map_err(|source| self.data_error("stat", source))?;
        if metadata.len() != size_bytes {
            file.set_len(size_bytes)
                .map_err(|source| self.data_error("truncate", source))?;
        }
        // A file adopted by hard link is somebody else's, too: its permissions stay as they are.
        if metadata.nlink() == 1 {
            file.set_permissions(Permissions::from_mode(BLOB_PERMISSIONS))
                .map_err(|source| self.data_error("change permissions of", source))?;
        }
        file.sync_all()
            .map_err(|source| self.data_error("sync", source))
    }

    /// Gives the verified, synced bytes their name.
    fn publish(&self, digest: Digest, size_bytes: u64) -> Result<Outcome, ContentError> {
        let blobs = self.shelves.blobs(digest.algorithm());
        let name = Name::from(&digest);
        let outcome = {
            // Of two commits of one digest exactly one is told that it created it.
            let _publishing = lock(&self.shelves.publishing);
            match blobs.stat(&name) {
                Ok(stat) if stat.kind == FileKind::File && stat.len_bytes == size_bytes => {
                    Outcome::AlreadyExists
                }
                Err(error) if !error.is_not_found() => return Err(error.into()),
                // Missing, or of a wrong length and so damaged: these bytes are good.
                Ok(_) | Err(_) => {
                    self.dir.rename(&DATA, blobs, &name)?;
                    Outcome::Created
                }
            }
        };
        // Also if it was there: whoever put it there may not have come to this line yet.
        blobs.sync()?;
        Ok(outcome)
    }

    /// Removes what is left of the ingest. If that fails, the next opening of the store does it.
    fn clear_folder(&self) {
        let _checkpoint = lock(&self.checkpoint);
        if let Err(error) = remove_tree_beneath(&self.shelves.ingests, &self.name) {
            tracing::warn!(reference = %self.progress.reference, %error, "committed ingest not removed");
        }
    }
}

const fn is_mismatch(error: &ContentError) -> bool {
    matches!(
        error,
        ContentError::SizeMismatch { .. } | ContentError::DigestMismatch { .. }
    )
}

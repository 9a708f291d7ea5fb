//! The writing side of one ingest.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use orlop_sys::fs::{Dir, FsError, Name};
use orlop_types::{Algorithm, Digest, IngestRef};

use crate::hash::PrefixHash;
use crate::layout::{self, DATA};
use crate::progress::{Exclusive, How, Progress, lock};
use crate::store::Shelves;
use crate::{Committed, ContentError, ExtentMap, IngestReader};

/// One write hashes at most this much beyond its own bytes, so that closing a gap does not stall its writer for
/// long. What is left is hashed by later writes and by the commit.
const CATCH_UP_BYTES: u64 = 4 * 1024 * 1024;

/// The disk is asked to begin writing in windows of this size.
const WRITEBACK_BYTES: u64 = 4 * 1024 * 1024;

/// What a blob should be, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its size in bytes.
    pub size_bytes: Option<u64>,
    /// Its digest. Also chooses the algorithm that follows the writes; sha256 without it.
    pub digest: Option<Digest>,
}

impl Expected {
    /// Both are known, as from a descriptor.
    #[must_use]
    pub const fn exactly(size_bytes: u64, digest: Digest) -> Self {
        Self {
            size_bytes: Some(size_bytes),
            digest: Some(digest),
        }
    }

    /// Adds what `asked` knows more; what both know must agree.
    pub(crate) fn merge(self, asked: Self, reference: &IngestRef) -> Result<Self, ContentError> {
        let changed = |begun: String, asked: String| ContentError::ExpectationChanged {
            reference: reference.clone(),
            begun,
            asked,
        };
        if let (Some(begun), Some(asked)) = (self.digest, asked.digest)
            && begun != asked
        {
            return Err(changed(begun.to_string(), asked.to_string()));
        }
        if let (Some(begun), Some(asked)) = (self.size_bytes, asked.size_bytes)
            && begun != asked
        {
            return Err(changed(format!("{begun} bytes"), format!("{asked} bytes")));
        }
        Ok(Self {
            size_bytes: self.size_bytes.or(asked.size_bytes),
            digest: self.digest.or(asked.digest),
        })
    }

    fn algorithm(self) -> Algorithm {
        self.digest
            .map_or(Algorithm::Sha256, |digest| digest.algorithm())
    }
}

/// Where an ingest stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestStatus {
    /// Its reference.
    pub reference: IngestRef,
    /// Bytes from the start to the first gap: what containerd calls the offset.
    pub contiguous_bytes: u64,
    /// All bytes present.
    pub present_bytes: u64,
    /// What it should become.
    pub expected: Expected,
    /// When it was begun, or its expectations last changed.
    pub started_at: SystemTime,
    /// When bytes were last written.
    pub updated_at: SystemTime,
    /// Whether a writer has it open in this process.
    pub is_open: bool,
}

/// The one writer of a reference; clones share it and may write from several threads.
///
/// When the last clone is dropped without commit or abort, the bytes so far are synced and kept for a later
/// [`crate::Store::ingest`]: that blocks for as long as the disk takes. [`Ingest::close`] does the same with a result.
#[derive(Debug, Clone)]
pub struct Ingest {
    pub(crate) core: Arc<Core>,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shelves: Arc<Shelves>,
    pub(crate) name: Name,
    pub(crate) dir: Dir,
    pub(crate) progress: Arc<Progress>,
    pub(crate) hash: Mutex<PrefixHash>,
    pub(crate) checkpoint: Mutex<Checkpoint>,
}

/// What a crash would leave to resume from.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    synced: ExtentMap,
    names_are_synced: bool,
    pub(crate) sync_failed: bool,
}

impl Ingest {
    /// The reference.
    #[must_use]
    pub fn reference(&self) -> &IngestRef {
        &self.core.progress.reference
    }

    /// What it should become.
    #[must_use]
    pub fn expected(&self) -> Expected {
        self.core.progress.expected()
    }

    /// Writes `bytes` at `offset_bytes`. Several threads may write different ranges at once.
    ///
    /// A byte is written once: bytes that are present already are skipped, not overwritten, so a range that
    /// was cut off may be sent again from its start; [`Ingest::truncate`] takes bytes back. From time to time a
    /// write also syncs what has been written ([`crate::Options::checkpoint_bytes`]).
    ///
    /// # Errors
    /// [`ContentError::BadWrite`], [`ContentError::IngestEnded`]; [`ContentError::OutOfSpace`] and
    /// [`ContentError::Io`], after which the range still counts as missing. If a sync fails, nothing written is to
    /// be trusted: the ingest ends and its bytes are discarded.
    pub fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), ContentError> {
        self.core.write(Some(offset_bytes), bytes).map(drop)
    }

    /// Writes `bytes` after the contiguous prefix, for a writer that is alone. Returns where the next go.
    ///
    /// # Errors
    /// As [`Ingest::write_at`].
    pub fn append(&self, bytes: &[u8]) -> Result<u64, ContentError> {
        self.core.write(None, bytes)
    }

    /// Forgets everything at and after `length_bytes`. Waits for writes at work; readers beyond get an error.
    ///
    /// # Errors
    /// [`ContentError::IngestEnded`] or [`ContentError::Io`].
    pub fn truncate(&self, length_bytes: u64) -> Result<(), ContentError> {
        let exclusive = self.core.progress.exclusive()?;
        self.core.truncate(&exclusive, length_bytes)
    }

    /// The gaps up to the expected size or, if that is unknown, up to the last byte present.
    #[must_use]
    pub fn missing(&self) -> Vec<std::ops::Range<u64>> {
        let extents = self.core.progress.extents();
        let size_bytes = self.expected().size_bytes;
        extents.missing_in(0..size_bytes.unwrap_or_else(|| extents.end()))
    }

    /// Which bytes are present.
    #[must_use]
    pub fn extents(&self) -> ExtentMap {
        self.core.progress.extents()
    }

    /// The digest of the contiguous bytes so far, by the algorithm of the expected digest. It says what is there, not
    /// that it is right.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn digest_so_far(&self) -> Result<Digest, ContentError> {
        self.core.digest_so_far()
    }

    /// A reader over the growing prefix. What it gives is **not verified**: see [`IngestReader`].
    #[must_use]
    pub fn reader(&self) -> IngestReader {
        IngestReader::new(self.core.progress.clone())
    }

    /// Where it stands.
    ///
    /// # Errors
    /// [`ContentError::Io`], also after the ingest has ended.
    pub fn status(&self) -> Result<IngestStatus, ContentError> {
        self.core.status()
    }

    /// Verifies size and digest, syncs the bytes and gives them their name. All clones are ended by it.
    ///
    /// Without a size the contiguous bytes are the blob; without a digest it gets the one it has. Waits for
    /// writes at work.
    ///
    /// # Errors
    /// [`ContentError::Incomplete`] and [`ContentError::ExpectationChanged`] leave the ingest open;
    /// [`ContentError::SizeMismatch`], [`ContentError::DigestMismatch`] and a failed sync discard its bytes;
    /// [`ContentError::IngestEnded`] if another clone was faster; else [`ContentError::Io`] or
    /// [`ContentError::OutOfSpace`].
    pub fn commit(&self, expected: Expected) -> Result<Committed, ContentError> {
        let exclusive = self.core.progress.exclusive()?;
        self.core.commit(exclusive, expected)
    }

    /// Discards the bytes. All clones are ended by it. Waits for writes at work.
    ///
    /// # Errors
    /// [`ContentError::IngestEnded`], or [`ContentError::Io`] if bytes could not be removed.
    pub fn abort(&self) -> Result<(), ContentError> {
        self.core.abort()
    }

    /// Makes the bytes so far durable, as a checkpoint does by itself from time to time.
    ///
    /// # Errors
    /// [`ContentError::IngestEnded`]; after a failed sync the bytes are discarded.
    pub fn sync(&self) -> Result<(), ContentError> {
        self.core.checkpoint()
    }

    /// Makes the bytes so far durable and lets go of this clone.
    ///
    /// # Errors
    /// As [`Ingest::sync`].
    pub fn close(self) -> Result<(), ContentError> {
        self.core.checkpoint()
    }
}

impl Core {
    pub(crate) fn new(
        shelves: Arc<Shelves>,
        name: Name,
        dir: Dir,
        progress: Progress,
        is_resumed: bool,
    ) -> Self {
        let algorithm = progress.expected().algorithm();
        let checkpoint = Checkpoint {
            synced: progress.extents(),
            names_are_synced: is_resumed,
            sync_failed: false,
        };
        Self {
            shelves,
            name,
            dir,
            progress: Arc::new(progress),
            hash: Mutex::new(PrefixHash::new(algorithm)),
            checkpoint: Mutex::new(checkpoint),
        }
    }

    fn write(&self, offset: Option<u64>, bytes: &[u8]) -> Result<u64, ContentError> {
        let claim = self.progress.claim(offset, bytes.len())?;
        let start = claim.start;
        for gap in &claim.gaps {
            // A gap lies within the bytes, so both differences fit their length.
            let from = usize::try_from(gap.start - start).unwrap_or(bytes.len());
            let to = usize::try_from(gap.end - start).unwrap_or(bytes.len());
            self.progress
                .file
                .write_all_at(&bytes[from..to], gap.start)
                .map_err(|source| self.data_error("write", source))?;
        }
        let is_as_sent = claim
            .gaps
            .first()
            .is_some_and(|gap| gap.end - gap.start == bytes.len() as u64);
        claim.complete();
        self.start_writeback(start, start + bytes.len() as u64);
        // Bytes that were present before may differ from those sent now: the file is what counts.
        self.follow(start, if is_as_sent { bytes } else { &[] });
        if self.progress.unsynced_bytes() >= self.shelves.options.checkpoint_bytes {
            self.checkpoint()?;
        }
        Ok(start + bytes.len() as u64)
    }

    /// Lets the disk begin with every window that a write has come to the end of, so that checkpoint and commit find
    /// little left to wait for. Not with every write: small ones would be laid out in small pieces.
    fn start_writeback(&self, start: u64, end: u64) {
        let from = start - start % WRITEBACK_BYTES;
        let to = end - end % WRITEBACK_BYTES;
        if from < to {
            orlop_sys::fs::start_writeback(&self.progress.file, from, to - from);
        }
    }

    /// Lets the hash follow the prefix, unless another thread is at it. Never waits for a lock.
    fn follow(&self, offset: u64, bytes: &[u8]) {
        let Ok(mut hash) = self.hash.try_lock() else {
            return;
        };
        let mut budget = CATCH_UP_BYTES;
        loop {
            let prefix = self.progress.contiguous_bytes();
            if hash.advance_from_memory(offset, bytes, prefix) {
                continue;
            }
            let is_before = hash.hashed_bytes() < offset && !bytes.is_empty();
            let limit = if is_before {
                prefix.min(offset)
            } else {
                prefix
            };
            if hash.hashed_bytes() >= limit || budget == 0 {
                return;
            }
            match hash.advance_from_file(&self.progress.file, limit) {
                // The commit meets the same failure and reports it.
                Ok(0) | Err(_) => return,
                Ok(count) => budget = budget.saturating_sub(count),
            }
        }
    }

    fn truncate(&self, exclusive: &Exclusive<'_>, length: u64) -> Result<(), ContentError> {
        let mut hash = lock(&self.hash);
        let mut checkpoint = lock(&self.checkpoint);
        if checkpoint.synced.end() > length {
            // First disclaim, then cut: a crash in between must not leave a claim on bytes that are gone.
            let mut synced = checkpoint.synced.clone();
            synced.truncate(length);
            layout::store_extents(&self.dir, &synced)?;
            checkpoint.synced = synced;
        }
        exclusive.truncate(length);
        if hash.hashed_bytes() > length {
            *hash = PrefixHash::new(hash.algorithm());
        }
        self.progress
            .file
            .set_len(self.progress.extents().end())
            .map_err(|source| self.data_error("truncate", source))
    }

    /// Syncs the data, then says in `extents` what was synced.
    pub(crate) fn checkpoint(&self) -> Result<(), ContentError> {
        let mut checkpoint = lock(&self.checkpoint);
        if self.progress.is_ended() {
            // Committed or aborted while this thread waited: there is nothing left to keep.
            return Ok(());
        }
        if self.progress.unsynced_bytes() == 0 {
            return Ok(());
        }
        match self.store_checkpoint(&mut checkpoint) {
            Ok(()) => Ok(()),
            Err(error) => {
                checkpoint.sync_failed = true;
                drop(checkpoint);
                self.fail();
                Err(error)
            }
        }
    }

    fn store_checkpoint(&self, checkpoint: &mut Checkpoint) -> Result<(), ContentError> {
        let synced = self.progress.take_unsynced();
        self.progress
            .file
            .sync_data()
            .map_err(|source| self.data_error("sync", source))?;
        let stored = layout::store_extents(&self.dir, &synced).and_then(|()| {
            if checkpoint.names_are_synced {
                return Ok(());
            }
            layout::sync_names(&self.shelves.ingests, &self.dir)
        });
        match stored {
            Ok(()) => {
                checkpoint.synced = synced;
                checkpoint.names_are_synced = true;
            }
            // The data is safe, only a resume would begin earlier: no reason to fail a download.
            Err(error) => {
                tracing::warn!(reference = %self.progress.reference, %error, "checkpoint not stored");
            }
        }
        Ok(())
    }

    pub(crate) fn abort(&self) -> Result<(), ContentError> {
        let exclusive = self.progress.exclusive()?;
        let discarded = self.discard();
        exclusive.end(How::Aborted);
        self.shelves.release(&self.progress.reference);
        discarded
    }

    /// Discards the bytes after they proved wrong or could not be synced. The reason is the caller's to report.
    fn fail(&self) {
        // Not exclusive means that somebody else ended it first.
        if let Ok(exclusive) = self.progress.exclusive() {
            self.fail_exclusive(exclusive);
        }
    }

    pub(crate) fn fail_exclusive(&self, exclusive: Exclusive<'_>) {
        if let Err(error) = self.discard() {
            tracing::warn!(reference = %self.progress.reference, %error, "discarded ingest not removed");
        }
        exclusive.end(How::Failed);
        self.shelves.release(&self.progress.reference);
    }

    pub(crate) fn discard(&self) -> Result<(), ContentError> {
        // No checkpoint may recreate a file in the folder while it is removed.
        let _checkpoint = lock(&self.checkpoint);
        layout::discard(&self.shelves.ingests, &self.dir, &self.name)
            .map(drop)
            .map_err(ContentError::from)
    }

    pub(crate) fn status(&self) -> Result<IngestStatus, ContentError> {
        let extents = self.progress.extents();
        Ok(IngestStatus {
            reference: self.progress.reference.clone(),
            contiguous_bytes: extents.contiguous_bytes(),
            present_bytes: extents.present_bytes(),
            expected: self.progress.expected(),
            started_at: self.dir.stat(&layout::RECORD)?.modified,
            updated_at: self.dir.stat(&DATA)?.modified,
            is_open: true,
        })
    }

    pub(crate) fn data_error(
        &self,
        operation: &'static str,
        source: std::io::Error,
    ) -> ContentError {
        FsError::io(operation, &self.dir.path_of(&DATA), source).into()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // The last handle is going, so nobody can end the ingest between the checkpoint and the close.
        if self.progress.is_ended() {
            return;
        }
        if let Err(error) = self.checkpoint() {
            tracing::warn!(reference = %self.progress.reference, %error, "ingest not kept");
        }
        if self.progress.close() {
            self.shelves.release(&self.progress.reference);
        }
    }
}

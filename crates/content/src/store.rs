//! The store: one root, its blobs and its ingests.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use orlop_sys::fs::{Dir, FsError, LockFile, Mode, Name, Usage, usage_beneath};
use orlop_types::{Algorithm, Digest, IngestRef};

use crate::blob::{self, Blob, BlobInfo, Blobs};
use crate::hash::hash_file;
use crate::ingest::Core;
use crate::layout::{self, BLOBS, DATA, INGEST, LOCK, PRIVATE_DIR, RECORD};
use crate::progress::{Progress, lock};
use crate::{Committed, ContentError, Expected, Ingest, IngestStatus};

/// Others may look at blobs: they hold what registries hold. Ingests are nobody's business.
const SHARED_DIR: Mode = Mode::RWXU
    .union(Mode::RGRP)
    .union(Mode::XGRP)
    .union(Mode::ROTH)
    .union(Mode::XOTH);

/// Bounds of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// After so many written bytes an ingest is synced and its extents are stored: the most that a crash costs,
    /// beside what is being written meanwhile. Default 32 MiB.
    pub checkpoint_bytes: u64,
    /// Ingests open at a time; each holds two descriptors and up to 256 KiB. More are refused with
    /// [`ContentError::TooManyIngests`]. Default 256.
    pub open_ingests_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checkpoint_bytes: 32 * 1024 * 1024,
            open_ingests_max: 256,
        }
    }
}

/// How an existing file is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdoptMethod {
    /// A second name for the same file: costs nothing, but whoever has the first name can damage the blob.
    /// Only within one file system, and only for files that nobody writes any more.
    HardLink,
    /// By reflink where the file system can, else byte by byte.
    Copy,
}

/// What a store takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Verified blobs.
    pub blobs: Usage,
    /// Ingests, open and resumable.
    pub ingests: Usage,
}

/// A blob store. Clones share it; the root stays locked until the last clone and the last [`Ingest`] are gone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) shelves: Arc<Shelves>,
}

/// What the store and its ingests share.
#[derive(Debug)]
pub(crate) struct Shelves {
    pub(crate) root: Dir,
    pub(crate) ingests: Dir,
    sha256: Dir,
    sha512: Dir,
    pub(crate) options: Options,
    /// Held while a blob gets or loses its name.
    pub(crate) publishing: Mutex<()>,
    open: Mutex<HashMap<IngestRef, Slot>>,
    /// None: open for reading only.
    lock: Option<LockFile>,
}

/// Who has a reference.
#[derive(Debug)]
enum Slot {
    /// Somebody is opening or removing it.
    Reserved,
    /// It is open. A dead pointer means that its last handle is syncing at this moment.
    Open(Weak<Core>),
}

impl Store {
    /// Opens the store at `root` for reading and writing, creating it if it is missing, and removes what a killed
    /// process left half-made.
    ///
    /// # Errors
    /// [`ContentError::StoreBusy`] if another process (or another [`Store`] of this one) has it open;
    /// [`ContentError::Io`] on a read-only or broken file system.
    pub fn open(root: &Path) -> Result<Self, ContentError> {
        Self::open_with(root, Options::default())
    }

    /// [`Store::open`] with other bounds.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(root: &Path, options: Options) -> Result<Self, ContentError> {
        let root = Dir::create_all(root, SHARED_DIR)?;
        let lock = LockFile::acquire(&root, &LOCK).map_err(|source| busy(&root, source))?;
        let blobs = root.ensure_dir(&BLOBS, SHARED_DIR)?;
        let open = |algorithm| blobs.ensure_dir(&layout::algorithm_name(algorithm), SHARED_DIR);
        let sha256 = open(Algorithm::Sha256)?;
        let sha512 = open(Algorithm::Sha512)?;
        let ingests = root.ensure_dir(&INGEST, PRIVATE_DIR)?;
        // A blob is durable only if the folders above it are.
        blobs.sync()?;
        root.sync()?;
        for name in layout::sweep(&ingests)? {
            tracing::info!(%name, "removed a half-made ingest");
        }
        Ok(Self::from_parts(
            root,
            ingests,
            sha256,
            sha512,
            options,
            Some(lock),
        ))
    }

    /// Opens an existing store for inspection: without the lock, beside a running daemon, changing nothing.
    ///
    /// # Errors
    /// [`ContentError::Io`] if a folder is missing or unreadable.
    pub fn open_read_only(root: &Path) -> Result<Self, ContentError> {
        let root = Dir::open(root)?;
        let blobs = root.open_dir(&BLOBS)?;
        let sha256 = blobs.open_dir(&layout::algorithm_name(Algorithm::Sha256))?;
        let sha512 = blobs.open_dir(&layout::algorithm_name(Algorithm::Sha512))?;
        let ingests = root.open_dir(&INGEST)?;
        Ok(Self::from_parts(
            root,
            ingests,
            sha256,
            sha512,
            Options::default(),
            None,
        ))
    }

    fn from_parts(
        root: Dir,
        ingests: Dir,
        sha256: Dir,
        sha512: Dir,
        options: Options,
        lock: Option<LockFile>,
    ) -> Self {
        let shelves = Shelves {
            root,
            ingests,
            sha256,
            sha512,
            options,
            publishing: Mutex::new(()),
            open: Mutex::new(HashMap::new()),
            lock,
        };
        Self {
            shelves: Arc::new(shelves),
        }
    }

    /// Where the store is, for messages.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.shelves.root.path()
    }

    /// Begins an ingest under `reference`, or resumes one: then [`Ingest::missing`] tells what is still to be had.
    /// A resumed one keeps what it was told to expect and learns what `expected` knows more.
    ///
    /// # Errors
    /// [`ContentError::IngestBusy`] while another writer has it; [`ContentError::ExpectationChanged`] if it was
    /// begun for other content; [`ContentError::TooManyIngests`]; [`ContentError::ReadOnly`];
    /// [`ContentError::Io`] or [`ContentError::OutOfSpace`].
    pub fn ingest(
        &self,
        reference: &IngestRef,
        expected: Expected,
    ) -> Result<Ingest, ContentError> {
        self.open_ingest(reference, expected, layout::open_data)
    }

    /// Takes over the file `name` of `source`: it is hashed like any other ingest before it becomes a blob.
    /// An ingest begun under `reference` before is replaced.
    ///
    /// # Errors
    /// As [`Store::ingest`] and [`Ingest::commit`]; [`ContentError::Io`] if a hard link is not possible. In every
    /// case the source keeps its bytes.
    pub fn adopt(
        &self,
        reference: &IngestRef,
        source: &Dir,
        name: &Name,
        expected: Expected,
        method: AdoptMethod,
    ) -> Result<Committed, ContentError> {
        let ingest = self.open_ingest(reference, expected, |dir| {
            layout::adopt_data(dir, source, name, method)
        })?;
        let committed = ingest.commit(expected);
        if committed.is_err() {
            // An adoption is not resumed. If commit ended the ingest there is nothing to abort.
            ingest.abort().ok();
        }
        committed
    }

    /// Takes over a blob of another store, which is hashed on the way. The other store keeps its own.
    ///
    /// # Errors
    /// As [`Store::adopt`]; [`ContentError::BlobNotFound`] if the other store does not have it.
    pub fn adopt_blob(
        &self,
        reference: &IngestRef,
        source: &Self,
        digest: &Digest,
        method: AdoptMethod,
    ) -> Result<Committed, ContentError> {
        let info = source.stat(digest)?;
        let blobs = source.shelves.blobs(digest.algorithm());
        let expected = Expected::exactly(info.size_bytes, *digest);
        self.adopt(reference, blobs, &Name::from(digest), expected, method)
    }

    /// Where an ingest stands.
    ///
    /// # Errors
    /// [`ContentError::IngestNotFound`] or [`ContentError::Io`].
    pub fn status(&self, reference: &IngestRef) -> Result<IngestStatus, ContentError> {
        let open = self.shelves.open_core(reference);
        // One that ends at this moment is told as it was last stored.
        if let Some(status) = open.and_then(|core| core.status().ok()) {
            return Ok(status);
        }
        let not_found = || ContentError::IngestNotFound {
            reference: reference.clone(),
        };
        self.shelves
            .stored_status(&layout::name_of(reference))
            .and_then(|status| status.ok_or_else(not_found))
    }

    /// Where all ingests stand, open and resumable, by reference.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn statuses(&self) -> Result<Vec<IngestStatus>, ContentError> {
        let mut statuses = Vec::new();
        for entry in self.shelves.ingests.entries()? {
            let Some(stored) = self.shelves.stored_status(&entry?.name)? else {
                continue;
            };
            let open = self.shelves.open_core(&stored.reference);
            // An ingest that ends at this moment is told as it was last stored.
            let status = open.and_then(|core| core.status().ok()).unwrap_or(stored);
            statuses.push(status);
        }
        statuses.sort_by(|left, right| left.reference.cmp(&right.reference));
        Ok(statuses)
    }

    /// Discards an ingest. An open one is ended under its writer, which is waited for.
    ///
    /// # Errors
    /// [`ContentError::IngestNotFound`]; [`ContentError::IngestBusy`] while it is being opened or closed;
    /// [`ContentError::ReadOnly`] or [`ContentError::Io`].
    pub fn abort(&self, reference: &IngestRef) -> Result<(), ContentError> {
        self.shelves.check_writable("abort an ingest")?;
        if let Some(core) = self.shelves.open_core(reference) {
            return core.abort();
        }
        let _reservation = Reservation::new(&self.shelves, reference)?;
        let name = layout::name_of(reference);
        let dir = match self.shelves.ingests.open_dir(&name) {
            Err(error) if error.is_not_found() => {
                return Err(ContentError::IngestNotFound {
                    reference: reference.clone(),
                });
            }
            other => other?,
        };
        layout::discard(&self.shelves.ingests, &dir, &name)?;
        Ok(())
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// [`ContentError::BlobNotFound`] or [`ContentError::Io`].
    pub fn blob(&self, digest: &Digest) -> Result<Blob, ContentError> {
        blob::open(self.shelves.blobs(digest.algorithm()), digest)
    }

    /// What is known of a blob without opening it.
    ///
    /// # Errors
    /// [`ContentError::BlobNotFound`] or [`ContentError::Io`].
    pub fn stat(&self, digest: &Digest) -> Result<BlobInfo, ContentError> {
        blob::stat(self.shelves.blobs(digest.algorithm()), digest)
    }

    /// Removes a blob, durably. Returns the bytes freed on disk: 0 if it was not there, or has another name.
    ///
    /// # Errors
    /// [`ContentError::ReadOnly`] or [`ContentError::Io`].
    pub fn remove(&self, digest: &Digest) -> Result<u64, ContentError> {
        self.shelves.check_writable("remove a blob")?;
        let blobs = self.shelves.blobs(digest.algorithm());
        let freed = {
            let _publishing = lock(&self.shelves.publishing);
            orlop_sys::fs::remove_tree_beneath(blobs, &Name::from(digest))?
        };
        if freed != Usage::default() {
            blobs.sync()?;
        }
        Ok(freed.bytes)
    }

    /// All blobs, in no order. What is no blob comes as [`ContentError::Stray`]; the walk goes on after it.
    ///
    /// # Errors
    /// [`ContentError::Io`] when out of descriptors.
    pub fn walk(&self) -> Result<Blobs, ContentError> {
        let shelf = |algorithm| -> Result<_, FsError> {
            Ok((algorithm, self.shelves.blobs(algorithm).try_clone()?))
        };
        Ok(Blobs {
            shelves: vec![shelf(Algorithm::Sha512)?, shelf(Algorithm::Sha256)?],
            current: None,
        })
    }

    /// Reads a whole blob and checks it against its digest.
    ///
    /// # Errors
    /// [`ContentError::CorruptBlob`], [`ContentError::BlobNotFound`] or [`ContentError::Io`]. The blob stays:
    /// whether it goes is for whoever knows what needs it.
    pub fn verify(&self, digest: &Digest) -> Result<BlobInfo, ContentError> {
        let blob = self.blob(digest)?;
        let path = self
            .shelves
            .blobs(digest.algorithm())
            .path_of(&Name::from(digest));
        let (actual, _) = hash_file(blob.file(), digest.algorithm())
            .map_err(|source| FsError::io("read", &path, source))?;
        if actual == *digest {
            return Ok(*blob.info());
        }
        Err(ContentError::CorruptBlob {
            expected: Box::new(*digest),
            actual: Box::new(actual),
        })
    }

    /// What the store takes on disk. Reads all folders: not for a hot path.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn usage(&self) -> Result<StoreUsage, ContentError> {
        Ok(StoreUsage {
            blobs: usage_beneath(&self.shelves.root, &BLOBS)?,
            ingests: usage_beneath(&self.shelves.root, &INGEST)?,
        })
    }

    fn open_ingest(
        &self,
        reference: &IngestRef,
        expected: Expected,
        open_data: impl FnOnce(&Dir) -> Result<(std::fs::File, crate::ExtentMap), FsError>,
    ) -> Result<Ingest, ContentError> {
        self.shelves.check_writable("write an ingest")?;
        let reservation = Reservation::new(&self.shelves, reference)?;
        let (dir, expected) = layout::open_folder(&self.shelves.ingests, reference, expected)?;
        let (file, extents) = open_data(&dir)?;
        let is_resumed = !extents.pieces().is_empty();
        let progress = Progress::new(reference.clone(), file, extents, expected);
        let name = layout::name_of(reference);
        let core = Arc::new(Core::new(
            self.shelves.clone(),
            name,
            dir,
            progress,
            is_resumed,
        ));
        reservation.fill(&core);
        Ok(Ingest { core })
    }
}

fn busy(root: &Dir, source: FsError) -> ContentError {
    if !matches!(source, FsError::Locked { .. }) {
        return source.into();
    }
    ContentError::StoreBusy {
        root: root.path().display().to_string(),
        source,
    }
}

impl Shelves {
    /// The folder of an algorithm's blobs.
    pub(crate) const fn blobs(&self, algorithm: Algorithm) -> &Dir {
        match algorithm {
            Algorithm::Sha256 => &self.sha256,
            Algorithm::Sha512 => &self.sha512,
        }
    }

    /// Lets the next writer have `reference`.
    pub(crate) fn release(&self, reference: &IngestRef) {
        lock(&self.open).remove(reference);
    }

    pub(crate) fn check_writable(&self, operation: &'static str) -> Result<(), ContentError> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(ContentError::ReadOnly { operation }),
        }
    }

    fn open_core(&self, reference: &IngestRef) -> Option<Arc<Core>> {
        match lock(&self.open).get(reference)? {
            Slot::Reserved => None,
            Slot::Open(core) => core.upgrade(),
        }
    }

    /// The status of an ingest as a crash would leave it. None if there is none, or it is half-made.
    fn stored_status(&self, name: &Name) -> Result<Option<IngestStatus>, ContentError> {
        match self.read_status(name) {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map_err(ContentError::from),
        }
    }

    fn read_status(&self, name: &Name) -> Result<Option<IngestStatus>, FsError> {
        let dir = self.ingests.open_dir(name)?;
        let Some((reference, expected)) = layout::load_record(&dir, name)? else {
            return Ok(None);
        };
        let extents = layout::load_extents(&dir)?;
        Ok(Some(IngestStatus {
            reference,
            contiguous_bytes: extents.contiguous_bytes(),
            present_bytes: extents.present_bytes(),
            expected,
            started_at: dir.stat(&RECORD)?.modified,
            updated_at: dir.stat(&DATA)?.modified,
            is_open: false,
        }))
    }
}

/// A reference taken before its folder is touched, and given back unless an open ingest takes it over.
struct Reservation<'store> {
    shelves: &'store Shelves,
    reference: &'store IngestRef,
    is_filled: bool,
}

impl<'store> Reservation<'store> {
    fn new(shelves: &'store Shelves, reference: &'store IngestRef) -> Result<Self, ContentError> {
        let mut open = lock(&shelves.open);
        if open.contains_key(reference) {
            return Err(ContentError::IngestBusy {
                reference: reference.clone(),
            });
        }
        let limit = shelves.options.open_ingests_max;
        if open.len() >= limit {
            return Err(ContentError::TooManyIngests { limit });
        }
        open.insert(reference.clone(), Slot::Reserved);
        Ok(Self {
            shelves,
            reference,
            is_filled: false,
        })
    }

    fn fill(mut self, core: &Arc<Core>) {
        let slot = Slot::Open(Arc::downgrade(core));
        lock(&self.shelves.open).insert(self.reference.clone(), slot);
        self.is_filled = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_filled {
            self.shelves.release(self.reference);
        }
    }
}

//! An object store and a disk in memory, with archives, and a switch that stops everything where a test wants.

mod mortal;
mod store;
mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orlop_cache::depot::Source;
use orlop_cache::tier::apply::{Receive, Removal, Shelf};
use orlop_types::Digest;
use sha2::{Digest as _, Sha256};

pub use mortal::Mortal;
pub use store::MemoryDepot;
pub use switch::{Death, Switch};

/// The digest of some bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::sha256(Sha256::digest(bytes).into())
}

/// A node's disk.
#[derive(Debug, Clone)]
pub struct MemoryShelf {
    blobs: Arc<Mutex<BTreeMap<Digest, Vec<u8>>>>,
    pinned: Arc<Mutex<BTreeSet<Digest>>>,
    switch: Switch,
}

impl MemoryShelf {
    /// An empty disk that dies by `switch`.
    #[must_use]
    pub fn new(switch: Switch) -> Self {
        Self {
            blobs: Arc::default(),
            pinned: Arc::default(),
            switch,
        }
    }

    /// The same disk under another switch: what a restart finds.
    #[must_use]
    pub fn reborn(&self, switch: Switch) -> Self {
        Self {
            switch,
            ..self.clone()
        }
    }

    /// Puts a blob there.
    pub fn keep(&self, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        lock(&self.blobs).insert(digest, bytes.to_vec());
        digest
    }

    /// Makes a blob stay.
    pub fn pin(&self, digest: Digest) {
        lock(&self.pinned).insert(digest);
    }

    /// A blob's bytes.
    #[must_use]
    pub fn bytes(&self, digest: &Digest) -> Option<Vec<u8>> {
        lock(&self.blobs).get(digest).cloned()
    }
}

impl Shelf for MemoryShelf {
    fn open(&self, digest: &Digest) -> io::Result<Option<Source>> {
        let Some(bytes) = self.bytes(digest) else {
            return Ok(None);
        };
        let mut file = tempfile::tempfile()?;
        io::Write::write_all(&mut file, &bytes)?;
        let bytes = bytes.len() as u64;
        Ok(Some(Source { file, bytes }))
    }

    fn remove(&self, digest: &Digest) -> io::Result<Removal> {
        self.switch.step();
        let is_pinned = lock(&self.pinned).contains(digest);
        if !is_pinned {
            lock(&self.blobs).remove(digest);
        }
        self.switch.step();
        Ok(if is_pinned {
            Removal::Kept
        } else {
            Removal::Gone
        })
    }

    fn receive(&self, digest: &Digest, _bytes: u64) -> io::Result<Box<dyn Receive>> {
        Ok(Box::new(Incoming {
            digest: *digest,
            bytes: Vec::new(),
            shelf: self.clone(),
        }))
    }
}

struct Incoming {
    digest: Digest,
    bytes: Vec<u8>,
    shelf: MemoryShelf,
}

impl Receive for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(self: Box<Self>) -> io::Result<()> {
        self.shelf.switch.step();
        if digest_of(&self.bytes) != self.digest {
            return Err(io::Error::other("the digest is another"));
        }
        lock(&self.shelf.blobs).insert(self.digest, self.bytes);
        self.shelf.switch.step();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

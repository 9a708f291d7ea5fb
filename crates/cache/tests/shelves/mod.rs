//! A store in a temporary folder, and blobs that can be made again from a number.
#![allow(
    dead_code,
    reason = "not every suite that shares this module needs all of it"
)]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::ManualClock;
use orlop_cache::store::{Fill, Opening, Options, Store};
use orlop_content::Hasher;
use orlop_types::{Algorithm, Digest};

pub(crate) const LOCATOR: &str = "registry.example.com/team/app";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A sequence that needs no crate and can be repeated (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// `length` bytes that only `number` has.
pub(crate) fn bytes_of(number: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(number + 1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    hasher.finish()
}

/// A store whose time stands still.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) clock: ManualClock,
    pub(crate) options: Options,
    pub(crate) folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(cap_bytes: u64) -> Self {
        Self::with(Options {
            cap_bytes,
            ..Options::default()
        })
    }

    pub(crate) fn with(options: Options) -> Self {
        // A kill does not touch what the kernel holds, so memory is as good as a disk, and many times as fast.
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let clock = ManualClock::new();
        let store = open(folder.path(), &options, &clock);
        Self {
            store,
            clock,
            options,
            folder,
        }
    }

    /// Closes the store and opens it again, some time later.
    pub(crate) fn reopen(self, later: Duration) -> Self {
        let Self {
            store,
            clock,
            options,
            folder,
        } = self;
        drop(store);
        clock.advance(later);
        let store = open(folder.path(), &options, &clock);
        Self {
            store,
            clock,
            options,
            folder,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Fills a blob and says its digest.
    pub(crate) fn keep(&self, number: u64, length: usize) -> Digest {
        self.keep_in(LOCATOR, number, length)
    }

    pub(crate) fn keep_in(&self, locator: &str, number: u64, length: usize) -> Digest {
        let bytes = bytes_of(number, length);
        let digest = digest_of(&bytes);
        let fill = begun(self.store.fill(&digest, length as u64, locator).unwrap());
        fill.write_all(&bytes).unwrap();
        fill.commit(Some(LAYER)).unwrap();
        digest
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.store.find(digest).unwrap().is_some()
    }

    /// Every file below the blob store, by its length: what is on disk.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        bytes_below(&self.root().join("content"))
    }

    pub(crate) fn path_of(&self, digest: &Digest) -> std::path::PathBuf {
        self.root().join("content/blobs/sha256").join(digest.hex())
    }

    /// Changes a blob's bytes behind the store's back.
    pub(crate) fn damage(&self, digest: &Digest) {
        use std::os::unix::fs::{FileExt, PermissionsExt};
        let path = self.path_of(digest);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"damaged", 1).unwrap();
    }

    /// A number from the database.
    pub(crate) fn count(&self, sql: &str) -> i64 {
        count(self.root(), sql)
    }
}

pub(crate) fn count(root: &Path, sql: &str) -> i64 {
    let database = rusqlite::Connection::open(root.join("cache.db")).unwrap();
    database.query_row(sql, [], |row| row.get(0)).unwrap()
}

pub(crate) fn open(root: &Path, options: &Options, clock: &ManualClock) -> Store {
    Store::open(root, options.clone(), Arc::new(clock.clone())).unwrap()
}

pub(crate) fn begun(opening: Opening) -> Fill {
    match opening {
        Opening::Begun(fill) => fill,
        Opening::Present | Opening::Busy | Opening::NoRoom { .. } => {
            panic!("not begun: {opening:?}")
        }
    }
}

/// The lengths of blobs, of bytes being filled and of what was set aside, together.
pub(crate) fn bytes_below(content: &Path) -> u64 {
    let mut sum = 0;
    let mut folders = vec![content.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.map(Result::unwrap) {
            // Something may go while this looks.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let name = entry.file_name();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if !["lock", "ref", "extents"].contains(&&*name.to_string_lossy()) {
                sum += metadata.len();
            }
        }
    }
    sum
}

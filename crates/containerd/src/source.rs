//! containerd's root folder.
//!
//! ```text
//! ROOT/io.containerd.metadata.v1.bolt/meta.db         names, labels, leases, sandboxes
//! ROOT/io.containerd.content.v1.content/blobs/<alg>/  blobs by their hex
//! ```

use std::fs::{File, TryLockError};
use std::path::Path;

use orlop_sys::fs::{Dir, FileKind, Name};
use orlop_types::{Algorithm, Digest, Namespace, chain};

use crate::Error;
use crate::bolt::Bolt;
use crate::decode;
use crate::report::{Left, NamespaceReport, Report};
use crate::stock::{Blob, Shelf, Stock};

const METADATA: &str = "io.containerd.metadata.v1.bolt";
const DATABASE: Name = Name::from_static("meta.db");
const BLOBS: &str = "io.containerd.content.v1.content/blobs";

/// The newest layout within `v1` that is known: containerd 2.1 to 2.3 write it.
const LAYOUT_MAX: i64 = 4;

/// A stopped containerd, locked against its own start until this is dropped.
#[derive(Debug)]
pub struct Source {
    stock: Stock,
    sha256: Option<Dir>,
    sha512: Option<Dir>,
    /// bolt's own lock, shared: containerd takes it exclusively.
    _database: File,
}

impl Source {
    /// Opens containerd's root, such as `/var/lib/containerd`, and reads its database.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Running`], [`Error::Lock`], [`Error::Database`], [`Error::NewerLayout`].
    pub fn open(root: &Path) -> Result<Self, Error> {
        let root = Dir::open(root).map_err(Error::Open)?;
        let metadata = root.open_dir_beneath(Path::new(METADATA));
        let metadata = metadata.map_err(Error::Open)?;
        let database = metadata.open_file(&DATABASE).map_err(Error::Open)?;
        let path = metadata.path_of(&DATABASE);
        match database.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Running { path }),
            Err(TryLockError::Error(source)) => return Err(Error::Lock { path, source }),
        }
        let failed = |source| Error::Database {
            path: path.clone(),
            source,
        };
        let to_read = metadata.open_file(&DATABASE).map_err(Error::Open)?;
        let mut bolt = Bolt::open(to_read).map_err(failed)?;
        let stock = decode::read(&mut bolt).map_err(failed)?;
        if stock.version > LAYOUT_MAX {
            return Err(Error::NewerLayout {
                path,
                found: stock.version,
                known: LAYOUT_MAX,
            });
        }
        Ok(Self {
            stock,
            sha256: open_blobs(&root, Algorithm::Sha256)?,
            sha512: open_blobs(&root, Algorithm::Sha512)?,
            _database: database,
        })
    }

    /// What it has.
    #[must_use]
    pub const fn stock(&self) -> &Stock {
        &self.stock
    }

    /// Says what [`Source::bring`] would bring, changing nothing. Blobs are looked at, not hashed.
    #[must_use]
    pub fn plan(&self) -> Report {
        let mut report = self.begin_report();
        for (name, shelf) in &self.stock.shelves {
            let mut one = NamespaceReport::new(name.clone());
            one.images.brought = count(&shelf.images);
            one.leases.brought = count(&shelf.leases);
            one.sandboxes.brought = count(&shelf.sandboxes);
            for blob in &shelf.blobs {
                match self.find(blob) {
                    Ok(_) => {
                        one.blobs.brought += 1;
                        one.bytes += blob.size_bytes;
                    }
                    Err(why) => report.left.push(left_blob(name, &blob.digest, why)),
                }
            }
            report.namespaces.push(one);
        }
        report
    }

    pub(crate) fn begin_report(&self) -> Report {
        Report {
            version: self.stock.version,
            namespaces: Vec::new(),
            left: self.stock.left.clone(),
        }
    }

    pub(crate) fn shelves(&self) -> impl Iterator<Item = (&Namespace, &Shelf)> {
        self.stock.shelves.iter()
    }

    /// The folder of a blob's file, or why there is no such blob.
    pub(crate) fn find(&self, blob: &Blob) -> Result<&Dir, String> {
        let folder = match blob.digest.algorithm() {
            Algorithm::Sha256 => self.sha256.as_ref(),
            Algorithm::Sha512 => self.sha512.as_ref(),
        };
        let folder = folder.ok_or("its folder is missing")?;
        let stat = folder.stat(&Name::from(&blob.digest));
        let stat = stat.map_err(|error| match error.is_not_found() {
            true => "its file is missing".to_owned(),
            false => chain(&error),
        })?;
        match stat.kind == FileKind::File && stat.len_bytes == blob.size_bytes {
            true => Ok(folder),
            false => Err(format!(
                "its file has {} bytes, the record says {}",
                stat.len_bytes, blob.size_bytes
            )),
        }
    }
}

pub(crate) fn left_blob(namespace: &Namespace, digest: &Digest, why: impl Into<String>) -> Left {
    Left::new(format!("{namespace}: blob {digest}"), why)
}

fn open_blobs(root: &Dir, algorithm: Algorithm) -> Result<Option<Dir>, Error> {
    let path = Path::new(BLOBS).join(algorithm.as_str());
    match root.open_dir_beneath(&path) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(Error::Open(error)),
    }
}

const fn count<T>(list: &[T]) -> u64 {
    list.len() as u64
}

//! Reading, checking and removing blobs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use orlop_sys::fs::{Dir, Entries, FileKind, FsError, Name};
use orlop_types::{Algorithm, Digest};

use crate::ContentError;

/// What is known of a blob without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// What it takes on disk, in bytes.
    pub disk_bytes: u64,
    /// When its last byte was written, shortly before the commit.
    pub written_at: SystemTime,
}

/// An open blob. It can be read to its end even if it is removed meanwhile.
///
/// Its bytes were verified when they were committed; [`crate::Store::verify`] tells whether they still are.
#[derive(Debug)]
pub struct Blob {
    file: File,
    info: BlobInfo,
}

impl Blob {
    /// What is known of it.
    #[must_use]
    pub const fn info(&self) -> &BlobInfo {
        &self.info
    }

    /// Its digest.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.info.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.info.size_bytes
    }

    /// Reads at an offset, independent of the position of [`Read`]. 0 at the end.
    ///
    /// # Errors
    /// As pread(2).
    pub fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset_bytes)
    }

    /// Its file, for readers that take one.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for Blob {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

impl AsFd for Blob {
    /// For sendfile(2) and splice(2).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

pub(crate) fn open(blobs: &Dir, digest: &Digest) -> Result<Blob, ContentError> {
    let name = Name::from(digest);
    let file = blobs
        .open_file(&name)
        .map_err(|error| not_found(error, digest))?;
    // Asked by name, the answer could be about another file; but names are never given to other bytes.
    let info = stat(blobs, digest)?;
    Ok(Blob { file, info })
}

pub(crate) fn stat(blobs: &Dir, digest: &Digest) -> Result<BlobInfo, ContentError> {
    let stat = blobs
        .stat(&Name::from(digest))
        .map_err(|error| not_found(error, digest))?;
    Ok(BlobInfo {
        digest: *digest,
        size_bytes: stat.len_bytes,
        disk_bytes: stat.disk_bytes,
        written_at: stat.modified,
    })
}

fn not_found(error: FsError, digest: &Digest) -> ContentError {
    if error.is_not_found() {
        ContentError::BlobNotFound { digest: *digest }
    } else {
        error.into()
    }
}

/// All blobs, in no order, while others come and go. From [`crate::Store::walk`].
#[derive(Debug)]
pub struct Blobs {
    pub(crate) shelves: Vec<(Algorithm, Dir)>,
    pub(crate) current: Option<(Algorithm, Dir, Entries)>,
}

impl Blobs {
    /// Goes to the next algorithm. None at the end.
    fn advance(&mut self) -> Option<Result<(), ContentError>> {
        let (algorithm, dir) = self.shelves.pop()?;
        let opened = dir
            .entries()
            .map(|entries| self.current = Some((algorithm, dir, entries)));
        Some(opened.map_err(ContentError::from))
    }
}

impl Iterator for Blobs {
    type Item = Result<BlobInfo, ContentError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((algorithm, dir, entries)) = &mut self.current else {
                match self.advance()? {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                }
            };
            match entries.next() {
                None => self.current = None,
                Some(Err(error)) => return Some(Err(error.into())),
                Some(Ok(entry)) => match blob_entry(*algorithm, dir, &entry.name) {
                    // Removed since it was listed.
                    Err(ContentError::BlobNotFound { .. }) => {}
                    found => return Some(found),
                },
            }
        }
    }
}

fn blob_entry(algorithm: Algorithm, dir: &Dir, name: &Name) -> Result<BlobInfo, ContentError> {
    let stray = || ContentError::Stray {
        path: dir.path_of(name).display().to_string(),
    };
    let digest: Digest = format!("{}:{name}", algorithm.as_str())
        .parse()
        .map_err(|_| stray())?;
    match dir.stat(name) {
        Ok(stat) if stat.kind != FileKind::File => Err(stray()),
        Ok(_) | Err(_) => stat(dir, &digest),
    }
}

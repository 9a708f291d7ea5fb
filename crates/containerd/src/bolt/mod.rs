//! A reader of bolt files (bbolt 1.3 and 1.4, format version 2), which containerd keeps its metadata in.
//!
//! ```text
//! page 0, 1   meta pages: page size, root bucket, high water mark, transaction, checksum; the younger valid one counts
//! page n      header (id, kind, count, overflow), elements, then keys and values; `overflow` more pages belong to it
//! bucket      a tree of branch and leaf pages; a small one is a leaf page inside its parent's value
//! ```
//!
//! Why own code: the crates for it map the file and cast its bytes, which a damaged file can abuse. This one reads pages by
//! position, checks each offset, and never reads a page twice, so that whatever the file says, reading it ends and takes no
//! more memory than the file has bytes. Only little-endian files are read: all machines containerd runs on here write those.

mod bucket;
mod error;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub use bucket::{Bucket, Entries, Entry};
pub use error::BoltError;

use bucket::{Page, PageKind};

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const META_BYTES: usize = 80;
const HEAD_BYTES: usize = 16;

/// Page sizes of any machine: those of x86 and ARM are within.
const PAGE_BYTES_MIN: u64 = 1 << 10;
const PAGE_BYTES_MAX: u64 = 1 << 16;

/// One run of pages; a record of containerd is some kilobytes, a spec at most some hundred.
const RUN_BYTES_MAX: u64 = 64 << 20;

/// How far a tree is descended: four levels hold millions of keys.
const DEPTH_MAX: usize = 32;

/// Where the bytes are.
pub trait ReadAt {
    /// How many there are.
    ///
    /// # Errors
    /// Those of the file.
    fn length_bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` with those at `offset_bytes`.
    ///
    /// # Errors
    /// `UnexpectedEof` where there are not so many; those of the file.
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn length_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset_bytes)
    }
}

impl ReadAt for &[u8] {
    fn length_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        let found = usize::try_from(offset_bytes)
            .ok()
            .and_then(|from| self.get(from..from.checked_add(buffer.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }
}

/// A bolt file, open for reading. Each page is read once, so each bucket can be listed once.
#[derive(Debug)]
pub struct Bolt<S> {
    source: S,
    meta: Meta,
    /// A bit for each page that was read.
    seen: Vec<u64>,
}

/// What a meta page says.
#[derive(Debug, Clone, Copy)]
struct Meta {
    page_bytes: u64,
    root: u64,
    /// No page from here on.
    high_water: u64,
    transaction: u64,
}

impl<S: ReadAt> Bolt<S> {
    /// Opens a file: finds the younger of its two meta pages.
    ///
    /// # Errors
    /// [`BoltError::NotBolt`] if neither is whole; [`BoltError::CutShort`]; [`BoltError::Read`].
    pub fn open(source: S) -> Result<Self, BoltError> {
        let length = source.length_bytes().map_err(BoltError::Read)?;
        let first = meta_at(&source, 0, None)?;
        // Where the second one is says the first; if that one is damaged, it is looked for.
        let sizes = std::iter::successors(Some(PAGE_BYTES_MIN), |size| Some(size * 2));
        let mut younger = first;
        for size in sizes.take_while(|size| *size <= PAGE_BYTES_MAX) {
            if let Some(second) = meta_at(&source, size, Some(size))?
                && younger.is_none_or(|found| found.transaction < second.transaction)
            {
                younger = Some(second);
            }
        }
        let meta = younger.ok_or(BoltError::NotBolt)?;
        let pages = length / meta.page_bytes;
        if meta.high_water > pages {
            return Err(BoltError::CutShort {
                pages,
                expected: meta.high_water,
            });
        }
        // Not beyond the file's own length.
        let words = usize::try_from(meta.high_water / 64 + 1).map_err(|_| BoltError::NotBolt)?;
        Ok(Self {
            source,
            meta,
            seen: vec![0; words],
        })
    }

    /// The bucket that holds all others.
    pub fn root(&self) -> Bucket {
        Bucket::at(self.meta.root)
    }

    /// The keys of a bucket with what they name, in the order of the keys.
    ///
    /// # Errors
    /// [`BoltError::Damaged`] naming the page; [`BoltError::Read`].
    pub fn entries(&mut self, bucket: Bucket) -> Result<Entries, BoltError> {
        let mut found = Entries::default();
        let mut pending = match bucket.inline_page()? {
            Err(root) => vec![(root, 0)],
            Ok(page) => {
                page.leaf(&mut found)?;
                Vec::new()
            }
        };
        while let Some((id, depth)) = pending.pop() {
            let bytes = self.read_page(id)?;
            let page = Page::parse(id, &bytes)?;
            match page.kind {
                PageKind::Leaf => page.leaf(&mut found)?,
                PageKind::Branch if depth == DEPTH_MAX => {
                    return Err(BoltError::damaged(id, "its tree is too deep"));
                }
                PageKind::Branch => {
                    let children = page.branch()?;
                    pending.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
                }
            }
        }
        found.check_order()?;
        Ok(found)
    }

    /// A page with those that belong to it.
    fn read_page(&mut self, id: u64) -> Result<Vec<u8>, BoltError> {
        if id < 2 || id >= self.meta.high_water {
            return Err(BoltError::damaged(id, "there is no such page"));
        }
        let offset = id * self.meta.page_bytes;
        let mut head = [0; HEAD_BYTES];
        self.read(&mut head, offset)?;
        let overflow = u64::from(bucket::u32_at(&head, 12).unwrap_or(0));
        let run = overflow + 1;
        if run > self.meta.high_water - id || run * self.meta.page_bytes > RUN_BYTES_MAX {
            return Err(BoltError::damaged(id, "it runs on for too long"));
        }
        for page in id..id + run {
            self.note_seen(page)?;
        }
        let length = usize::try_from(run * self.meta.page_bytes)
            .map_err(|_| BoltError::damaged(id, "it runs on for too long"))?;
        let mut bytes = vec![0; length];
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn note_seen(&mut self, page: u64) -> Result<(), BoltError> {
        let bit = 1 << (page % 64);
        let word = usize::try_from(page / 64)
            .ok()
            .and_then(|word| self.seen.get_mut(word))
            .ok_or_else(|| BoltError::damaged(page, "there is no such page"))?;
        if *word & bit != 0 {
            return Err(BoltError::damaged(page, "two trees lead to it"));
        }
        *word |= bit;
        Ok(())
    }

    fn read(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<(), BoltError> {
        let read = self.source.read_exact_at(buffer, offset_bytes);
        read.map_err(BoltError::Read)
    }
}

/// The meta page at an offset, if there is a whole one, of the page size that puts it there.
fn meta_at(
    source: &impl ReadAt,
    offset_bytes: u64,
    page_bytes: Option<u64>,
) -> Result<Option<Meta>, BoltError> {
    let mut bytes = [0; META_BYTES];
    match source.read_exact_at(&mut bytes, offset_bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map_err(BoltError::Read)?,
    }
    let meta = parse_meta(&bytes);
    Ok(meta.filter(|meta| page_bytes.is_none_or(|size| size == meta.page_bytes)))
}

/// The page's header, then magic, version, page size, flags, root bucket, free list, high water mark, transaction and the
/// checksum of all those.
fn parse_meta(bytes: &[u8; META_BYTES]) -> Option<Meta> {
    let u32_at = |at| bucket::u32_at(bytes, at);
    let u64_at = |at| bucket::u64_at(bytes, at);
    let kind = bucket::u16_at(bytes, 8)?;
    let (checksum, counted) = (u64_at(72)?, bytes.get(16..72)?);
    if kind != bucket::META || u32_at(16)? != MAGIC || u32_at(20)? != VERSION {
        return None;
    }
    if checksum != fnv64(counted) {
        return None;
    }
    let page_bytes = u64::from(u32_at(24)?);
    if !page_bytes.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes) {
        return None;
    }
    Some(Meta {
        page_bytes,
        root: u64_at(32)?,
        high_water: u64_at(56)?,
        transaction: u64_at(64)?,
    })
}

/// FNV-1a, 64 bits.
fn fnv64(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

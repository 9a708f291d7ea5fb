//! Pages and what is on them.

use super::{BoltError, HEAD_BYTES};

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;

/// Of elements on either kind of page.
const ELEMENT_BYTES: usize = 16;

/// An element's flag: its value is a bucket.
const IS_BUCKET: u32 = 0x01;

/// A bucket's value: its root page and a counter; then, if there is no root page, a page of its own.
const BUCKET_BYTES: usize = 16;

/// Stands for a page inside a value in errors.
const INLINE: u64 = 0;

/// A map of keys to values and further buckets.
#[derive(Debug)]
pub struct Bucket {
    root: u64,
    inline: Vec<u8>,
}

/// What a key names.
#[derive(Debug)]
pub enum Entry {
    /// Bytes.
    Value(Vec<u8>),
    /// A further bucket.
    Bucket(Bucket),
}

/// What a bucket holds.
#[derive(Debug, Default)]
pub struct Entries {
    found: Vec<(Vec<u8>, Entry)>,
}

impl Entries {
    pub(super) fn check_order(&self) -> Result<(), BoltError> {
        let is_ordered = self.found.is_sorted_by(|one, other| one.0 < other.0);
        let unordered = || BoltError::damaged(INLINE, "keys of a bucket are out of order");
        is_ordered.then_some(()).ok_or_else(unordered)
    }
}

impl IntoIterator for Entries {
    type Item = (Vec<u8>, Entry);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

impl Bucket {
    pub(super) const fn at(root: u64) -> Self {
        Self {
            root,
            inline: Vec::new(),
        }
    }

    /// Reads a bucket from the value that stands for it.
    fn parse(page: u64, value: &[u8]) -> Result<Self, BoltError> {
        let short = || BoltError::damaged(page, "a bucket is cut short");
        let root = u64_at(value, 0).ok_or_else(short)?;
        let inline = value.get(BUCKET_BYTES..).ok_or_else(short)?;
        Ok(Self {
            root,
            inline: if root == 0 {
                inline.to_vec()
            } else {
                Vec::new()
            },
        })
    }

    /// The page that is inside the bucket's value, or the number of its root page.
    pub(super) fn inline_page(&self) -> Result<Result<Page<'_>, u64>, BoltError> {
        if self.root != 0 {
            return Ok(Err(self.root));
        }
        let page = Page::parse(INLINE, &self.inline)?;
        match page.kind {
            PageKind::Leaf => Ok(Ok(page)),
            PageKind::Branch => Err(BoltError::damaged(INLINE, "a small bucket is a tree")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    Branch,
    Leaf,
}

/// A page and those that belong to it.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) kind: PageKind,
    id: u64,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Page<'a> {
    pub(super) fn parse(id: u64, bytes: &'a [u8]) -> Result<Self, BoltError> {
        let short = || BoltError::damaged(id, "it is cut short");
        let found = u64_at(bytes, 0).ok_or_else(short)?;
        let flags = u16_at(bytes, 8).ok_or_else(short)?;
        let count = usize::from(u16_at(bytes, 10).ok_or_else(short)?);
        if found != id {
            return Err(BoltError::damaged(id, "it has the number of another"));
        }
        let kind = match flags {
            BRANCH => PageKind::Branch,
            LEAF => PageKind::Leaf,
            _ => return Err(BoltError::damaged(id, "it is neither branch nor leaf")),
        };
        if bytes.len() < HEAD_BYTES + count * ELEMENT_BYTES {
            return Err(short());
        }
        Ok(Self {
            kind,
            id,
            count,
            bytes,
        })
    }

    /// The pages below a branch.
    pub(super) fn branch(&self) -> Result<Vec<u64>, BoltError> {
        // Position and length of the least key, then the page; the keys below say the same again.
        self.elements().map(|at| self.u64(at + 8)).collect()
    }

    /// Adds a leaf's keys.
    pub(super) fn leaf(&self, found: &mut Entries) -> Result<(), BoltError> {
        // What is on a page does not overlap, so it is no longer than the page, whatever its elements say.
        let mut left = self.bytes.len();
        for at in self.elements() {
            let flags = self.u32(at)?;
            let (position, key_bytes) = (self.length(at + 4)?, self.length(at + 8)?);
            let value_bytes = self.length(at + 12)?;
            // A position counts from its element.
            let key_at = at.saturating_add(position);
            let value_at = key_at.saturating_add(key_bytes);
            left = left
                .checked_sub(key_bytes.saturating_add(value_bytes))
                .ok_or_else(|| self.damaged("elements overlap"))?;
            let key = self.slice(key_at, key_bytes)?;
            let value = self.slice(value_at, value_bytes)?;
            let entry = match flags {
                0 => Entry::Value(value.to_vec()),
                IS_BUCKET if self.id == INLINE => {
                    return Err(self.damaged("a small bucket holds another"));
                }
                IS_BUCKET => Entry::Bucket(Bucket::parse(self.id, value)?),
                _ => return Err(self.damaged("an element has unknown flags")),
            };
            found.found.push((key.to_vec(), entry));
        }
        Ok(())
    }

    fn elements(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.count).map(|index| HEAD_BYTES + index * ELEMENT_BYTES)
    }

    fn slice(&self, at: usize, length: usize) -> Result<&'a [u8], BoltError> {
        let end = at.saturating_add(length);
        let found = self.bytes.get(at..end);
        found.ok_or_else(|| self.damaged("an element points beyond it"))
    }

    fn u32(&self, at: usize) -> Result<u32, BoltError> {
        u32_at(self.bytes, at).ok_or_else(|| self.damaged("it is cut short"))
    }

    fn u64(&self, at: usize) -> Result<u64, BoltError> {
        u64_at(self.bytes, at).ok_or_else(|| self.damaged("it is cut short"))
    }

    fn length(&self, at: usize) -> Result<usize, BoltError> {
        usize::try_from(self.u32(at)?).map_err(|_| self.damaged("a length is impossible"))
    }

    const fn damaged(&self, reason: &'static str) -> BoltError {
        BoltError::damaged(self.id, reason)
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

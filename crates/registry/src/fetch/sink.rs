//! Where a blob's bytes go.

use std::io;
use std::ops::Range;

/// A place that takes a blob's bytes in any order and knows which it lacks.
///
/// Implemented by content's ingest (through an adapter in `image`) and by the cache. All methods may block; they are
/// called on blocking threads, except [`Self::missing`], which must not touch the disk.
pub trait BlobSink: Send + Sync {
    /// The ranges not stored yet, ascending and disjoint; what lies beyond the blob's size is ignored. Answered from
    /// memory.
    fn missing(&self) -> Vec<Range<u64>>;

    /// Stores `bytes` at `offset`. The range counts as stored when this returns well. May be called for several
    /// ranges at once, and once more for one already stored: with the same bytes, or with others if a host lied,
    /// which the digest will tell. After a cancelled fetch one last call may still come.
    ///
    /// # Errors
    /// The bytes cannot be kept. The fetch then ends.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

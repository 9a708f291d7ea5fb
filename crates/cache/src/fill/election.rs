//! Who fills, where several caches share what they have; and the tier they share. A cache by itself has neither.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use orlop_registry::BlobSink;
use orlop_types::Digest;

/// An answer, later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who is to fill a blob.
pub enum Verdict {
    /// This process, for as long as it keeps what is in here.
    Ours(Box<dyn Any + Send>),
    /// Another one did while we waited: the blob is in the shared tier.
    Elsewhere,
}

/// Decides which of several processes fills a blob.
pub trait Election: Send + Sync {
    /// Waits until this process may fill `digest`, or another has.
    ///
    /// Must not wait for ever for a process that has died, and in doubt lets this one fill: a second fill costs bytes, none
    /// costs a pull.
    fn stand<'a>(&'a self, digest: &'a Digest) -> Pending<'a, Verdict>;
}

/// What a tier gave of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    /// All that was missing.
    Whole,
    /// Not all of it, or nothing.
    Nothing,
    /// Nothing now: it is archived. If it was asked back, it makes sense to come again after so long.
    Archived(Option<std::time::Duration>),
}

/// A tier behind this disk that several caches share.
pub trait Tier: Send + Sync {
    /// Brings what `sink` lacks of a blob of `size` bytes. What came is not verified.
    fn bring<'a>(
        &'a self,
        digest: &'a Digest,
        size: u64,
        sink: Arc<dyn BlobSink>,
    ) -> Pending<'a, Brought>;

    /// A blob has come from upstream and is in the store: it may be put into the tier. Waits until it is there, or was
    /// refused, so that whoever waits in the election finds it.
    fn offer<'a>(&'a self, digest: &'a Digest, size: u64) -> Pending<'a, ()>;
}

/// One cache by itself: always the one that fills.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Election for Alone {
    fn stand<'a>(&'a self, _digest: &'a Digest) -> Pending<'a, Verdict> {
        Box::pin(async { Verdict::Ours(Box::new(())) })
    }
}

/// No tier behind the disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTier;

impl Tier for NoTier {
    fn bring<'a>(
        &'a self,
        _digest: &'a Digest,
        _size: u64,
        _sink: Arc<dyn BlobSink>,
    ) -> Pending<'a, Brought> {
        Box::pin(async { Brought::Nothing })
    }

    fn offer<'a>(&'a self, _digest: &'a Digest, _size: u64) -> Pending<'a, ()> {
        Box::pin(async {})
    }
}

//! The shared second tier: objects under their digests in an object store, each in a storage class.
//!
//! Where an object is and whether it can be read is the object store's own knowledge: nothing here or in a database
//! remembers it, so nothing can disagree with it. Who wants all of it lists.
//!
//! - An object under a digest has that digest's bytes: whoever puts hands over a verified file, and every request that
//!   carries bytes carries their SHA-256, which the store checks.
//! - An object appears whole or not at all, and is never written over by other bytes.
//! - Nothing is spent silently: every request that costs anything is in the [`Tally`].
//!
//! Cancellation: dropping a future gives up waiting; a request that was sent may still be carried out, so whoever comes
//! back asks first ([`Depot::head`]). A transfer in parts that was dropped leaves parts behind that are paid for until
//! [`Depot::abandon`]. Crash: the same. Ordering: what a call did is seen by every later call, of other replicas too.

mod error;
mod tally;

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use orlop_types::Digest;

use crate::tier::ClassName;

pub use error::{DepotError, DepotErrorKind};
pub use tally::{Charge, Operation, Tally};

/// What a call of a depot gives.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, DepotError>>;

/// Bytes as they come. After an error nothing more comes.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, DepotError>> + Send>>;

/// An object store that replicas share.
///
/// Implemented on S3 by the program `orlop-cache`, and in memory, with archives and faults, by `orlop-testkit`.
pub trait Depot: fmt::Debug + Send + Sync {
    /// What there is under `digest`.
    ///
    /// # Errors
    /// `Absent`, or the store cannot say.
    fn head<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Held>;

    /// Reads an object, or a range of it. A range may end beyond the object.
    ///
    /// # Errors
    /// `Absent`; `Archived` and `Restoring` if it cannot be read now.
    fn get<'a>(&'a self, digest: &'a Digest, range: Option<Range<u64>>) -> Answer<'a, Body>;

    /// Writes an object that is not there yet.
    ///
    /// # Errors
    /// `Exists`, which is no failure: what is there has the same bytes. `Corrupt` if the store got other bytes.
    fn put<'a>(&'a self, digest: &'a Digest, from: Source, class: &'a ClassName) -> Answer<'a, ()>;

    /// Brings an object into another class, within the store.
    ///
    /// # Errors
    /// `Absent`; `Archived` and `Restoring` if it must be made readable first.
    fn copy<'a>(&'a self, digest: &'a Digest, class: &'a ClassName) -> Answer<'a, ()>;

    /// Asks for an archived object to be made readable for a while. Asking again while that is under way is no error.
    ///
    /// # Errors
    /// `Absent`, or the store refuses.
    fn restore<'a>(&'a self, digest: &'a Digest, how: &'a Restore) -> Answer<'a, ()>;

    /// Removes an object. That there is none is no error.
    ///
    /// # Errors
    /// The store refuses or is away.
    fn delete<'a>(&'a self, digest: &'a Digest) -> Answer<'a, ()>;

    /// A page of what there is, in the order of digests, beginning behind `after`. Tells nothing of restores.
    ///
    /// # Errors
    /// The store refuses or is away.
    fn list<'a>(&'a self, after: Option<&'a Digest>) -> Answer<'a, Page>;

    /// Gives up transfers in parts towards `digest` that began before `before`; returns how many.
    ///
    /// # Errors
    /// The store refuses or is away.
    fn abandon<'a>(&'a self, digest: &'a Digest, before: SystemTime) -> Answer<'a, u32>;

    /// What was asked of the store so far, and is paid for.
    fn tally(&self) -> &Tally;
}

/// An object, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its size.
    pub bytes: u64,
    /// Its storage class.
    pub class: ClassName,
    /// Whether it can be read.
    pub readable: Readable,
    /// Since when it is in its class.
    pub since: SystemTime,
}

/// Whether an object can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// At once.
    Now,
    /// It is archived, and a copy of it can be read until then.
    Until(SystemTime),
    /// It is archived, and nobody has asked for it.
    Archived,
    /// It is archived, and is being made readable.
    Restoring,
}

impl Readable {
    /// Whether a GET gives bytes.
    #[must_use]
    pub const fn is_now(self) -> bool {
        match self {
            Self::Now | Self::Until(_) => true,
            Self::Archived | Self::Restoring => false,
        }
    }
}

/// An object being read.
pub struct Body {
    /// Size of the whole object.
    pub bytes_total: u64,
    /// Which of its bytes come.
    pub range: Range<u64>,
    /// They.
    pub chunks: Chunks,
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Body")
            .field("bytes_total", &self.bytes_total)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// A verified file to be put. It is read by position, from its beginning.
#[derive(Debug)]
pub struct Source {
    /// The file.
    pub file: File,
    /// How many of its bytes.
    pub bytes: u64,
}

/// How an archived object is made readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// For how many days.
    pub days: u32,
    /// The name of the price for it, such as `bulk`: slower is cheaper.
    pub tier: String,
}

/// Some of the objects of a depot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order of their digests.
    pub objects: Vec<Listed>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Digest>,
}

/// An object in a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// Its storage class.
    pub class: ClassName,
    /// Since when it is in its class.
    pub since: SystemTime,
}

/// When a client that hears that an archived blob is being restored should come again: object stores tell no moment, so
/// this is how often asking is worth its while.
pub const RETRY_AFTER_RESTORE: Duration = Duration::from_secs(300);

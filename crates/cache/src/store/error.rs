//! What can go wrong with what is kept, and what the caller can do about it.

use orlop_content::ContentError;
use orlop_types::Digest;

use crate::db::DatabaseError;

/// What the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The bytes are not those of the digest, and were discarded: fetch them elsewhere.
    WrongBytes,
    /// Bytes are missing yet: fetch them and commit again.
    Incomplete,
    /// The disk is full: pass through, try to keep it later.
    NoSpace,
    /// Another process has the folder, or another writer the blob.
    Busy,
    /// There is no such thing.
    NotFound,
    /// The disk or the database failed: a person must look. What is there goes on being served.
    Other,
}

/// A failed operation of the cache's store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The blob store failed.
    #[error("cannot {operation} {subject}")]
    Content {
        /// What was tried.
        operation: &'static str,
        /// The digest or the folder.
        subject: String,
        /// What the blob store says.
        #[source]
        source: Box<ContentError>,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Bytes to be kept could not be read.
    #[error("cannot read what is to be kept as {digest}")]
    Source {
        /// What they were said to be.
        digest: Digest,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        use orlop_content::ErrorKind as Content;
        match self {
            Self::Content { source, .. } => match source.kind() {
                Content::Corrupt => ErrorKind::WrongBytes,
                Content::Incomplete => ErrorKind::Incomplete,
                Content::OutOfSpace => ErrorKind::NoSpace,
                Content::Busy | Content::Ended => ErrorKind::Busy,
                Content::NotFound => ErrorKind::NotFound,
                Content::Invalid | Content::Io => ErrorKind::Other,
            },
            Self::Database(_) | Self::Source { .. } => ErrorKind::Other,
        }
    }

    /// The stable id an operator looks up.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Content { source, .. } => source.code(),
            Self::Database(source) => source.code(),
            Self::Source { .. } => "ORL-E9106",
        }
    }

    /// Whether another process has the folder open for writing.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Content { source, .. } if matches!(**source, ContentError::StoreBusy { .. }))
    }

    pub(super) fn content(
        operation: &'static str,
        subject: impl ToString,
    ) -> impl FnOnce(ContentError) -> Self {
        move |source| Self::Content {
            operation,
            subject: subject.to_string(),
            source: Box::new(source),
        }
    }
}

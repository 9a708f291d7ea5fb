//! What can go wrong, and what the caller can do about it.

use std::time::Duration;

use orlop_types::Digest;

/// What the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DepotErrorKind {
    /// There is no such object: take it from upstream.
    Absent,
    /// It is archived: restore it, and meanwhile take it from upstream.
    Archived,
    /// It is being restored: come again, and meanwhile take it from upstream.
    Restoring,
    /// It is there already: nothing is left to do.
    Exists,
    /// Too many requests: come again, after so long if the store said.
    Throttled(Option<Duration>),
    /// The store refuses: credentials, rights, the bucket's name or a setting must be put right by a person.
    Refused,
    /// Bytes were changed on the way: send them again.
    Corrupt,
    /// The store cannot be reached or has failed: go on without it, and come again.
    Away,
    /// The file that is put cannot be read: a person must look.
    Local,
}

impl DepotErrorKind {
    /// In words, for messages.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Absent => "it is not there",
            Self::Archived => "it is archived",
            Self::Restoring => "it is being restored from the archive",
            Self::Exists => "it is there already",
            Self::Throttled(_) => "the object store asks for fewer requests",
            Self::Refused => "the object store refuses",
            Self::Corrupt => "bytes were changed on the way",
            Self::Away => "the object store is away",
            Self::Local => "the file cannot be read",
        }
    }
}

/// A failed operation of a depot.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {subject}: {}", kind.words())]
pub struct DepotError {
    /// What was attempted, such as `read`.
    pub operation: &'static str,
    /// On what: a digest, or a page of the list.
    pub subject: String,
    /// What the caller can do.
    pub kind: DepotErrorKind,
    /// What the store or the disk said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl DepotError {
    /// An operation on an object that failed, with what was said.
    pub fn new(
        operation: &'static str,
        digest: &Digest,
        kind: DepotErrorKind,
        source: impl Into<Option<Box<dyn std::error::Error + Send + Sync>>>,
    ) -> Self {
        Self {
            operation,
            subject: digest.to_string(),
            kind,
            source: source.into(),
        }
    }

    /// The id of the page that explains it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.kind {
            DepotErrorKind::Absent => "ORL-E9301",
            DepotErrorKind::Archived | DepotErrorKind::Restoring => "ORL-E9302",
            DepotErrorKind::Exists => "ORL-E9303",
            DepotErrorKind::Throttled(_) => "ORL-E9304",
            DepotErrorKind::Refused => "ORL-E9305",
            DepotErrorKind::Corrupt => "ORL-E9306",
            DepotErrorKind::Away => "ORL-E9307",
            DepotErrorKind::Local => "ORL-E9308",
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self.kind {
            DepotErrorKind::Restoring
            | DepotErrorKind::Throttled(_)
            | DepotErrorKind::Corrupt
            | DepotErrorKind::Away => true,
            DepotErrorKind::Absent
            | DepotErrorKind::Archived
            | DepotErrorKind::Exists
            | DepotErrorKind::Refused
            | DepotErrorKind::Local => false,
        }
    }
}

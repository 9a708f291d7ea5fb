//! What can go wrong with an image, and what the caller can do about it.

use std::io;
use std::sync::Arc;

use orlop_base::blocking::BlockingError;
use orlop_base::task::TaskError;
use orlop_registry::FailureKind;
use orlop_sys::mount::MountError;
use orlop_types::{Digest, ErrorKind, IdError, LabelError, ReferenceError};

use crate::apply::ApplyError;
use crate::archive::ArchiveError;
use crate::diff::DiffError;
use crate::model::ModelError;

/// An operation on images that did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reference does not parse.
    #[error("image reference {text:?} cannot be used")]
    Reference {
        /// The reference as given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: ReferenceError,
    },
    /// A name or key that cannot be one.
    #[error("{subject:?} cannot be used")]
    Name {
        /// The text.
        subject: String,
        /// What is wrong with it.
        #[source]
        source: IdError,
    },
    /// Labels that are too long.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// No host of the registry did it.
    #[error(transparent)]
    Registry(#[from] orlop_registry::Error),
    /// Database, blob store or snapshotter failed.
    #[error(transparent)]
    Store(#[from] orlop_meta::Error),
    /// A manifest, index or config that cannot be used.
    #[error("document {digest} of the image cannot be used")]
    Model {
        /// Which.
        digest: Box<Digest>,
        /// Why.
        #[source]
        source: ModelError,
    },
    /// A document of another length than its descriptor says.
    #[error("document {digest} has {actual} bytes, but its descriptor says {expected}")]
    Size {
        /// Which.
        digest: Box<Digest>,
        /// What the descriptor says.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// A document that does not have the digest it was asked by.
    #[error("asked for {expected}, but the bytes have digest {actual}")]
    Digest {
        /// What was asked for.
        expected: Box<Digest>,
        /// What came.
        actual: Box<Digest>,
    },
    /// A layer could not be brought.
    #[error("bring blob {digest}")]
    Download {
        /// Which.
        digest: Box<Digest>,
        /// Why; shared by all who waited for it.
        #[source]
        source: Arc<Error>,
    },
    /// A layer could not be unpacked.
    #[error("unpack layer {layer}")]
    Unpack {
        /// Which.
        layer: Box<Digest>,
        /// Why.
        #[source]
        source: ApplyError,
    },
    /// A layer could not be made.
    #[error("make a layer")]
    Diff(#[source] DiffError),
    /// An archive could not be read or written.
    #[error("{operation} images")]
    Archive {
        /// Importing or exporting.
        operation: &'static str,
        /// Why.
        #[source]
        source: ArchiveError,
    },
    /// Mounts that a client gave cannot be made.
    #[error("mount the snapshot to {operation}")]
    Mount {
        /// What it was to be mounted for.
        operation: &'static str,
        /// Why not.
        #[source]
        source: MountError,
    },
    /// A file operation failed.
    #[error("{operation} {subject}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Something the operation needs is not in the store.
    #[error("{operation} {subject:?}: {missing} is not in the store")]
    Missing {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// What is missing.
        missing: String,
    },
    /// The request cannot be accepted.
    #[error("{operation} {subject:?}: {reason}")]
    Invalid {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// What is wrong.
        reason: String,
    },
    /// The caller went away, or the daemon is stopping.
    #[error("the operation was cancelled")]
    Cancelled,
    /// A defect, already logged.
    #[error("a job of the operation failed")]
    Job(#[source] BlockingError),
}

impl Error {
    /// The stable id operators look up.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "ORL-E5601",
            Self::Name { .. } | Self::Label(_) | Self::Invalid { .. } => "ORL-E5602",
            Self::Registry(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Model { source, .. } => source.code(),
            Self::Size { .. } => "ORL-E5603",
            Self::Digest { .. } => "ORL-E5604",
            Self::Download { source, .. } => source.code(),
            Self::Unpack { source, .. } => source.code(),
            Self::Diff(error) => error.code(),
            Self::Archive { source, .. } => source.code(),
            Self::Mount { source, .. } => source.code(),
            Self::Io { .. } => "ORL-E5605",
            Self::Missing { .. } => "ORL-E5606",
            Self::Cancelled => "ORL-E5607",
            Self::Job(_) => "ORL-E5608",
        }
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. }
            | Self::Name { .. }
            | Self::Label(_)
            | Self::Model { .. }
            | Self::Invalid { .. }
            | Self::Archive { .. }
            | Self::Mount { .. } => ErrorKind::InvalidArgument,
            Self::Registry(error) => kind_of_failure(error.kind()),
            Self::Store(error) => error.kind(),
            Self::Size { .. } | Self::Digest { .. } => ErrorKind::FailedPrecondition,
            Self::Download { source, .. } => source.kind(),
            Self::Unpack { source, .. } if source.is_disk_full() => ErrorKind::OutOfSpace,
            Self::Unpack {
                source: ApplyError::Cancelled,
                ..
            }
            | Self::Cancelled => ErrorKind::Cancelled,
            Self::Unpack { .. } => ErrorKind::FailedPrecondition,
            Self::Missing { .. } => ErrorKind::NotFound,
            Self::Diff(_) | Self::Io { .. } | Self::Job(_) => ErrorKind::Internal,
        }
    }

    /// Whether what has been fetched is worth keeping for the next try: the fault is not the image's.
    pub(crate) fn keeps_partial(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unavailable | ErrorKind::Cancelled | ErrorKind::PermissionDenied
        )
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    pub(crate) fn model(digest: Digest) -> impl FnOnce(ModelError) -> Self {
        move |source| Self::Model {
            digest: Box::new(digest),
            source,
        }
    }

    pub(crate) fn unpack(layer: Digest) -> impl FnOnce(ApplyError) -> Self {
        move |source| Self::Unpack {
            layer: Box::new(layer),
            source,
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        subject: impl ToString,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            operation,
            subject: subject.to_string(),
            source,
        }
    }

    pub(crate) fn name(subject: &str) -> impl FnOnce(IdError) -> Self {
        move |source| Self::Name {
            subject: subject.to_owned(),
            source,
        }
    }
}

impl From<BlockingError> for Error {
    fn from(error: BlockingError) -> Self {
        match error {
            BlockingError::Cancelled { .. } => Self::Cancelled,
            BlockingError::Panicked { .. } => Self::Job(error),
        }
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Cancelled { .. } => Self::Cancelled,
            TaskError::Panicked { kind, message } => {
                Self::Job(BlockingError::Panicked { kind, message })
            }
        }
    }
}

fn kind_of_failure(kind: FailureKind) -> ErrorKind {
    match kind {
        FailureKind::Unauthorized | FailureKind::Forbidden | FailureKind::Credentials => {
            ErrorKind::PermissionDenied
        }
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::TooManyRequests { .. }
        | FailureKind::Server { .. }
        | FailureKind::Unreachable(_)
        | FailureKind::Tls(_)
        | FailureKind::BadRange => ErrorKind::Unavailable,
        FailureKind::BadResponse
        | FailureKind::TooLarge
        | FailureKind::WrongDigest
        | FailureKind::Foreign => ErrorKind::FailedPrecondition,
        FailureKind::Configuration => ErrorKind::InvalidArgument,
        FailureKind::Sink => ErrorKind::OutOfSpace,
    }
}

/// Of several errors the one that explains: not the cancellations that followed it.
pub(crate) fn first_cause<T>(
    results: impl IntoIterator<Item = Result<T, Error>>,
) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    let mut cause: Option<Error> = None;
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) if cause.as_ref().is_none_or(Error::is_cancelled) => cause = Some(error),
            Err(_) => {}
        }
    }
    match cause {
        Some(error) => Err(error),
        None => Ok(values),
    }
}

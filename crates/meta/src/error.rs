//! What can go wrong with a record, and what the caller can do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use orlop_types::ErrorKind;

/// A failed operation on the database or through one of its views.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such record in this namespace.
    #[error("{kind} {key:?} not found in namespace {namespace:?}")]
    NotFound {
        /// The kind of record.
        kind: &'static str,
        /// Its key.
        key: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// A record of this key is there already.
    #[error("{kind} {key:?} already exists in namespace {namespace:?}")]
    AlreadyExists {
        /// The kind of record.
        kind: &'static str,
        /// Its key.
        key: String,
        /// Where.
        namespace: String,
    },
    /// The input can never be accepted.
    #[error("{operation} {subject:?}: {reason}")]
    InvalidArgument {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// What is wrong.
        reason: String,
    },
    /// A filter that does not parse.
    #[error("cannot list {kind}s")]
    Filter {
        /// The kind of record listed.
        kind: &'static str,
        /// What is wrong with the filter.
        #[source]
        source: orlop_types::filter::FilterError,
    },
    /// The present state forbids the operation.
    #[error("cannot {operation} {subject:?}: {reason}")]
    FailedPrecondition {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// What stands against it.
        reason: String,
    },
    /// Another process has this database open for writing.
    #[error("{} is in use by another daemon", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// Written by a newer Orlop. Start that one, or roll back to a backup.
    #[error("{} has schema version {found}, this program knows up to {known}", path.display())]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// Older than this program reads without a migration, and it was opened only to read.
    #[error("{} has schema version {found} and must be migrated to {known} first", path.display())]
    OlderSchema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version needed.
        known: i64,
    },
    /// An SQLite file, but not one of Orlop's; or no SQLite file at all.
    #[error("{} is not a database of Orlop", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The database was opened only to be read.
    #[error("cannot {operation}: the database is open read-only")]
    ReadOnly {
        /// What was tried.
        operation: &'static str,
    },
    /// This daemon has no such backend.
    #[error("{kind} {name:?} is not configured")]
    NoBackend {
        /// `snapshotter`, `content store` or `store of mounts`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A row holds what this program never writes.
    #[error("{table} row {subject:?} is damaged: {reason}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// Which row.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// SQLite failed.
    #[error("cannot {operation}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// What SQLite says; shared by all whose transactions were committed together.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// A file operation around the database failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The content store failed.
    #[error("cannot {operation} {subject:?}")]
    Content {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// What the store says.
        #[source]
        source: Arc<orlop_content::ContentError>,
    },
    /// A snapshot backend failed.
    #[error("cannot {operation} snapshot {key:?}")]
    Snapshot {
        /// What was tried.
        operation: &'static str,
        /// The snapshot.
        key: String,
        /// What the backend says.
        #[source]
        source: Arc<orlop_snapshot::Error>,
    },
    /// Mounts could not be made ahead, or not be taken down.
    #[error("cannot {operation} mounts {name:?}")]
    Mounts {
        /// What was tried.
        operation: &'static str,
        /// The activation.
        name: String,
        /// What the store says.
        #[source]
        source: Arc<orlop_mounts::Error>,
    },
}

impl Error {
    /// The stable id of this kind of error; each has a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ORL-E4001",
            Self::AlreadyExists { .. } => "ORL-E4002",
            Self::InvalidArgument { .. } | Self::Filter { .. } => "ORL-E4003",
            Self::FailedPrecondition { .. } => "ORL-E4004",
            Self::InUse { .. } => "ORL-E4005",
            Self::NewerSchema { .. } => "ORL-E4006",
            Self::OlderSchema { .. } => "ORL-E4007",
            Self::Foreign { .. } => "ORL-E4008",
            Self::ReadOnly { .. } => "ORL-E4009",
            Self::NoBackend { .. } => "ORL-E4010",
            Self::Corrupt { .. } => "ORL-E4011",
            Self::Database { source, .. } if is_disk_full(source) => "ORL-E4013",
            Self::Database { .. } => "ORL-E4012",
            Self::Io { .. } => "ORL-E4014",
            Self::Content { source, .. } => source.code(),
            Self::Snapshot { source, .. } => source.code(),
            Self::Mounts { source, .. } => source.code(),
        }
    }

    /// Whether the bytes of an ingest are not those that were asked for. They are gone; another source may have better.
    #[must_use]
    pub fn is_wrong_digest(&self) -> bool {
        use orlop_content::ContentError::DigestMismatch;
        matches!(self, Self::Content { source, .. } if matches!(**source, DigestMismatch { .. }))
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::InvalidArgument { .. } | Self::Filter { .. } | Self::NoBackend { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::FailedPrecondition { .. } | Self::ReadOnly { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::InUse { .. } => ErrorKind::Unavailable,
            Self::Snapshot { source, .. } => kind_of_snapshot(source),
            Self::Mounts { source, .. } => source.kind(),
            Self::Content { source, .. } => crate::content::kind_of(source),
            Self::NewerSchema { .. }
            | Self::OlderSchema { .. }
            | Self::Foreign { .. }
            | Self::Corrupt { .. }
            | Self::Database { .. }
            | Self::Io { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn database(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> Self + Copy {
        move |source| Self::Database {
            operation,
            source: Arc::new(source),
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source: Arc::new(source),
        }
    }

    pub(crate) fn mounts(
        operation: &'static str,
        name: &str,
    ) -> impl FnOnce(orlop_mounts::Error) -> Self {
        let name = name.to_owned();
        move |source| Self::Mounts {
            operation,
            name,
            source: Arc::new(source),
        }
    }

    pub(crate) fn invalid(
        operation: &'static str,
        subject: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::InvalidArgument {
            operation,
            subject: subject.into(),
            reason: reason.into(),
        }
    }
}

fn kind_of_snapshot(error: &orlop_snapshot::Error) -> ErrorKind {
    use orlop_snapshot::Error as Snapshot;
    if matches!(error, Snapshot::Missing { .. }) {
        return ErrorKind::NotFound;
    }
    if matches!(error, Snapshot::InProgress { .. }) {
        return ErrorKind::Unavailable;
    }
    if matches!(error, Snapshot::WrongKind { .. } | Snapshot::Mounted { .. }) {
        return ErrorKind::FailedPrecondition;
    }
    ErrorKind::Internal
}

fn is_disk_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

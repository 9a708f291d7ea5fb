//! What can go wrong with the database.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;

/// A failed operation on `cache.db`.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite failed: the disk is full or broken, or the file is damaged. What is kept on disk goes on being served.
    #[error("cannot {operation} {}", path.display())]
    Sqlite {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a newer Orlop: start that one, or take another folder.
    #[error("{} has version {found}, this program knows up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// An SQLite file, but not a cache's; or nothing is there.
    #[error("{} is not the database of a cache", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
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
        source: io::Error,
    },
    /// It was opened only to be read. A defect.
    #[error("cannot {operation}: the database is open read-only")]
    ReadOnly {
        /// What was tried.
        operation: &'static str,
    },
}

impl DatabaseError {
    /// Whether the file itself is damaged, so that a new one has to be begun.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let Self::Sqlite { source, .. } = self else {
            return false;
        };
        let code = source.sqlite_error_code();
        code == Some(ErrorCode::NotADatabase) || code == Some(ErrorCode::DatabaseCorrupt)
    }

    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let Self::Sqlite { source, .. } = self else {
            return false;
        };
        source.sqlite_error_code() == Some(ErrorCode::CannotOpen)
    }

    /// The stable id an operator looks up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "ORL-E9101",
            Self::Newer { .. } => "ORL-E9102",
            Self::Foreign { .. } => "ORL-E9103",
            Self::Io { .. } => "ORL-E9104",
            Self::ReadOnly { .. } => "ORL-E9105",
        }
    }
}

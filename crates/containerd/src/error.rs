//! Why nothing can be brought over.

use std::path::PathBuf;

use orlop_sys::fs::FsError;

use crate::bolt::BoltError;

/// Nothing could be brought, or the import had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder or file of containerd's cannot be opened.
    #[error("cannot open containerd's stores")]
    Open(#[source] FsError),
    /// containerd has its database open.
    #[error("{} is in use: stop containerd first", path.display())]
    Running {
        /// The database.
        path: PathBuf,
    },
    /// The database's lock cannot be taken.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be read.
    #[error("cannot read {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BoltError,
    },
    /// Written by a containerd whose layout is not known here.
    #[error("{} has layout {found}, this program knows up to {known}", path.display())]
    NewerLayout {
        /// The database.
        path: PathBuf,
        /// Its version within `v1`.
        found: i64,
        /// The newest one known.
        known: i64,
    },
    /// Orlop's own stores failed.
    #[error("cannot store what containerd has")]
    Store(#[from] orlop_meta::Error),
}

impl Error {
    /// The stable id of this kind of error; each has a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open(_) => "ORL-E4101",
            Self::Running { .. } => "ORL-E4102",
            Self::Lock { .. } => "ORL-E4103",
            Self::Database { .. } => "ORL-E4104",
            Self::NewerLayout { .. } => "ORL-E4105",
            Self::Store(error) => error.code(),
        }
    }
}

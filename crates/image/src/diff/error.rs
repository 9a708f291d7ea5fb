//! Why a layer could not be made.

use std::io;

/// A difference that was not written.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A tree could not be read.
    #[error("{operation} {path:?}")]
    Tree {
        /// What was tried.
        operation: &'static str,
        /// On which path below the root.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// An entry could not be written: its file changed meanwhile, or the output failed.
    #[error("write {path:?} into layer")]
    Entry {
        /// Which path below the root.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The blob could not be begun or ended.
    #[error("write layer blob")]
    Output(#[source] io::Error),
    /// The upper directory of an overlay mounted with features whose data is elsewhere.
    #[error("{path:?} uses overlayfs's {feature}: mount the overlay and compare trees instead")]
    Unsupported {
        /// Which path below the root.
        path: String,
        /// The feature.
        feature: &'static str,
    },
    /// Stopped by the caller.
    #[error("making the layer was cancelled")]
    Cancelled,
}

impl DiffError {
    /// The stable id operators look up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Tree { .. } => "ORL-E5301",
            Self::Entry { .. } => "ORL-E5302",
            Self::Output(_) => "ORL-E5303",
            Self::Unsupported { .. } => "ORL-E5304",
            Self::Cancelled => "ORL-E5305",
        }
    }

    pub(super) fn tree(operation: &'static str, path: &[u8], source: io::Error) -> Self {
        let path = shown(path);
        Self::Tree {
            operation,
            path,
            source,
        }
    }

    pub(super) fn entry(path: &[u8], source: io::Error) -> Self {
        Self::Entry {
            path: shown(path),
            source,
        }
    }
}

pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

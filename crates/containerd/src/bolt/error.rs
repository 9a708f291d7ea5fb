//! Why a bolt file cannot be read.

use std::io;

/// A bolt file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// Neither of its meta pages is whole.
    #[error("the file is no bolt database of version 2")]
    NotBolt,
    /// Pages at its end are missing.
    #[error("the file has {pages} pages, and {expected} are in use")]
    CutShort {
        /// How many there are.
        pages: u64,
        /// How many its meta page counts.
        expected: u64,
    },
    /// A page is not what leads to it says.
    #[error("page {page} is damaged: {reason}")]
    Damaged {
        /// Its number.
        page: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file cannot be read.
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
}

impl BoltError {
    pub(super) const fn damaged(page: u64, reason: &'static str) -> Self {
        Self::Damaged { page, reason }
    }
}

//! What can go wrong: what, which, why, and what to do.

use std::io;
use std::path::PathBuf;

use orlop_base::table::harmless;
use orlop_cache::tier::PricesError;
use orlop_types::chain;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    /// A log cannot be read.
    #[error("cannot read the log {}", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A price list cannot be read.
    #[error("cannot read the price list {}", path.display())]
    Prices {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A price list is wrong.
    #[error("cannot use the price list {}", path.display())]
    WrongPrices {
        path: PathBuf,
        #[source]
        source: PricesError,
    },
    /// No line of any log is a pull.
    #[error("there is no pull in {files} of {lines} lines ({unknown} of them of no known kind)")]
    NoPull {
        files: String,
        lines: u64,
        unknown: u64,
    },
    /// The answer cannot be shown.
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
}

impl CacheError {
    /// The id of the page that explains it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Log { .. } => "ORL-E9001",
            Self::Prices { .. } => "ORL-E9002",
            Self::WrongPrices { .. } => "ORL-E9003",
            Self::NoPull { .. } => "ORL-E9004",
            Self::Output(_) => "ORL-E9005",
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Log { .. } => {
                "name files that you may read, plain or gzip, or - for standard input"
            }
            Self::Prices { .. } | Self::WrongPrices { .. } => {
                "leave --prices out to use the list that comes with this version"
            }
            Self::NoPull { .. } => {
                "known are the access logs of distribution (JSON, combined), Harbor's proxy, nginx, S3 buckets, and containerd's log"
            }
            Self::Output(_) => "look whether the disk is full",
        }
    }

    /// For stderr.
    pub(crate) fn report(&self) -> String {
        let message = chain(self);
        // A parser's message may hold the file's own text.
        let message = harmless(message.trim_end());
        format!("error: {message} ({})\n  {}\n", self.code(), self.hint())
    }
}

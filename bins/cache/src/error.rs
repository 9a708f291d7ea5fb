//! What can go wrong: what, which, why, and what to do.

use std::io;
use std::path::PathBuf;

use orlop_base::config::ConfigErrors;
use orlop_base::table::harmless;
use orlop_cache::serve::TlsProblem;
use orlop_cache::store::StoreError;
use orlop_cache::tier::PricesError;
use orlop_cache::trace::TraceError;
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
    /// The configuration has mistakes.
    #[error("nothing was started")]
    Settings(#[source] ConfigErrors),
    /// The server cannot be started.
    #[error("cannot {what}")]
    Start {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificates cannot be used.
    #[error("cannot use the files for TLS")]
    Tls(#[source] TlsProblem),
    /// A file of users or tokens cannot be used.
    #[error("cannot use {}: {problem}", path.display())]
    Secrets { path: PathBuf, problem: String },
    /// A client's configuration cannot be written.
    #[error("cannot set up {}", path.display())]
    Setup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A cache's folder cannot be used.
    #[error("cannot use the cache in {}", root.display())]
    Folder {
        root: PathBuf,
        #[source]
        source: Box<StoreError>,
    },
    /// What was named is not there.
    #[error("nothing in the cache is called {0:?}")]
    Unknown(String),
    /// What was named may be several.
    #[error("{text:?} may be {digests}")]
    Ambiguous { text: String, digests: String },
    /// What is to be removed is pinned.
    #[error("{0} is pinned")]
    Pinned(String),
    /// There is no such pin to be taken back.
    #[error("{0} has no such pin of its own")]
    NotPinned(String),
    /// The server does not do what it is asked.
    #[error("the server has not removed {0} yet")]
    NotHonoured(String),
    /// A trace cannot be read.
    #[error("cannot read the trace {}", path.display())]
    Trace {
        path: PathBuf,
        #[source]
        source: TraceError,
    },
    /// A trace cannot be written.
    #[error("cannot write the trace {}", path.display())]
    WriteTrace {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Certificates to trust cannot be read.
    #[error("cannot use the certificates in {}", path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The fleet's database has no such address.
    #[error("cannot understand the address of the fleet's database")]
    Database(#[source] tokio_postgres::Error),
    /// The database's password cannot be read.
    #[error("cannot read the password in {}", path.display())]
    Password {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The configuration cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Configuration {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The configuration is wrong: everything that is.
    #[error("cannot use the configuration {}: {problems}", path.display())]
    WrongConfiguration { path: PathBuf, problems: String },
    /// A class that nobody knows the price of.
    #[error("cannot plan for {0:?}: the price list has no such class")]
    UnknownPlace(String),
    /// There is no bucket.
    #[error("cannot move blobs: the configuration has no section [depot]")]
    NoDepot,
    /// The process cannot be set up.
    #[error("cannot begin")]
    NoLife(#[source] io::Error),
    /// The journal of moves cannot be opened.
    #[error("cannot open the journal of moves in {}", path.display())]
    Journal {
        path: PathBuf,
        #[source]
        source: orlop_cache::tier::apply::JournalError,
    },
    /// A run of moves failed.
    #[error(transparent)]
    Tier(orlop_cache::tier::apply::TierError),
    /// Another replica, or a person, is moving blobs.
    #[error("cannot move blobs: somebody else is at it")]
    Tiering,
    /// The fleet cannot be asked.
    #[error(transparent)]
    Fleet(orlop_cache::fleet::FleetError),
    /// The bucket cannot be asked.
    #[error(transparent)]
    Depot(orlop_cache::depot::DepotError),
    /// The cache's folder cannot be read.
    #[error(transparent)]
    Store(orlop_cache::store::StoreError),
    /// The ledger cannot be read.
    #[error("cannot read what was pulled")]
    Ledger(#[source] orlop_cache::DatabaseError),
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
            Self::Folder { source, .. } => source.code(),
            Self::Unknown(_) => "ORL-E9110",
            Self::Ambiguous { .. } => "ORL-E9111",
            Self::Pinned(_) => "ORL-E9112",
            Self::NotPinned(_) => "ORL-E9113",
            Self::NotHonoured(_) => "ORL-E9114",
            Self::Trace { .. } | Self::WriteTrace { .. } => "ORL-E9115",
            Self::Settings(errors) => errors.code(),
            Self::Start { .. } => "ORL-E9217",
            Self::Tls(problem) => problem.code(),
            Self::Secrets { .. } => "ORL-E9221",
            Self::Setup { .. } => "ORL-E9220",
            Self::Configuration { .. } => "ORL-E9334",
            Self::WrongConfiguration { .. } | Self::UnknownPlace(_) => "ORL-E9335",
            Self::NoDepot => "ORL-E9336",
            Self::NoLife(_) => "ORL-E9337",
            Self::Journal { .. } | Self::Ledger(_) => "ORL-E9338",
            Self::Tiering => "ORL-E9339",
            Self::Tier(error) => error.code(),
            Self::Fleet(error) => error.code(),
            Self::Depot(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Certificates { .. } => "ORL-E9331",
            Self::Database(_) => "ORL-E9332",
            Self::Password { .. } => "ORL-E9333",
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
            Self::Configuration { .. } => "name the cache's file with --config",
            Self::WrongConfiguration { .. } | Self::UnknownPlace(_) => {
                "put right what is named; docs/guide/cache-s3.md has every key"
            }
            Self::NoDepot => "name a bucket: [depot] bucket = \"NAME\"",
            Self::NoLife(_) => "look at the limits of this process: ulimit -a",
            Self::Journal { .. } | Self::Ledger(_) | Self::Store(_) => {
                "look whether --root is the cache's folder and the disk is not full"
            }
            Self::Tiering => "wait until it is done; what is under way goes on by itself",
            Self::Tier(_) | Self::Fleet(_) | Self::Depot(_) => "docs/errors has a page on it",
            Self::Certificates { .. } => {
                "name a file with certificates in PEM, or leave ca_file out"
            }
            Self::Database(_) => {
                "write it as postgresql://USER@HOST/DATABASE or as \"host=… user=… dbname=…\""
            }
            Self::Password { .. } => {
                "name a file that the cache may read, with nothing but the password"
            }
            Self::Output(_) => "look whether the disk is full",
            Self::Folder { .. } => "name the folder that the server has with --root, as its user",
            Self::Unknown(_) => "orlop cache ls --top 0 lists what is kept",
            Self::Ambiguous { .. } => "write more of the digest",
            Self::Pinned(_) => "orlop cache pin lists the pins; --force removes it all the same",
            Self::NotPinned(_) => {
                "orlop cache pin lists the pins; what a pinned manifest names has none of its own"
            }
            Self::NotHonoured(_) => "it will, as soon as it looks; is it hung? Its log tells",
            Self::Trace { .. } => "lines are seconds,blob,bytes: whole numbers",
            Self::WriteTrace { .. } => "look whether the folder is there and the disk has room",
            Self::Settings(_) => {
                "orlop cache config default shows every setting with its explanation"
            }
            Self::Start { .. } => "look whether another process has the address or the folder",
            Self::Tls(_) => "name PEM files that belong together",
            Self::Secrets { .. } => {
                "htpasswd -B writes users; a file of tokens has lines of NAME TOKEN"
            }
            Self::Setup { .. } => "leave --write out to see the text, and put it in place yourself",
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

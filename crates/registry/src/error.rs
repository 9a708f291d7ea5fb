//! Failures: what each host said, and what the caller can do about it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::hosts::HostsError;

/// What was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Turning a tag into a descriptor.
    Resolve,
    /// Reading a manifest.
    FetchManifest,
    /// Reading a blob.
    FetchBlob,
    /// Writing a blob.
    PushBlob,
    /// Writing a manifest.
    PushManifest,
    /// Listing what refers to a manifest.
    ListReferrers,
    /// Listing a repository's tags.
    ListTags,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Resolve => "resolve",
            Self::FetchManifest => "fetch the manifest of",
            Self::FetchBlob => "fetch a blob of",
            Self::PushBlob => "push a blob of",
            Self::PushManifest => "push the manifest of",
            Self::ListReferrers => "list what refers to",
            Self::ListTags => "list the tags of",
        })
    }
}

/// How a host could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Its name has no address.
    Dns,
    /// Nobody listens, or a firewall says no.
    Refused,
    /// No connection, no answer or no further byte in time.
    TimedOut,
    /// The connection broke.
    Broken,
}

/// Why TLS failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsCause {
    /// The certificate's authority is not trusted here.
    UnknownAuthority,
    /// The certificate is for another name.
    WrongName,
    /// The certificate is not valid any more, or not yet.
    Expired,
    /// The server speaks plain HTTP.
    NotTls,
    /// The server wants a client certificate, or refuses ours.
    ClientCertificate,
    /// Anything else; the source says more.
    Other,
}

/// What kind of failure one host gave. Each tells the caller what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// 401: log in.
    Unauthorized,
    /// 403: ask for access.
    Forbidden,
    /// 404: no such image, or a private one.
    NotFound,
    /// 429: come back later.
    TooManyRequests {
        /// What the host asked for.
        retry_after: Option<Duration>,
    },
    /// 5xx: come back later.
    Server {
        /// The status.
        status: u16,
        /// What the host asked for.
        retry_after: Option<Duration>,
    },
    /// No connection: retry, or look at the network.
    Unreachable(Reach),
    /// No trust: fix certificates.
    Tls(TlsCause),
    /// An answer that breaks the protocol or does not fit the descriptor.
    BadResponse,
    /// An answer longer than Orlop reads.
    TooLarge,
    /// Ranges are not served properly by this host; internal unless every way failed.
    BadRange,
    /// The host's bytes have another digest than the blob; it is not asked for that blob again.
    WrongDigest,
    /// Credentials could not be had, for example because a helper failed.
    Credentials,
    /// Our own configuration of this host does not work.
    Configuration,
    /// The bytes came but could not be kept: disk full, for example.
    Sink,
    /// A layer whose bytes are elsewhere by licence. Orlop does not fetch those.
    Foreign,
}

impl FailureKind {
    /// Whether the same host may answer well later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::TooManyRequests { .. } | Self::Server { .. } => true,
            Self::Unreachable(reach) => match reach {
                Reach::TimedOut | Reach::Broken | Reach::Refused => true,
                Reach::Dns => false,
            },
            Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::Tls(_)
            | Self::BadResponse
            | Self::TooLarge
            | Self::BadRange
            | Self::WrongDigest
            | Self::Credentials
            | Self::Configuration
            | Self::Sink
            | Self::Foreign => false,
        }
    }

    /// How long the host asked us to wait.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after } | Self::Server { retry_after, .. } => retry_after,
            Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::Unreachable(_)
            | Self::Tls(_)
            | Self::BadResponse
            | Self::TooLarge
            | Self::BadRange
            | Self::WrongDigest
            | Self::Credentials
            | Self::Configuration
            | Self::Sink
            | Self::Foreign => None,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Unauthorized => "ORL-E3001",
            Self::Forbidden => "ORL-E3002",
            Self::NotFound => "ORL-E3003",
            Self::TooManyRequests { .. } => "ORL-E3004",
            Self::Server { .. } => "ORL-E3005",
            Self::Unreachable(_) => "ORL-E3006",
            Self::Tls(_) => "ORL-E3007",
            Self::BadResponse => "ORL-E3008",
            Self::TooLarge => "ORL-E3009",
            Self::BadRange => "ORL-E3010",
            Self::Credentials => "ORL-E3011",
            Self::Configuration => "ORL-E3012",
            Self::Sink => "ORL-E3013",
            Self::Foreign => "ORL-E3014",
            Self::WrongDigest => "ORL-E3015",
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::Unauthorized => "log in to the registry, or give credentials with the pull",
            Self::Forbidden => "ask the repository's owner for access",
            Self::NotFound => {
                "check the name and the tag; private repositories can look missing without credentials"
            }
            Self::TooManyRequests { .. } => {
                "wait, log in for a higher limit, or configure a mirror"
            }
            Self::Server { .. } => {
                "the registry has a fault of its own: try later or configure a mirror"
            }
            Self::Unreachable(reach) => match reach {
                Reach::Dns => "check the registry's name and this node's DNS",
                Reach::Refused => "check the port, firewall and proxy settings",
                Reach::TimedOut | Reach::Broken => {
                    "check the network between this node and the registry, and proxy settings"
                }
            },
            Self::Tls(cause) => match cause {
                TlsCause::UnknownAuthority => {
                    "put the registry's CA certificate into hosts.toml as `ca`"
                }
                TlsCause::WrongName => "use the name that the certificate is for",
                TlsCause::Expired => "renew the registry's certificate, or check this node's clock",
                TlsCause::NotTls => {
                    "the server speaks plain HTTP: write its URL with http:// in hosts.toml"
                }
                TlsCause::ClientCertificate => {
                    "configure a client certificate in hosts.toml as `client`"
                }
                TlsCause::Other => "check the TLS settings of the registry",
            },
            Self::BadResponse | Self::TooLarge | Self::BadRange => {
                "the answer is not what a registry gives: check for a proxy or login page in between"
            }
            Self::WrongDigest => {
                "the host named gave damaged or forged bytes: repair or remove it, or push the image again"
            }
            Self::Credentials => "check ~/.docker/config.json and its credential helper",
            Self::Configuration => "correct hosts.toml",
            Self::Sink => "check free space and health of the disk",
            Self::Foreign => "push the image again with its foreign layers included",
        }
    }

    /// How much the failure explains: among several hosts' failures the most telling one decides.
    const fn weight(self) -> u8 {
        match self {
            Self::Sink | Self::Foreign => 9,
            // Heavier than what other hosts said: it is the reason why they were asked.
            Self::WrongDigest => 9,
            Self::Configuration | Self::Credentials => 8,
            Self::Unauthorized | Self::Forbidden => 7,
            Self::TooManyRequests { .. } => 6,
            Self::TooLarge | Self::BadResponse | Self::BadRange => 5,
            Self::Tls(_) => 4,
            Self::Server { .. } => 3,
            Self::Unreachable(_) => 2,
            Self::NotFound => 1,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized => formatter.write_str("unauthorized (401)"),
            Self::Forbidden => formatter.write_str("forbidden (403)"),
            Self::NotFound => formatter.write_str("not found (404)"),
            Self::TooManyRequests { retry_after } => match retry_after {
                Some(wait) => write!(formatter, "too many requests (429), retry after {wait:?}"),
                None => formatter.write_str("too many requests (429)"),
            },
            Self::Server { status, .. } => write!(formatter, "server error ({status})"),
            Self::Unreachable(reach) => formatter.write_str(match reach {
                Reach::Dns => "name not found",
                Reach::Refused => "connection refused",
                Reach::TimedOut => "timed out",
                Reach::Broken => "connection broken",
            }),
            Self::Tls(cause) => formatter.write_str(match cause {
                TlsCause::UnknownAuthority => "TLS: certificate of an unknown authority",
                TlsCause::WrongName => "TLS: certificate for another name",
                TlsCause::Expired => "TLS: certificate expired or not yet valid",
                TlsCause::NotTls => "TLS: the server speaks plain HTTP",
                TlsCause::ClientCertificate => "TLS: client certificate wanted or refused",
                TlsCause::Other => "TLS: handshake failed",
            }),
            Self::BadResponse => formatter.write_str("bad response"),
            Self::TooLarge => formatter.write_str("response too large"),
            Self::BadRange => formatter.write_str("ranges served wrongly"),
            Self::WrongDigest => formatter.write_str("wrong digest"),
            Self::Credentials => formatter.write_str("no credentials"),
            Self::Configuration => formatter.write_str("host configuration unusable"),
            Self::Sink => formatter.write_str("bytes could not be stored"),
            Self::Foreign => formatter.write_str("foreign layer refused"),
        }
    }
}

/// What one host said.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {kind}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct Failure {
    /// Host and port.
    pub host: String,
    /// The kind.
    pub kind: FailureKind,
    /// More, in words; may be empty.
    pub detail: String,
    /// The error underneath.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(host: &str, kind: FailureKind, detail: impl Into<String>) -> Self {
        Self {
            host: host.to_owned(),
            kind,
            detail: detail.into(),
            source: None,
        }
    }

    pub(crate) fn because(
        host: &str,
        kind: FailureKind,
        detail: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        Self {
            source: Some(Box::new(source)),
            ..Self::new(host, kind, detail)
        }
    }
}

/// An operation that no host could do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {subject}: {}", list(failures))]
pub struct Error {
    operation: Operation,
    subject: String,
    failures: Vec<Failure>,
}

fn list(failures: &[Failure]) -> String {
    if failures.is_empty() {
        return "no configured host may do this".to_owned();
    }
    let texts: Vec<String> = failures.iter().map(Failure::to_string).collect();
    texts.join("; ")
}

impl Error {
    pub(crate) fn new(
        operation: Operation,
        subject: impl fmt::Display,
        failures: Vec<Failure>,
    ) -> Self {
        Self {
            operation,
            subject: subject.to_string(),
            failures,
        }
    }

    pub(crate) fn configuration(
        operation: Operation,
        subject: impl fmt::Display,
        error: HostsError,
    ) -> Self {
        let failure = Failure {
            host: error.registry.clone(),
            kind: FailureKind::Configuration,
            detail: error.to_string(),
            source: None,
        };
        Self::new(operation, subject, vec![failure])
    }

    /// What was attempted.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// On which reference or digest.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What each host said, in the order they were asked.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The most telling kind of failure.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.failures
            .iter()
            .map(|failure| failure.kind)
            .max_by_key(|kind| kind.weight())
            .unwrap_or(FailureKind::Configuration)
    }

    /// The stable id of [`Self::kind`].
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.kind().code()
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.kind().hint()
    }
}

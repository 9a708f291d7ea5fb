//! What can go wrong on the way to an upstream registry, and what a client is told: a 429 stays one, a fault of the
//! upstream stays one, and only a real 404 is a 404.

use std::time::Duration;

use orlop_registry::{Error, FailureKind, Reach};

/// What kind of trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// The upstream says that there is no such thing.
    NotFound,
    /// The upstream wants other credentials.
    Unauthorized,
    /// The upstream refuses.
    Forbidden,
    /// The upstream wants us to wait, or wanted so shortly before.
    Throttled,
    /// The upstream failed with this status.
    Failing(u16),
    /// The upstream cannot be reached.
    Unreachable,
    /// The upstream did not answer in time.
    TimedOut,
    /// The upstream failed so often that it is not asked for a while.
    Resting,
    /// The upstream's answer cannot be used, or our configuration of it.
    Unusable,
    /// The upstream's bytes have another digest.
    WrongBytes,
    /// The bytes could not be kept here.
    Room,
    /// The cache is ending.
    Ending,
}

/// Trouble with an upstream. Shared by everybody who waited for the same thing, so its cause is words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// The kind.
    pub kind: TroubleKind,
    /// What happened, with its causes.
    pub message: String,
    /// When asking again makes sense.
    pub retry_after: Option<Duration>,
}

impl Trouble {
    pub(crate) fn new(kind: TroubleKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Whether what is kept may be served in place of an answer: the upstream could not say, rather than said no.
    #[must_use]
    pub const fn allows_stale(&self) -> bool {
        match self.kind {
            TroubleKind::Throttled
            | TroubleKind::Failing(_)
            | TroubleKind::Unreachable
            | TroubleKind::TimedOut
            | TroubleKind::Resting
            | TroubleKind::Unusable => true,
            TroubleKind::NotFound
            | TroubleKind::Unauthorized
            | TroubleKind::Forbidden
            | TroubleKind::WrongBytes
            | TroubleKind::Room
            | TroubleKind::Ending => false,
        }
    }

    /// Whether somebody with another credential may fare better.
    #[must_use]
    pub const fn is_of_the_credential(&self) -> bool {
        matches!(
            self.kind,
            TroubleKind::NotFound
                | TroubleKind::Unauthorized
                | TroubleKind::Forbidden
                | TroubleKind::Throttled
        )
    }

    /// Whether it counts against the upstream.
    pub(super) const fn is_of_the_upstream(&self) -> bool {
        matches!(
            self.kind,
            TroubleKind::Failing(_) | TroubleKind::Unreachable | TroubleKind::TimedOut
        )
    }

    /// The status for a client.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self.kind {
            TroubleKind::NotFound => 404,
            TroubleKind::Unauthorized => 401,
            TroubleKind::Forbidden => 403,
            TroubleKind::Throttled => 429,
            TroubleKind::Failing(503) | TroubleKind::Resting | TroubleKind::Room => 503,
            TroubleKind::Failing(504) | TroubleKind::TimedOut => 504,
            TroubleKind::Failing(_)
            | TroubleKind::Unreachable
            | TroubleKind::Unusable
            | TroubleKind::WrongBytes => 502,
            TroubleKind::Ending => 503,
        }
    }

    /// The stable id.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.kind {
            TroubleKind::NotFound => "ORL-E9204",
            TroubleKind::Unauthorized | TroubleKind::Forbidden => "ORL-E9205",
            TroubleKind::Throttled => "ORL-E9207",
            TroubleKind::Failing(_) => "ORL-E9208",
            TroubleKind::Unreachable | TroubleKind::TimedOut => "ORL-E9209",
            TroubleKind::WrongBytes => "ORL-E9210",
            TroubleKind::Unusable => "ORL-E9211",
            TroubleKind::Resting => "ORL-E9212",
            TroubleKind::Room => "ORL-E9214",
            TroubleKind::Ending => "ORL-E9219",
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let found = error.kind();
        let kind = match found {
            FailureKind::NotFound => TroubleKind::NotFound,
            FailureKind::Unauthorized => TroubleKind::Unauthorized,
            FailureKind::Forbidden => TroubleKind::Forbidden,
            FailureKind::TooManyRequests { .. } => TroubleKind::Throttled,
            FailureKind::Server { status, .. } => TroubleKind::Failing(status),
            FailureKind::Unreachable(Reach::TimedOut) => TroubleKind::TimedOut,
            FailureKind::Unreachable(Reach::Dns | Reach::Refused | Reach::Broken) => {
                TroubleKind::Unreachable
            }
            FailureKind::WrongDigest => TroubleKind::WrongBytes,
            FailureKind::Sink => TroubleKind::Room,
            FailureKind::Tls(_)
            | FailureKind::BadResponse
            | FailureKind::TooLarge
            | FailureKind::BadRange
            | FailureKind::Credentials
            | FailureKind::Configuration
            | FailureKind::Foreign => TroubleKind::Unusable,
        };
        Self {
            kind,
            message: error.to_string(),
            retry_after: found.retry_after(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_upstream_stays_one_and_only_a_404_is_a_404() {
        for (kind, status, allows_stale) in [
            (TroubleKind::NotFound, 404, false),
            (TroubleKind::Unauthorized, 401, false),
            (TroubleKind::Forbidden, 403, false),
            (TroubleKind::Throttled, 429, true),
            (TroubleKind::Failing(500), 502, true),
            (TroubleKind::Failing(502), 502, true),
            (TroubleKind::Failing(503), 503, true),
            (TroubleKind::Failing(504), 504, true),
            (TroubleKind::Unreachable, 502, true),
            (TroubleKind::TimedOut, 504, true),
            (TroubleKind::Resting, 503, true),
            (TroubleKind::Unusable, 502, true),
            (TroubleKind::WrongBytes, 502, false),
            (TroubleKind::Room, 503, false),
            (TroubleKind::Ending, 503, false),
        ] {
            let trouble = Trouble::new(kind, "");
            assert_eq!(trouble.status(), status, "{kind:?}");
            assert_eq!(trouble.allows_stale(), allows_stale, "{kind:?}");
        }
    }
}

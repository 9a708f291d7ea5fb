//! Credentials and where they come from.

use std::fmt;
use std::pin::Pin;

/// What proves who asks. Never shown: its `Debug` names the kind only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// A user name and a password or personal token.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token, to be turned into tokens by the token service.
    IdentityToken(String),
    /// A token for the registry itself, sent as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
            Self::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}

/// Credentials that could not be had; having none is [`Credential::Anonymous`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read or understood.
    #[error("credentials file {path}: {problem}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The helper failed.
    #[error("credential helper {helper}: {problem}")]
    Helper {
        /// Which program.
        helper: String,
        /// What went wrong.
        problem: String,
    },
}

/// The answer of a [`CredentialSource`], later.
pub type CredentialFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Credential, CredentialError>> + Send + 'a>>;

/// Where credentials come from.
pub trait CredentialSource: Send + Sync {
    /// The credential for `host`, which is a registry or a mirror with its port; `docker.io` for Docker Hub.
    ///
    /// A source must answer [`Credential::Anonymous`] for hosts that its credentials are not for: mirrors are asked
    /// about too.
    fn credential<'a>(&'a self, host: &'a str) -> CredentialFuture<'a>;
}

/// Nobody has credentials.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCredentials;

impl CredentialSource for NoCredentials {
    fn credential<'a>(&'a self, _host: &'a str) -> CredentialFuture<'a> {
        Box::pin(async { Ok(Credential::Anonymous) })
    }
}

/// One credential for one host, as a client gives it with a pull.
#[derive(Debug, Clone)]
pub struct FixedCredential {
    /// The host it is for.
    pub host: String,
    /// The credential.
    pub credential: Credential,
}

impl CredentialSource for FixedCredential {
    fn credential<'a>(&'a self, host: &'a str) -> CredentialFuture<'a> {
        let credential = if host == self.host {
            self.credential.clone()
        } else {
            Credential::Anonymous
        };
        Box::pin(async { Ok(credential) })
    }
}

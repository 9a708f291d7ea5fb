//! Authorisation: basic and bearer, with tokens kept by credential, realm, service and scope
//! (distribution's `spec/auth/token`, `spec/auth/oauth`).
//!
//! Concurrency: one token is fetched once, however many ask; the others wait for it. Nothing outlives the process.

mod challenge;
mod credentials;
mod docker;
mod tokens;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

pub use challenge::Challenge;
pub use credentials::{
    Credential, CredentialError, CredentialFuture, CredentialSource, FixedCredential, NoCredentials,
};
pub use docker::{CredentialHelper, DockerConfig};

use crate::error::{Failure, FailureKind};
use crate::hosts::Endpoint;
use crate::transport::Transport;
use tokens::{TokenKey, TokenStore};

/// What a request wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope(pub(crate) String);

impl Scope {
    pub(crate) fn pull(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull"))
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull,push"))
    }

    /// Push, and pull from the repository a blob is mounted from.
    pub(crate) fn mount(repository: &str, from: &str) -> Self {
        Self(format!(
            "repository:{repository}:pull,push repository:{from}:pull"
        ))
    }
}

/// Answers challenges. Shared by all users of a client: what a credential may do is part of every key.
#[derive(Debug, Default)]
pub(crate) struct Authorizer {
    challenges: Mutex<HashMap<String, Challenge>>,
    tokens: TokenStore,
}

impl Authorizer {
    /// The value of `Authorization` for a request, if the host is known to want one.
    pub(crate) async fn authorization(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        source: &dyn CredentialSource,
        scope: &Scope,
    ) -> Result<Option<String>, Failure> {
        let Some(challenge) = self.challenge(&endpoint.authority) else {
            return Ok(None);
        };
        let credential = self.credential(endpoint, source).await?;
        match (challenge, credential) {
            (_, Credential::RegistryToken(token)) => Ok(Some(format!("Bearer {token}"))),
            (Challenge::Basic, Credential::Basic { username, password }) => {
                Ok(Some(basic(&username, &password)))
            }
            (Challenge::Basic, Credential::Anonymous | Credential::IdentityToken(_)) => Ok(None),
            (Challenge::Bearer { realm, service }, credential) => {
                let key = TokenKey {
                    credential,
                    realm,
                    service,
                    scope: scope.0.clone(),
                };
                let token = self.tokens.token(transport, endpoint, key).await?;
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }

    /// Takes in a 401. Whether asking again can help: the host's challenge is understood and something about it, or
    /// about the token that was refused, has changed.
    pub(crate) fn refused(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        sent: Option<&str>,
    ) -> bool {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenge = lines
            .filter_map(|line| line.to_str().ok())
            .find_map(Challenge::parse);
        let Some(challenge) = challenge else {
            return false;
        };
        let forgotten = sent
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| self.tokens.forget(token));
        let mut challenges = self
            .challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = challenges.insert(endpoint.authority.clone(), challenge.clone());
        sent.is_none() || forgotten || old != Some(challenge)
    }

    fn challenge(&self, authority: &str) -> Option<Challenge> {
        let challenges = self
            .challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        challenges.get(authority).cloned()
    }

    async fn credential(
        &self,
        endpoint: &Endpoint,
        source: &dyn CredentialSource,
    ) -> Result<Credential, Failure> {
        let host = match endpoint.authority.as_str() {
            "registry-1.docker.io" => "docker.io",
            other => other,
        };
        source.credential(host).await.map_err(|error| Failure {
            host: host.to_owned(),
            kind: FailureKind::Credentials,
            detail: error.to_string(),
            source: Some(Box::new(error)),
        })
    }
}

fn basic(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}

/// A credential source that several clients share.
pub(crate) type SharedCredentials = Arc<dyn CredentialSource>;

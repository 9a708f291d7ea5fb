//! Who may do what: nobody asked, basic, or bearer tokens from a token service.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How requests must be authorised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// No questions asked.
    Open,
    /// A user name and a password with every request.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: String,
    },
    /// User names and passwords, each good for some repositories only; what a user may not see does not exist for it.
    Tenants(Vec<Tenant>),
    /// Tokens, fetched from `/token` on the same port.
    Bearer {
        /// Who gets one; `None` gives everybody one that may pull.
        user: Option<(String, String)>,
        /// How long a token lasts.
        lifetime_seconds: u64,
        /// Whether `POST /token` (OAuth2) works; if not it answers 404.
        oauth: bool,
    },
}

/// A user who sees some repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
    /// What the user may pull.
    pub repositories: Vec<String>,
}

/// Whether `authorization` is somebody's who may know that `repository` exists.
pub(crate) fn is_visible(access: &Access, authorization: Option<&str>, repository: &str) -> bool {
    let Access::Tenants(tenants) = access else {
        return true;
    };
    let Some((username, password)) = basic_credentials(authorization) else {
        return true;
    };
    let own = |tenant: &&Tenant| tenant.username == username && tenant.password == password;
    let seen = tenants.iter().find(own);
    seen.is_none_or(|tenant| {
        repository.is_empty() || tenant.repositories.iter().any(|seen| seen == repository)
    })
}

/// The refresh token that the token service knows beside the password.
pub(crate) const IDENTITY_TOKEN: &str = "identity";

/// Tokens given out.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    valid: HashMap<String, (String, Instant)>,
    count: u64,
}

impl Tokens {
    pub(crate) fn revoke(&mut self) {
        self.valid.clear();
    }

    fn issue(&mut self, scope: &str, lifetime: Duration) -> String {
        self.count += 1;
        let token = format!("token-{}", self.count);
        self.valid
            .insert(token.clone(), (scope.to_owned(), Instant::now() + lifetime));
        token
    }

    fn allows(&self, token: &str, repository: &str, action: &str) -> bool {
        let Some((scopes, until)) = self.valid.get(token) else {
            return false;
        };
        let prefix = format!("repository:{repository}:");
        *until > Instant::now()
            && scopes.split(' ').any(|scope| {
                scope
                    .strip_prefix(&prefix)
                    .is_some_and(|actions| actions.split(',').any(|given| given == action))
            })
    }
}

/// Whether `authorization` lets a request act on `repository`.
pub(crate) fn is_allowed(
    access: &Access,
    tokens: &Tokens,
    authorization: Option<&str>,
    repository: &str,
    action: &str,
) -> bool {
    match access {
        Access::Open => true,
        Access::Basic { username, password } => {
            basic_credentials(authorization) == Some((username.clone(), password.clone()))
        }
        Access::Tenants(tenants) => {
            basic_credentials(authorization).is_some_and(|(username, password)| {
                tenants
                    .iter()
                    .any(|tenant| tenant.username == username && tenant.password == password)
            })
        }
        Access::Bearer { .. } => authorization
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| repository.is_empty() || tokens.allows(token, repository, action)),
    }
}

/// The value of `WWW-Authenticate` for a refused request.
pub(crate) fn challenge(
    access: &Access,
    registry_url: &str,
    repository: &str,
    action: &str,
) -> Option<String> {
    match access {
        Access::Open => None,
        Access::Basic { .. } | Access::Tenants(_) => Some("Basic realm=\"fake\"".to_owned()),
        Access::Bearer { .. } => {
            let actions = if action == "push" {
                "pull,push"
            } else {
                "pull"
            };
            Some(format!(
                "Bearer realm=\"{registry_url}/token\",service=\"fake, \\\"quoted\\\"\",scope=\"repository:{repository}:{actions}\""
            ))
        }
    }
}

/// Answers the token service: the JSON, or the status of a refusal.
pub(crate) fn token_answer(
    access: &Access,
    tokens: &mut Tokens,
    method: &str,
    authorization: Option<&str>,
    fields: &[(String, String)],
) -> Result<String, u16> {
    let Access::Bearer {
        user,
        lifetime_seconds,
        oauth,
    } = access
    else {
        return Err(404);
    };
    let field = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let given = if method == "POST" {
        if !oauth {
            return Err(404);
        }
        if field("refresh_token").as_deref() == Some(IDENTITY_TOKEN) {
            user.clone()
        } else {
            field("username").zip(field("password"))
        }
    } else {
        basic_credentials(authorization)
    };
    if user.is_some() && given != *user {
        return Err(401);
    }
    let scopes: Vec<&str> = fields
        .iter()
        .filter(|(key, _)| key == "scope")
        .map(|(_, value)| value.as_str())
        .collect();
    let token = tokens.issue(&scopes.join(" "), Duration::from_secs(*lifetime_seconds));
    let name = if method == "POST" {
        "access_token"
    } else {
        "token"
    };
    Ok(format!(
        "{{\"{name}\":\"{token}\",\"expires_in\":{lifetime_seconds}}}"
    ))
}

fn basic_credentials(authorization: Option<&str>) -> Option<(String, String)> {
    let encoded = authorization?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

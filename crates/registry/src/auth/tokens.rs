//! Tokens: fetched by POST (OAuth2) or GET, kept until shortly before they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, StatusCode};
use reqwest::Url;
use serde::Deserialize;
use tokio::time::Instant;

use super::basic;
use super::credentials::Credential;
use crate::error::{Failure, FailureKind};
use crate::hosts::Endpoint;
use crate::manifest::read_bounded;
use crate::transport::{Ask, Transport, failure_of_status, host_of};

const CLIENT_ID: &str = "orlop";
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// What a token without `expires_in` lasts (distribution's `spec/auth/token`).
const LIFETIME_DEFAULT: Duration = Duration::from_secs(60);
/// A token is not used in the last part of its life: the request could arrive after its end.
const LIFETIME_MARGIN_SHARE: u32 = 10;
/// More tokens than any node's pulls need; beyond that the ended ones go.
const TOKENS_MAX: usize = 1024;

/// Everything a token depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) credential: Credential,
    pub(super) realm: String,
    pub(super) service: String,
    pub(super) scope: String,
}

#[derive(Debug, Clone)]
struct Token {
    value: String,
    usable_until: Instant,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// Tokens by everything they depend on.
#[derive(Debug, Default)]
pub(super) struct TokenStore {
    slots: Mutex<HashMap<TokenKey, Slot>>,
}

impl TokenStore {
    /// A usable token, from memory or from the token service.
    pub(super) async fn token(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        key: TokenKey,
    ) -> Result<String, Failure> {
        let slot = self.slot(&key);
        let mut held = slot.lock().await;
        if let Some(token) = held
            .as_ref()
            .filter(|token| token.usable_until > Instant::now())
        {
            return Ok(token.value.clone());
        }
        let token = fetch(transport, endpoint, &key).await?;
        let value = token.value.clone();
        *held = Some(token);
        Ok(value)
    }

    /// Drops a token that was refused; whether it was one of ours.
    pub(super) fn forget(&self, refused: &str) -> bool {
        let mut known = false;
        for slot in self.lock().values() {
            // A slot in use is being refreshed right now, so what it held is on its way out.
            let Ok(mut held) = slot.try_lock() else {
                known = true;
                continue;
            };
            if held.as_ref().is_some_and(|token| token.value == refused) {
                *held = None;
                known = true;
            }
        }
        known
    }

    fn slot(&self, key: &TokenKey) -> Slot {
        let mut slots = self.lock();
        if slots.len() >= TOKENS_MAX && !slots.contains_key(key) {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key.clone()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenKey, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

async fn fetch(
    transport: &Transport,
    endpoint: &Endpoint,
    key: &TokenKey,
) -> Result<Token, Failure> {
    let realm = check_realm(endpoint, &key.realm)?;
    if let Some(fields) = oauth_fields(key) {
        let answer = post(transport, endpoint, realm.clone(), &fields).await;
        match (answer, &key.credential) {
            (Ok(token), _) => return Ok(token),
            // Many token services know only GET, and say so in different ways.
            (Err((Some(400 | 401 | 404 | 405), _)), Credential::Basic { .. }) => {}
            (Err((_, failure)), _) => return Err(failure),
        }
    }
    get(transport, endpoint, realm, key).await
}

/// A token service must be as well protected as its registry, or the password would travel in the open.
fn check_realm(endpoint: &Endpoint, realm: &str) -> Result<Url, Failure> {
    let bad = |detail: String| Failure::new(&endpoint.authority, FailureKind::BadResponse, detail);
    let url = Url::parse(realm).map_err(|error| bad(format!("token realm {realm:?}: {error}")))?;
    match (endpoint.scheme, url.scheme()) {
        (_, "https")
        | (crate::hosts::Scheme::Http | crate::hosts::Scheme::HttpsThenHttp, "http") => Ok(url),
        _ => Err(bad(format!("token realm {realm:?} must use https"))),
    }
}

fn oauth_fields(key: &TokenKey) -> Option<Vec<(&'static str, &str)>> {
    let mut fields = vec![
        ("scope", key.scope.as_str()),
        ("service", key.service.as_str()),
        ("client_id", CLIENT_ID),
    ];
    match &key.credential {
        Credential::Basic { username, password } => fields.extend([
            ("grant_type", "password"),
            ("username", username.as_str()),
            ("password", password.as_str()),
        ]),
        Credential::IdentityToken(token) => {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("refresh_token", token.as_str()),
            ]);
        }
        Credential::Anonymous | Credential::RegistryToken(_) => return None,
    }
    Some(fields)
}

async fn post(
    transport: &Transport,
    endpoint: &Endpoint,
    realm: Url,
    fields: &[(&str, &str)],
) -> Result<Token, (Option<u16>, Failure)> {
    let mut ask = Ask::new(Method::POST, realm.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    // A scratch URL is the encoder for forms: its query has the same encoding.
    let mut scratch = realm;
    scratch.query_pairs_mut().clear().extend_pairs(fields);
    ask.body = scratch.query().unwrap_or_default().to_owned().into();
    exchange(transport, endpoint, &ask).await
}

async fn get(
    transport: &Transport,
    endpoint: &Endpoint,
    mut realm: Url,
    key: &TokenKey,
) -> Result<Token, Failure> {
    {
        let mut query = realm.query_pairs_mut();
        if !key.service.is_empty() {
            query.append_pair("service", &key.service);
        }
        for scope in key.scope.split(' ') {
            query.append_pair("scope", scope);
        }
    }
    let mut ask = Ask::new(Method::GET, realm);
    if let Credential::Basic { username, password } = &key.credential {
        ask = ask.header(AUTHORIZATION, &basic(username, password));
    }
    exchange(transport, endpoint, &ask)
        .await
        .map_err(|(_, failure)| failure)
}

/// The token service shares the registry's trust and proxy, but not its extra headers.
async fn exchange(
    transport: &Transport,
    endpoint: &Endpoint,
    ask: &Ask,
) -> Result<Token, (Option<u16>, Failure)> {
    let host = host_of(&ask.url);
    let service = Endpoint {
        headers: Vec::new(),
        ..endpoint.clone()
    };
    let response = transport
        .send(&service, ask)
        .await
        .map_err(|failure| (None, failure))?;
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        let failure = failure_of_status(&host, response, transport.no_progress()).await;
        return Err((Some(status), failure));
    }
    let body = read_bounded(&host, response, ANSWER_BYTES_MAX, transport.no_progress())
        .await
        .map_err(|failure| (None, failure))?;
    let bad = |detail: &str| (None, Failure::new(&host, FailureKind::BadResponse, detail));
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| bad("the token service's answer is not valid JSON"))?;
    let value = if answer.access_token.is_empty() {
        answer.token
    } else {
        answer.access_token
    };
    if value.is_empty() {
        return Err(bad("the token service's answer holds no token"));
    }
    let lifetime = answer
        .expires_in
        .filter(|seconds| *seconds > 0)
        .map_or(LIFETIME_DEFAULT, |seconds| {
            Duration::from_secs(seconds.min(86_400))
        });
    let usable = lifetime - lifetime / LIFETIME_MARGIN_SHARE;
    Ok(Token {
        value,
        usable_until: Instant::now() + usable,
    })
}

//! One HTTP exchange: connection pools per TLS configuration, deadlines, redirects, and what an error means.
//!
//! Cancellation: dropping a future closes its connection. Nothing is kept but pools and which loopback ports speak
//! plain HTTP.

use std::collections::{HashMap, HashSet};
use std::error::Error as StdError;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};

use crate::error::{Failure, FailureKind, Reach, TlsCause};
use crate::hosts::{Endpoint, Scheme, TlsFiles};
use crate::proxy::Proxies;
use crate::tls;
use crate::upload::{Progress, WatchedBody};

const REDIRECTS_MAX: usize = 5;
/// How much of an error's body is read for the operator.
const ERROR_BODY_BYTES_MAX: usize = 4096;
/// Idle connections kept per host: as many as one blob uses.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// Deadlines of an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) connect: Duration,
    pub(crate) no_progress: Duration,
}

/// A request to one endpoint, repeatable because its body is in memory.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    tls: TlsFiles,
    dial_timeout: Option<Duration>,
}

/// Connection pools, one per TLS configuration.
#[derive(Debug)]
pub(crate) struct Transport {
    pools: Mutex<HashMap<PoolKey, reqwest::Client>>,
    plain: Mutex<HashSet<String>>,
    deadlines: Deadlines,
    proxies: Proxies,
    user_agent: String,
}

impl Transport {
    pub(crate) fn new(deadlines: Deadlines, proxies: Proxies, user_agent: String) -> Self {
        Self {
            proxies,
            pools: Mutex::default(),
            plain: Mutex::default(),
            deadlines,
            user_agent,
        }
    }

    pub(crate) const fn no_progress(&self) -> Duration {
        self.deadlines.no_progress
    }

    /// The URL of `rest` below the API's root of `endpoint`.
    pub(crate) fn url(&self, endpoint: &Endpoint, rest: &str) -> Result<Url, Failure> {
        let scheme = match endpoint.scheme {
            Scheme::Http => "http",
            Scheme::HttpsThenHttp if lock(&self.plain).contains(&endpoint.authority) => "http",
            Scheme::Https | Scheme::HttpsThenHttp => "https",
        };
        let text = format!("{scheme}://{}{}/{rest}", endpoint.authority, endpoint.path);
        Url::parse(&text).map_err(|error| {
            Failure::because(&endpoint.authority, FailureKind::Configuration, text, error)
        })
    }

    /// Sends `ask` and follows redirects, leaving credentials and configured headers behind when the host changes.
    /// Any status is an answer.
    pub(crate) async fn send(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Response, Failure> {
        let client = self.pool(endpoint).await?;
        let mut ask = ask.clone();
        add_headers(&mut ask, endpoint);
        for _ in 0..=REDIRECTS_MAX {
            let response = self.exchange(&client, endpoint, &mut ask).await?;
            let Some(target) = redirect_target(&response, &ask.url) else {
                return Ok(response);
            };
            if !same_origin(&target, &ask.url) {
                ask.headers.remove(AUTHORIZATION);
                for (name, _) in &endpoint.headers {
                    ask.headers.remove(name.as_str());
                }
            }
            ask.url = target;
        }
        let detail = format!("more than {REDIRECTS_MAX} redirects");
        Err(Failure::new(
            &endpoint.authority,
            FailureKind::BadResponse,
            detail,
        ))
    }

    /// One request; a loopback port that does not speak TLS is asked again in plain HTTP.
    async fn exchange(
        &self,
        client: &reqwest::Client,
        endpoint: &Endpoint,
        ask: &mut Ask,
    ) -> Result<Response, Failure> {
        let failure = match self.exchange_once(client, endpoint, ask).await {
            Err(failure) => failure,
            answer @ Ok(_) => return answer,
        };
        let speaks_plain = failure.kind == FailureKind::Tls(TlsCause::NotTls);
        let may_be_plain = endpoint.scheme == Scheme::HttpsThenHttp
            && host_of(&ask.url) == endpoint.authority
            && ask.url.set_scheme("http").is_ok();
        if !(speaks_plain && may_be_plain) {
            return Err(failure);
        }
        lock(&self.plain).insert(endpoint.authority.clone());
        self.exchange_once(client, endpoint, ask).await
    }

    async fn exchange_once(
        &self,
        client: &reqwest::Client,
        endpoint: &Endpoint,
        ask: &Ask,
    ) -> Result<Response, Failure> {
        let mut request = client
            .request(ask.method.clone(), ask.url.clone())
            .headers(ask.headers.clone());
        let has_body =
            ask.method == Method::POST || ask.method == Method::PUT || ask.method == Method::PATCH;
        let sent = Progress::default();
        if has_body {
            let body = WatchedBody::new(ask.body.clone(), sent.clone());
            request = request.body(reqwest::Body::wrap(body));
        }
        // A redirect's host is not the endpoint: name the one that failed.
        let host = host_of(&ask.url);
        let dial = endpoint.dial_timeout.unwrap_or(self.deadlines.connect);
        let deadline = self.deadlines.no_progress.max(dial);
        match sent.wait(deadline, request.send()).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(failure_of_error(&host, error)),
            None => {
                let detail = format!("no answer within {deadline:?}");
                Err(Failure::new(
                    &host,
                    FailureKind::Unreachable(Reach::TimedOut),
                    detail,
                ))
            }
        }
    }

    async fn pool(&self, endpoint: &Endpoint) -> Result<reqwest::Client, Failure> {
        let key = PoolKey {
            tls: endpoint.tls.clone(),
            dial_timeout: endpoint.dial_timeout,
        };
        if let Some(client) = lock(&self.pools).get(&key) {
            return Ok(client.clone());
        }
        let unusable =
            |detail| Failure::new(&endpoint.authority, FailureKind::Configuration, detail);
        if !self.proxies.problems().is_empty() {
            return Err(unusable(self.proxies.problems().join("; ")));
        }
        let proxies = self.proxies.clone();
        let files = key.tls.clone();
        // Certificates are files: they are read where blocking is allowed.
        let config = orlop_base::blocking::run("registry-tls", move || tls::client_config(&files))
            .await
            .map_err(|error| unusable(error.to_string()))?
            .map_err(unusable)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(reqwest::redirect::Policy::none())
            .proxy(reqwest::Proxy::custom(move |url| proxies.proxy_for(url)))
            .connect_timeout(endpoint.dial_timeout.unwrap_or(self.deadlines.connect))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(&self.user_agent)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        lock(&self.pools).insert(key, client.clone());
        Ok(client)
    }
}

fn add_headers(ask: &mut Ask, endpoint: &Endpoint) {
    for (name, value) in &endpoint.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            ask.headers.append(name, value);
        }
    }
}

/// No state is behind these locks that a panic could leave half-made.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn redirect_target(response: &Response, from: &Url) -> Option<Url> {
    let follows = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !follows {
        return None;
    }
    let target = from
        .join(response.headers().get(LOCATION)?.to_str().ok()?)
        .ok()?;
    matches!(target.scheme(), "http" | "https").then_some(target)
}

pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Host and port, without the port that goes without saying.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// What an error on the way means.
pub(crate) fn failure_of_error(host: &str, error: reqwest::Error) -> Failure {
    // The URL may hold a presigned signature, which is as good as a password.
    let error = error.without_url();
    let kind = match tls::cause_of(&error) {
        Some(cause) => FailureKind::Tls(cause),
        None => FailureKind::Unreachable(reach_of(&error)),
    };
    let detail = innermost(&error);
    Failure::because(host, kind, detail, error)
}

fn reach_of(error: &reqwest::Error) -> Reach {
    if error.is_timeout() {
        return Reach::TimedOut;
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            if io.kind() == io::ErrorKind::ConnectionRefused {
                return Reach::Refused;
            }
            if io.kind() == io::ErrorKind::TimedOut {
                return Reach::TimedOut;
            }
        }
        // The resolver's error has no kind of its own.
        if current.to_string().contains("dns error") {
            return Reach::Dns;
        }
        next = current.source();
    }
    Reach::Broken
}

fn innermost(error: &dyn StdError) -> String {
    let mut current = error.source();
    let mut text = error.to_string();
    while let Some(error) = current {
        text = error.to_string();
        current = error.source();
    }
    text
}

/// What a status that is no success means; reads the start of the body for the words in it.
pub(crate) async fn failure_of_status(
    host: &str,
    mut response: Response,
    patience: Duration,
) -> Failure {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let kind = match status {
        StatusCode::UNAUTHORIZED => FailureKind::Unauthorized,
        StatusCode::FORBIDDEN => FailureKind::Forbidden,
        StatusCode::NOT_FOUND | StatusCode::GONE => FailureKind::NotFound,
        StatusCode::TOO_MANY_REQUESTS => FailureKind::TooManyRequests { retry_after },
        StatusCode::REQUEST_TIMEOUT => FailureKind::Unreachable(Reach::TimedOut),
        StatusCode::RANGE_NOT_SATISFIABLE => FailureKind::BadRange,
        status if status.is_server_error() => FailureKind::Server {
            status: status.as_u16(),
            retry_after,
        },
        _ => FailureKind::BadResponse,
    };
    let mut body = Vec::new();
    while body.len() < ERROR_BODY_BYTES_MAX {
        match tokio::time::timeout(patience, response.chunk()).await {
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None) | Err(_)) | Err(_) => break,
        }
    }
    body.truncate(ERROR_BODY_BYTES_MAX);
    let words = words_of(&body);
    let detail = if kind == FailureKind::BadResponse {
        format!("status {} {words}", status.as_u16())
            .trim_end()
            .to_owned()
    } else {
        words
    };
    Failure::new(host, kind, detail)
}

/// The codes and messages of an OCI error body (distribution-spec, "Error Codes"); nothing for any other body.
fn words_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return String::new();
    };
    let texts: Vec<String> = body
        .errors
        .iter()
        .take(3)
        .map(|item| format!("{} {}", item.code, item.message))
        .map(|text| text.chars().filter(|c| !c.is_control()).take(200).collect())
        .collect();
    texts.join(", ")
}

/// `Retry-After` in seconds or as a date.
#[allow(
    clippy::disallowed_methods,
    reason = "an HTTP date can only be compared with this machine's wall clock; the result is capped by the policy"
)]
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(
        date.duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    )
}

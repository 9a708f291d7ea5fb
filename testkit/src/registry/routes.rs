//! The distribution API.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use orlop_types::Digest;

use super::body::{End, ScriptedBody};
use super::fault::Action;
use super::image::digest_of;
use super::server::{Role, Seen};
use super::{Inner, Redirects, State, access};

type Answer = Response<ScriptedBody>;

/// What the path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Root,
    Token,
    Manifest {
        repository: &'a str,
        target: &'a str,
    },
    Blob {
        repository: &'a str,
        digest: &'a str,
    },
    Uploads {
        repository: &'a str,
    },
    Upload {
        repository: &'a str,
        id: &'a str,
    },
    Referrers {
        repository: &'a str,
        digest: &'a str,
    },
    Tags {
        repository: &'a str,
    },
    Signed {
        number: &'a str,
    },
    Unknown,
}

/// A request whose body has been read.
struct Asked {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
}

/// Answers one request, after the first fault that matches it.
pub(crate) async fn answer(
    state: Arc<State>,
    role: Role,
    request: Request<Incoming>,
) -> Result<Answer, io::Error> {
    let (parts, body) = request.into_parts();
    let raw_query = parts.uri.query().unwrap_or_default().to_owned();
    let path = parts.uri.path().to_owned();
    let number = log(
        &state,
        role,
        &parts.method,
        &path,
        &raw_query,
        &parts.headers,
    );
    let action = script(&state, parts.method.as_str(), &path).await;
    match &action {
        Some(Action::Hang) => std::future::pending().await,
        Some(Action::Reset) => return Err(io::Error::other("reset as scripted")),
        Some(_) | None => {}
    }
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let asked = Asked {
        method: parts.method,
        query: form(&raw_query),
        path,
        headers: parts.headers,
        body,
    };
    let response = match action {
        Some(Action::Status(status, headers)) => {
            let mut response = plain(status, "scripted");
            for (name, value) in headers {
                response
                    .headers_mut()
                    .insert(name, value.parse().expect("scripts hold sound headers"));
            }
            response
        }
        action => route(&state, role, &asked, action.as_ref()),
    };
    state.lock().log[number].status = response.status().as_u16();
    Ok(response)
}

fn log(
    state: &State,
    role: Role,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
) -> usize {
    let mut inner = state.lock();
    inner.log.push(Seen {
        method: method.to_string(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers.clone(),
        at_storage: role == Role::Storage,
        status: 0,
    });
    inner.log.len() - 1
}

/// Waits out delays, then returns the first other action.
async fn script(state: &State, method: &str, path: &str) -> Option<Action> {
    let actions: Vec<Action> = {
        let mut inner = state.lock();
        let mut actions = Vec::new();
        for fault in &mut inner.faults {
            let Some(action) = fault.take(method, path) else {
                continue;
            };
            let goes_on = matches!(action, Action::Delay(_));
            actions.push(action);
            if !goes_on {
                break;
            }
        }
        actions
    };
    for action in actions {
        if let Action::Delay(time) = action {
            tokio::time::sleep(time).await;
        } else {
            return Some(action);
        }
    }
    None
}

fn route(state: &State, role: Role, asked: &Asked, action: Option<&Action>) -> Answer {
    let mut inner = state.lock();
    let route = match (role, parse(&asked.path)) {
        (Role::Storage, signed @ Route::Signed { .. }) => signed,
        (Role::Storage, _) | (Role::Registry, Route::Signed { .. }) => Route::Unknown,
        (Role::Registry, route) => route,
    };
    if let Some(refusal) = refuse(state, &inner, asked, &route) {
        return refusal;
    }
    match route {
        Route::Root => plain(200, "{}"),
        Route::Token => token(state, &mut inner, asked),
        Route::Manifest { repository, target } if asked.method == Method::PUT => {
            put_manifest(&mut inner, asked, repository, target)
        }
        Route::Manifest { repository, target } => {
            manifest(&inner, asked, (repository, target), action)
        }
        Route::Blob { repository, digest } => {
            blob(state, &mut inner, asked, (repository, digest), action)
        }
        Route::Uploads { repository } => begin_upload(&mut inner, asked, repository),
        Route::Upload { repository, id } => continue_upload(&mut inner, asked, repository, id),
        Route::Referrers { repository, digest } => referrers(&inner, repository, digest),
        Route::Tags { repository } => tags(&inner, asked, repository),
        Route::Signed { number } => {
            let held = number
                .parse()
                .ok()
                .and_then(|number| inner.store.redeem(number));
            match held {
                Some(bytes) => serve(asked, &bytes, action),
                None => plain(403, "<Code>AccessDenied</Code>"),
            }
        }
        Route::Unknown => plain(404, "no such route"),
    }
}

fn parse(path: &str) -> Route<'_> {
    if let Some(rest) = path.strip_prefix("/signed/") {
        let number = rest.split('/').next().unwrap_or_default();
        return Route::Signed { number };
    }
    if path == "/token" {
        return Route::Token;
    }
    // Mirrors behind `override_path` and gateways may put a prefix in front of the API.
    let Some((_, rest)) = path.split_once("/v2/") else {
        return Route::Unknown;
    };
    if rest.is_empty() {
        return Route::Root;
    }
    if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
        return if id.is_empty() {
            Route::Uploads { repository }
        } else {
            Route::Upload { repository, id }
        };
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        return Route::Blob { repository, digest };
    }
    if let Some((repository, target)) = rest.split_once("/manifests/") {
        return Route::Manifest { repository, target };
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return Route::Tags { repository };
    }
    match rest.split_once("/referrers/") {
        Some((repository, digest)) => Route::Referrers { repository, digest },
        None => Route::Unknown,
    }
}

fn refuse(state: &State, inner: &Inner, asked: &Asked, route: &Route<'_>) -> Option<Answer> {
    let repository = match route {
        Route::Root => "",
        Route::Manifest { repository, .. }
        | Route::Blob { repository, .. }
        | Route::Uploads { repository }
        | Route::Upload { repository, .. }
        | Route::Tags { repository }
        | Route::Referrers { repository, .. } => repository,
        Route::Token | Route::Signed { .. } | Route::Unknown => return None,
    };
    let reads = asked.method == Method::GET || asked.method == Method::HEAD;
    let action = if reads { "pull" } else { "push" };
    let authorization = header(asked, AUTHORIZATION.as_str());
    let access = &state.options.access;
    if access::is_allowed(access, &inner.tokens, authorization, repository, action) {
        let is_visible = access::is_visible(access, authorization, repository);
        return (!is_visible).then(|| plain(404, "no such repository"));
    }
    let mut response = plain(
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"scripted"}]}"#,
    );
    if let Some(challenge) = access::challenge(access, &inner.registry_url, repository, action) {
        set(&mut response, WWW_AUTHENTICATE.as_str(), &challenge);
    }
    Some(response)
}

fn token(state: &State, inner: &mut Inner, asked: &Asked) -> Answer {
    let mut fields = asked.query.clone();
    fields.extend(form(&String::from_utf8_lossy(&asked.body)));
    let authorization = header(asked, AUTHORIZATION.as_str());
    let access = &state.options.access;
    let method = asked.method.as_str();
    match access::token_answer(access, &mut inner.tokens, method, authorization, &fields) {
        Ok(json) => plain(200, &json),
        Err(status) => plain(status, "no token"),
    }
}

fn manifest(
    inner: &Inner,
    asked: &Asked,
    (repository, target): (&str, &str),
    action: Option<&Action>,
) -> Answer {
    let Some(manifest) = inner.store.manifest(repository, target) else {
        return plain(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        );
    };
    let mut response = serve(asked, &manifest.bytes, action);
    set(&mut response, CONTENT_TYPE.as_str(), &manifest.media_type);
    if action != Some(&Action::NoDigestHeader) {
        set(
            &mut response,
            "docker-content-digest",
            &manifest.digest.to_string(),
        );
    }
    response
}

fn blob(
    state: &State,
    inner: &mut Inner,
    asked: &Asked,
    (repository, digest): (&str, &str),
    action: Option<&Action>,
) -> Answer {
    let Ok(digest) = digest.parse::<Digest>() else {
        return plain(400, "bad digest");
    };
    let Some(bytes) = inner.store.blob(repository, &digest) else {
        return plain(
            404,
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#,
        );
    };
    match state.options.redirects {
        Redirects::Presigned { uses } if asked.method == Method::GET => {
            let path = inner.store.sign(repository, digest, uses);
            let mut response = plain(307, "");
            set(
                &mut response,
                LOCATION.as_str(),
                &format!("{}{path}", inner.storage_url),
            );
            response
        }
        Redirects::Presigned { .. } | Redirects::Never => serve(asked, &bytes, action),
    }
}

/// Serves bytes, a range of them if one was asked for, bent by `action`.
fn serve(asked: &Asked, bytes: &Bytes, action: Option<&Action>) -> Answer {
    if let Some(Action::Endless(length)) = action {
        return Response::new(ScriptedBody::zeros(*length));
    }
    let range = header(asked, RANGE.as_str())
        .filter(|_| action != Some(&Action::IgnoreRange))
        .map(|range| parse_range(range, bytes.len()));
    let (mut part, content_range) = match range {
        None => (bytes.clone(), None),
        Some(None) => return plain(416, "no such range"),
        Some(Some((start, end))) => {
            let shift = match action {
                Some(Action::ShiftContentRange(shift)) => usize::try_from(*shift).unwrap_or(0),
                _ => 0,
            };
            let total = bytes.len();
            let text = format!("bytes {}-{}/{total}", start + shift, end - 1 + shift);
            (bytes.slice(start..end), Some(text))
        }
    };
    match action {
        Some(Action::Corrupt(at)) => part = flip(&part, *at),
        Some(Action::ShortRange(less)) if content_range.is_some() => {
            let keep = part
                .len()
                .saturating_sub(usize::try_from(*less).unwrap_or(0));
            part.truncate(keep);
        }
        _ => {}
    }
    let mut response = body_response(asked, part, action);
    set(&mut response, ACCEPT_RANGES.as_str(), "bytes");
    if let Some(text) = content_range {
        *response.status_mut() = http::StatusCode::PARTIAL_CONTENT;
        set(&mut response, CONTENT_RANGE.as_str(), &text);
    }
    response
}

fn body_response(asked: &Asked, part: Bytes, action: Option<&Action>) -> Answer {
    if asked.method == Method::HEAD {
        let mut response = Response::new(ScriptedBody::whole(Bytes::new()).without_length());
        if action != Some(&Action::NoContentLength) {
            set(
                &mut response,
                CONTENT_LENGTH.as_str(),
                &part.len().to_string(),
            );
        }
        return response;
    }
    let body = ScriptedBody::whole(part);
    Response::new(match action {
        Some(Action::Truncate(at)) => body.ending(End::Cut(*at)),
        Some(Action::Stall(at)) => body.ending(End::Stall(*at)),
        Some(Action::NoContentLength) => body.without_length(),
        Some(Action::Rate(rate)) => body.at_rate(*rate),
        _ => body,
    })
}

fn flip(bytes: &Bytes, at: u64) -> Bytes {
    let mut copy = bytes.to_vec();
    if let Some(byte) = usize::try_from(at).ok().and_then(|at| copy.get_mut(at)) {
        *byte ^= 0xff;
    }
    copy.into()
}

/// `bytes=a-b` with both ends, or with an open end; anything else cannot be served.
fn parse_range(text: &str, length: usize) -> Option<(usize, usize)> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start: usize = start.parse().ok()?;
    let end: usize = match end {
        "" => length,
        end => end.parse::<usize>().ok()?.saturating_add(1).min(length),
    };
    (start < end).then_some((start, end))
}

fn begin_upload(inner: &mut Inner, asked: &Asked, repository: &str) -> Answer {
    let mount = field(asked, "mount").and_then(|digest| digest.parse::<Digest>().ok());
    if let (Some(digest), Some(from)) = (mount, field(asked, "from"))
        && let Some(bytes) = inner.store.blob(from, &digest)
    {
        inner.store.put_blob(repository, bytes);
        return located(201, &format!("/v2/{repository}/blobs/{digest}"));
    }
    let id = inner.store.uploads.begin();
    located(202, &format!("/v2/{repository}/blobs/uploads/{id}?state=1"))
}

fn continue_upload(inner: &mut Inner, asked: &Asked, repository: &str, id: &str) -> Answer {
    let Ok(number) = id.parse::<u64>() else {
        return plain(404, "no such upload");
    };
    let start = header(asked, CONTENT_RANGE.as_str())
        .and_then(|range| range.split_once('-'))
        .and_then(|(start, _)| start.parse().ok());
    let Some(length) = inner.store.uploads.append(number, start, &asked.body) else {
        return plain(416, "out of order");
    };
    if asked.method != Method::PUT {
        let mut response = located(
            202,
            &format!("/v2/{repository}/blobs/uploads/{id}?state={length}"),
        );
        set(
            &mut response,
            "range",
            &format!("0-{}", length.saturating_sub(1)),
        );
        return response;
    }
    let held = inner.store.uploads.finish(number).unwrap_or_default();
    let digest = digest_of(&held);
    if field(asked, "digest") != Some(digest.to_string().as_str()) {
        return plain(
            400,
            r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest mismatch"}]}"#,
        );
    }
    inner.store.put_blob(repository, held.into());
    located(201, &format!("/v2/{repository}/blobs/{digest}"))
}

fn put_manifest(inner: &mut Inner, asked: &Asked, repository: &str, target: &str) -> Answer {
    let tag = target.parse::<Digest>().is_err().then_some(target);
    let media_type = header(asked, CONTENT_TYPE.as_str()).unwrap_or_default();
    let digest = inner
        .store
        .put_manifest(repository, tag, media_type, asked.body.clone());
    let mut response = located(201, &format!("/v2/{repository}/manifests/{digest}"));
    set(&mut response, "docker-content-digest", &digest.to_string());
    response
}

fn referrers(inner: &Inner, repository: &str, digest: &str) -> Answer {
    let Ok(digest) = digest.parse() else {
        return plain(400, "bad digest");
    };
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": inner.store.referrers(repository, &digest),
    });
    let mut response = plain(200, &index.to_string());
    set(
        &mut response,
        CONTENT_TYPE.as_str(),
        "application/vnd.oci.image.index.v1+json",
    );
    response
}

/// A page of tags: `n` at most, after `last`; a link where there are more.
fn tags(inner: &Inner, asked: &Asked, repository: &str) -> Answer {
    let last = field(asked, "last").unwrap_or_default();
    let count = field(asked, "n").and_then(|n| n.parse().ok());
    let mut names = inner.store.tags(repository);
    names.retain(|name| name.as_str() > last);
    let count: usize = count.unwrap_or(names.len());
    let more = names.len() > count;
    names.truncate(count);
    let next = names
        .last()
        .filter(|_| more)
        .map(|last| format!("</v2/{repository}/tags/list?last={last}&n={count}>; rel=\"next\""));
    let json = serde_json::json!({"name": repository, "tags": names});
    let mut response = plain(200, &json.to_string());
    set(&mut response, CONTENT_TYPE.as_str(), "application/json");
    if let Some(next) = next {
        set(&mut response, "link", &next);
    }
    response
}

fn located(status: u16, location: &str) -> Answer {
    let mut response = plain(status, "");
    set(&mut response, LOCATION.as_str(), location);
    response
}

fn plain(status: u16, text: &str) -> Answer {
    let mut response = Response::new(ScriptedBody::whole(text.to_owned()));
    *response.status_mut() =
        http::StatusCode::from_u16(status).expect("scripts hold sound statuses");
    response
}

fn set(response: &mut Answer, name: &str, value: &str) {
    let name = http::HeaderName::from_bytes(name.as_bytes()).expect("our header names are sound");
    let value = value.parse().expect("our header values are sound");
    response.headers_mut().insert(name, value);
}

fn header<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    asked.headers.get(name)?.to_str().ok()
}

fn field<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    asked
        .query
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// Decodes `a=b&c=d`.
fn form(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (unescape(key), unescape(value)))
        .collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

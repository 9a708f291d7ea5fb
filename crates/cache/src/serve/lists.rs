//! Tags and referrers: passed through, and what was said last is kept for when the upstream cannot say.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK, WARNING};
use orlop_registry::Document;
use orlop_types::{Digest, Reference};

use super::answer::{Answer, No, Wish, set};
use super::body::AnswerBody;
use super::manifests::STALE;
use super::{Ask, Parts};
use crate::origin::{Recent, Trouble, TroubleKind};
use crate::rights::Fingerprint;
use crate::route::Query;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Pages kept, and the longest that is.
const PAGES_MAX: usize = 256;
const PAGE_BYTES_MAX: usize = 64 << 10;

/// What was said last, by who asked for what.
#[derive(Debug)]
pub(super) struct Pages {
    kept: Mutex<Recent<(Fingerprint, String), Document>>,
    stale_for: Duration,
}

impl Pages {
    pub(super) fn new(stale_for: Duration) -> Self {
        Self {
            kept: Mutex::new(Recent::new(PAGES_MAX)),
            stale_for,
        }
    }

    fn keep(&self, key: (Fingerprint, String), page: &Document, now: Duration) {
        if page.bytes.len() <= PAGE_BYTES_MAX {
            self.lock()
                .keep(key, page.clone(), now, now + self.stale_for);
        }
    }

    fn find(&self, key: &(Fingerprint, String), now: Duration) -> Option<Document> {
        self.lock().find(key, now).map(|(page, _)| page.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Recent<(Fingerprint, String), Document>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers with a page of tags.
pub(super) async fn tags(
    parts: &Parts,
    ask: &Ask,
    (reference, query): (&Reference, &Query),
) -> Result<Answer, No> {
    let tenant = &ask.caller.tenant;
    let key = format!("{} tags {:?}", reference.locator(), query.passed_on());
    let said = parts.origins.tags(tenant, reference, query).await;
    let (page, is_stale) = settled(parts, ask, key, said)?;
    Ok(answer(ask, query, page, "application/json", is_stale))
}

/// Answers with what refers to a manifest. Registries without the API have a tag for it (distribution-spec, "Referrers
/// tag schema"), and where there is none, nothing refers to it.
pub(super) async fn referrers(
    parts: &Parts,
    ask: &Ask,
    reference: &Reference,
    (digest, query): (&Digest, &Query),
) -> Result<Answer, No> {
    let tenant = &ask.caller.tenant;
    let pairs = query.passed_on();
    let key = format!("{} referrers {digest} {pairs:?}", reference.locator());
    let mut said = parts
        .origins
        .referrers(tenant, reference, digest, query)
        .await;
    if matches!(&said, Err(trouble) if trouble.kind == TroubleKind::NotFound) {
        said = by_tag(parts, ask, reference, digest).await;
    }
    let (page, is_stale) = settled(parts, ask, key, said)?;
    Ok(answer(ask, query, page, OCI_INDEX, is_stale))
}

async fn by_tag(
    parts: &Parts,
    ask: &Ask,
    reference: &Reference,
    digest: &Digest,
) -> Result<Document, Trouble> {
    let tenant = &ask.caller.tenant;
    let page = |bytes: Bytes, host: String| Document {
        media_type: OCI_INDEX.to_owned(),
        link: None,
        filters_applied: None,
        bytes,
        host,
    };
    let tag = digest.to_string().replace(':', "-");
    let tagged = reference
        .with_tag(&tag)
        .map_err(|error| Trouble::new(TroubleKind::Unusable, error.to_string()))?;
    match parts.origins.resolve(tenant, &tagged).await {
        Ok(resolved) => {
            let digest = resolved.descriptor.digest;
            let manifest = parts.origins.manifest(tenant, &tagged, &digest).await?;
            Ok(page(manifest.bytes, manifest.host))
        }
        Err(trouble) if trouble.kind == TroubleKind::NotFound => {
            // Whoever may not see the manifest is not told that nothing refers to it.
            let of_digest = reference.with_digest(*digest);
            match parts.origins.resolve(tenant, &of_digest).await {
                Err(trouble) if tenant.needs_grants() || trouble.kind != TroubleKind::NotFound => {
                    return Err(trouble);
                }
                Ok(_) | Err(_) => {}
            }
            Ok(page(
                Bytes::from_static(EMPTY_INDEX.as_bytes()),
                String::new(),
            ))
        }
        Err(trouble) => Err(trouble),
    }
}

/// What was said now, else what was said before if the upstream cannot say.
fn settled(
    parts: &Parts,
    ask: &Ask,
    key: String,
    said: Result<Document, Trouble>,
) -> Result<(Document, bool), No> {
    let key = (ask.caller.tenant.fingerprint(), key);
    let now = parts.clock.boottime();
    match said {
        Ok(page) => {
            parts.pages.keep(key, &page, now);
            Ok((page, false))
        }
        Err(trouble) => {
            let kept = parts.pages.find(&key, now);
            if let Some(page) = kept.filter(|_| trouble.allows_stale()) {
                parts.desk.figures.stale();
                return Ok((page, true));
            }
            let challenge = parts.upstream_challenge();
            Err(No::of_trouble(&trouble, Wish::List, challenge))
        }
    }
}

fn answer(ask: &Ask, query: &Query, page: Document, media_type: &str, is_stale: bool) -> Answer {
    let length = page.bytes.len();
    let body = if ask.is_head() {
        AnswerBody::empty()
    } else {
        AnswerBody::bytes(page.bytes)
    };
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    set(headers, CONTENT_TYPE.as_str(), media_type);
    set(headers, CONTENT_LENGTH.as_str(), &length.to_string());
    if let Some(link) = page.link.as_deref().and_then(|link| next(ask, query, link)) {
        set(headers, LINK.as_str(), &link);
    }
    if let Some(filters) = &page.filters_applied {
        set(headers, "oci-filters-applied", filters);
    }
    if is_stale {
        set(headers, WARNING.as_str(), STALE);
    }
    answer
}

/// The upstream's link leads to the upstream: ours has the path that the client used, and the upstream's query.
fn next(ask: &Ask, query: &Query, link: &str) -> Option<String> {
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    if !parameters.contains("next") {
        return None;
    }
    let theirs = target.split_once('?').map_or("", |(_, query)| query);
    let mut pairs: Vec<String> = theirs
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("ns="))
        .map(str::to_owned)
        .collect();
    pairs.extend(query.namespace().map(|namespace| format!("ns={namespace}")));
    Some(format!("<{}?{}>; rel=\"next\"", ask.path, pairs.join("&")))
}

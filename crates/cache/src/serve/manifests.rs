//! Manifests by tag and by digest.

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, WARNING};
use hyper::{Response, StatusCode};
use orlop_registry::Resolved;
use orlop_types::{Digest, Reference};

use super::answer::{Answer, No, Wish, set};
use super::body::AnswerBody;
use super::document::{children, is_accepted};
use super::freshness::Freshness;
use super::receipt::Receipt;
use super::shelf::NewManifest;
use super::{Ask, Parts};
use crate::ledger::Source;
use crate::origin::{Trouble, TroubleKind};
use crate::range;
use crate::store::Found;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What is served in place of an answer says so (distribution-spec, "Warnings": code 299, agent `-`).
pub(super) const STALE: &str =
    "299 - \"the registry could not be asked; this is what it said before\"";

/// A manifest to answer with; for a HEAD request its bytes need not be here.
struct Manifest {
    digest: Digest,
    media_type: String,
    size: u64,
    bytes: Option<Bytes>,
    source: Source,
    is_stale: bool,
}

/// Why there is none.
enum Fault {
    Trouble(Trouble),
    No(No),
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<No> for Fault {
    fn from(no: No) -> Self {
        Self::No(no)
    }
}

/// Answers with the manifest that a tag stands for.
pub(super) async fn by_tag(
    parts: &Parts,
    ask: &Ask,
    reference: &Reference,
    receipt: &mut Receipt,
) -> Result<Answer, No> {
    let manifest = tagged(parts, ask, reference).await?;
    answer(manifest, ask, receipt)
}

/// Answers with the manifest `digest`.
pub(super) async fn by_digest(
    parts: &Parts,
    ask: &Ask,
    (reference, digest): (&Reference, &Digest),
    receipt: &mut Receipt,
) -> Result<Answer, No> {
    let found = exactly(parts, ask, reference, digest).await;
    let manifest = found.map_err(|fault| refusal(parts, fault))?;
    answer(manifest, ask, receipt)
}

/// What the shelf says of a tag.
enum Look {
    Serve(Manifest),
    /// Ask upstream; this may be served if it cannot say.
    Ask(Option<Manifest>),
}

async fn look(parts: &Parts, ask: &Ask, reference: &Reference) -> Result<Look, No> {
    let known = parts.shelf.tag(&ask.caller.tenant, reference).await?;
    let Some((row, found)) = known.and_then(|known| Some((known.row, known.found?))) else {
        return Ok(Look::Ask(None));
    };
    let now = parts.clock.wall();
    let freshness = parts.options.tags.of(reference, row.checked, now);
    let manifest = on_shelf(parts, row.digest, row.media_type, found).await?;
    Ok(match freshness {
        Freshness::Fresh => Look::Serve(manifest),
        Freshness::Stale => Look::Ask(Some(manifest)),
        Freshness::Gone => Look::Ask(None),
    })
}

async fn tagged(parts: &Parts, ask: &Ask, reference: &Reference) -> Result<Manifest, No> {
    if let Look::Serve(manifest) = look(parts, ask, reference).await? {
        return Ok(manifest);
    }
    // One asks; who waited for it looks again.
    let who = ask.caller.tenant.fingerprint();
    let _turn = parts.turns.take(format!("{who:?} {reference}")).await;
    let kept = match look(parts, ask, reference).await? {
        Look::Serve(manifest) => return Ok(manifest),
        Look::Ask(kept) => kept,
    };
    match (from_upstream(parts, ask, reference).await, kept) {
        (Ok(manifest), _) => Ok(manifest),
        (Err(Fault::Trouble(trouble)), Some(kept)) if trouble.allows_stale() => {
            tracing::info!(%reference, %trouble, "served what the tag stood for before");
            parts.desk.figures.stale();
            Ok(Manifest {
                is_stale: true,
                ..kept
            })
        }
        (Err(fault), _) => {
            if matches!(&fault, Fault::Trouble(trouble) if trouble.kind == TroubleKind::NotFound) {
                parts.shelf.drop_tag(reference).await?;
            }
            Err(refusal(parts, fault))
        }
    }
}

async fn from_upstream(parts: &Parts, ask: &Ask, reference: &Reference) -> Result<Manifest, Fault> {
    let tenant = &ask.caller.tenant;
    let Resolved {
        descriptor,
        manifest,
        ..
    } = parts.origins.resolve(tenant, reference).await?;
    let digest = descriptor.digest;
    let found = parts
        .shelf
        .set_tag(tenant, reference, &digest, &descriptor.media_type)
        .await?;
    if let Some(found) = found {
        let shelved = on_shelf(parts, digest, Some(descriptor.media_type), found).await?;
        give_children(parts, ask, reference, &shelved).await?;
        return Ok(shelved);
    }
    if ask.is_head() {
        return Ok(head_only(digest, descriptor.media_type, descriptor.size));
    }
    match manifest {
        Some(manifest) => keep(parts, ask, reference, manifest).await,
        None => fetched(parts, ask, reference, &digest).await,
    }
}

async fn exactly(
    parts: &Parts,
    ask: &Ask,
    reference: &Reference,
    digest: &Digest,
) -> Result<Manifest, Fault> {
    let tenant = &ask.caller.tenant;
    if let (_, Some(found)) = parts.shelf.permitted(tenant, reference, digest).await? {
        return Ok(on_shelf(parts, *digest, None, found).await?);
    }
    let name = format!(
        "{:?} {}@{digest}",
        tenant.fingerprint(),
        reference.locator()
    );
    let _turn = parts.turns.take(name).await;
    if let (_, Some(found)) = parts.shelf.permitted(tenant, reference, digest).await? {
        return Ok(on_shelf(parts, *digest, None, found).await?);
    }
    let found = parts.shelf.find(digest).await?;
    if found.is_none() && !ask.is_head() {
        return fetched(parts, ask, reference, digest).await;
    }
    // It came through another repository, or for somebody else: the upstream says whether it is in this one.
    let resolved = parts
        .origins
        .resolve(tenant, &reference.with_digest(*digest))
        .await?;
    let Some(found) = found else {
        let media_type = resolved.descriptor.media_type;
        return Ok(head_only(*digest, media_type, resolved.descriptor.size));
    };
    let shelved = on_shelf(parts, *digest, None, found).await?;
    parts.shelf.give(tenant, reference, vec![*digest]).await?;
    give_children(parts, ask, reference, &shelved).await?;
    Ok(shelved)
}

async fn fetched(
    parts: &Parts,
    ask: &Ask,
    reference: &Reference,
    digest: &Digest,
) -> Result<Manifest, Fault> {
    let tenant = &ask.caller.tenant;
    let manifest = parts.origins.manifest(tenant, reference, digest).await?;
    keep(parts, ask, reference, manifest).await
}

async fn keep(
    parts: &Parts,
    ask: &Ask,
    reference: &Reference,
    manifest: orlop_registry::Manifest,
) -> Result<Manifest, Fault> {
    let media_type = typed(Some(manifest.media_type), &manifest.bytes);
    let new = NewManifest {
        digest: manifest.digest,
        media_type: media_type.clone(),
        children: children(&manifest.bytes),
        bytes: manifest.bytes.clone(),
    };
    let tenant = &ask.caller.tenant;
    // A store that fails must not keep a manifest from the client who waits for it.
    if let Err(no) = parts.shelf.keep_manifest(tenant, reference, new).await {
        tracing::warn!(error = no.message, "a manifest was passed on and not kept");
    }
    Ok(Manifest {
        digest: manifest.digest,
        media_type,
        size: manifest.bytes.len() as u64,
        bytes: Some(manifest.bytes),
        source: Source::Upstream,
        is_stale: false,
    })
}

/// Whoever may have a manifest may have what it names.
async fn give_children(
    parts: &Parts,
    ask: &Ask,
    reference: &Reference,
    manifest: &Manifest,
) -> Result<(), No> {
    let tenant = &ask.caller.tenant;
    let bytes = manifest.bytes.as_deref().unwrap_or_default();
    let named = children(bytes);
    if !tenant.needs_grants() || named.is_empty() {
        // In the service's name the children of a linked manifest count as linked.
        return Ok(());
    }
    let digests = named.into_iter().map(|child| child.digest).collect();
    parts.shelf.give(tenant, reference, digests).await
}

async fn on_shelf(
    parts: &Parts,
    digest: Digest,
    media_type: Option<String>,
    found: Found,
) -> Result<Manifest, No> {
    let media_type = media_type.or_else(|| found.media_type.as_deref().map(str::to_owned));
    let bytes = parts.shelf.read(found).await?;
    Ok(Manifest {
        digest,
        media_type: typed(media_type, &bytes),
        size: bytes.len() as u64,
        bytes: Some(bytes),
        source: Source::Disk,
        is_stale: false,
    })
}

const fn head_only(digest: Digest, media_type: String, size: u64) -> Manifest {
    Manifest {
        digest,
        media_type,
        size,
        bytes: None,
        source: Source::Upstream,
        is_stale: false,
    }
}

/// The type as it was told, else as the document says itself.
fn typed(told: Option<String>, bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    let said = || serde_json::from_slice::<Typed>(bytes).map(|typed| typed.media_type);
    told.filter(|told| !told.is_empty() && told != "application/octet-stream")
        .or_else(|| said().ok())
        .unwrap_or_else(|| OCI_MANIFEST.to_owned())
}

fn refusal(parts: &Parts, fault: Fault) -> No {
    match fault {
        Fault::No(no) => no,
        Fault::Trouble(trouble) => {
            No::of_trouble(&trouble, Wish::Manifest, parts.upstream_challenge())
        }
    }
}

fn answer(manifest: Manifest, ask: &Ask, receipt: &mut Receipt) -> Result<Answer, No> {
    receipt.of(manifest.digest, manifest.source);
    let accept = ask.headers.get_all(ACCEPT).iter();
    let accept = accept.filter_map(|line| line.to_str().ok());
    if !is_accepted(accept, &manifest.media_type) {
        let text = format!(
            "it is {}, which the client does not accept",
            manifest.media_type
        );
        return Err(No::new(404, "MANIFEST_UNKNOWN", "ORL-E9204", text));
    }
    let tag = format!("\"{}\"", manifest.digest);
    let is_known = range::is_known(ask.header(IF_NONE_MATCH.as_str()), &tag);
    let sends = !is_known && !ask.is_head();
    let bytes = manifest.bytes.filter(|_| sends).unwrap_or_default();
    receipt.expect(bytes.len() as u64);
    let mut answer = Response::new(AnswerBody::bytes(bytes));
    let headers = answer.headers_mut();
    set(
        headers,
        "docker-content-digest",
        &manifest.digest.to_string(),
    );
    set(headers, ETAG.as_str(), &tag);
    if manifest.is_stale {
        set(headers, WARNING.as_str(), STALE);
    }
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(answer);
    }
    set(headers, CONTENT_TYPE.as_str(), &manifest.media_type);
    set(headers, CONTENT_LENGTH.as_str(), &manifest.size.to_string());
    Ok(answer)
}

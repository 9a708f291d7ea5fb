//! Blobs: from the disk, or following a fill.

use std::time::Duration;

use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use hyper::{Response, StatusCode};
use orlop_types::{Descriptor, Digest, Reference};

use super::answer::{Answer, No, Wish, set};
use super::body::{AnswerBody, Coming};
use super::receipt::Receipt;
use super::{Ask, Parts};
use crate::fill::{Order, Start};
use crate::ledger::Source;
use crate::origin::{Trouble, TroubleKind};
use crate::range::{self, Wanted};
use crate::store::Found;

/// A part that begins so far behind what has come is fetched beside the fill.
const FAR_AHEAD_BYTES: u64 = 8 << 20;
/// Some fill may end without us: another client's credential was refused. Then we fill ourselves, so often.
const FLIGHTS_MAX: u32 = 3;
const BLOB: &str = "application/octet-stream";

/// Where the bytes come from.
enum Bytes {
    Disk(Found),
    Coming(Coming),
    /// A HEAD request needs none.
    None,
}

/// Answers with the blob `digest`.
pub(super) async fn answer(
    parts: &Parts,
    ask: &Ask,
    (reference, digest): (&Reference, &Digest),
    receipt: &mut Receipt,
) -> Result<Answer, No> {
    let tenant = &ask.caller.tenant;
    let tag = format!("\"{digest}\"");
    let (is_permitted, found) = parts.shelf.permitted(tenant, reference, digest).await?;
    if let Some(found) = found {
        receipt.of(*digest, Source::Disk);
        return Ok(from_disk(parts, ask, &tag, found, receipt));
    }
    let size = proven(parts, ask, (reference, digest), is_permitted).await?;
    if let Some(found) = parts.shelf.find(digest).await? {
        receipt.of(*digest, Source::Disk);
        return Ok(from_disk(parts, ask, &tag, found, receipt));
    }
    receipt.of(*digest, Source::Upstream);
    let wanted = ask.wanted(&tag, size);
    let needs_bytes = !ask.is_head() && wanted != Wanted::Nothing && !ask.knows(&tag);
    let bytes = if needs_bytes {
        let order = Order {
            tenant: tenant.clone(),
            reference: reference.clone(),
            descriptor: Descriptor::new(BLOB, *digest, size),
        };
        filling(parts, &order, &wanted, receipt).await?
    } else {
        Bytes::None
    };
    Ok(respond(parts, ask, (&tag, size), bytes, receipt))
}

/// The size of a blob that is not here, from somebody who may tell. Unless it is known that who asks may have it, the
/// upstream has to say so.
async fn proven(
    parts: &Parts,
    ask: &Ask,
    (reference, digest): (&Reference, &Digest),
    is_permitted: bool,
) -> Result<u64, No> {
    let tenant = &ask.caller.tenant;
    if is_permitted && let Some(size) = parts.shelf.size_of(digest).await? {
        return Ok(size);
    }
    let who = tenant.fingerprint();
    let name = format!("{who:?} {} blob {digest}", reference.locator());
    let _turn = parts.turns.take(name).await;
    // Who waited finds what the first was told.
    let (is_permitted, _) = parts.shelf.permitted(tenant, reference, digest).await?;
    if is_permitted && let Some(size) = parts.shelf.size_of(digest).await? {
        return Ok(size);
    }
    let size = parts
        .origins
        .blob_size(tenant, reference, digest)
        .await
        .map_err(|trouble| refusal(parts, &trouble))?;
    parts.shelf.give(tenant, reference, vec![*digest]).await?;
    Ok(size)
}

/// Joins the fill and waits until its answer can begin.
async fn filling(
    parts: &Parts,
    order: &Order,
    wanted: &Wanted,
    receipt: &mut Receipt,
) -> Result<Bytes, No> {
    let range = wanted.range(order.descriptor.size);
    let refused = |trouble: Trouble| refusal(parts, &trouble);
    for _ in 0..FLIGHTS_MAX {
        let (flight, is_first) = parts.fills.join(order).map_err(refused)?;
        // Upstream gives the bytes once, whoever else gets them.
        let source = if is_first {
            Source::Upstream
        } else {
            Source::Disk
        };
        receipt.of(order.descriptor.digest, source);
        let started = flight.started(range.clone());
        let start = match tokio::time::timeout(parts.options.headers_within, started).await {
            Ok(Ok(start)) => start,
            Ok(Err(trouble)) => {
                let is_ours = flight.owner() == order.tenant.fingerprint();
                if !is_ours && trouble.is_of_the_credential() {
                    continue;
                }
                return Err(refused(trouble));
            }
            Err(_elapsed) => {
                let text = "the registry has not begun to answer; the fill goes on";
                let trouble = Trouble::new(TroubleKind::TimedOut, text);
                return Err(refused(trouble.after(Duration::from_secs(5))));
            }
        };
        match start {
            Start::Follow(follower) => {
                if range.start > flight.prefix_bytes() + FAR_AHEAD_BYTES {
                    parts.fills.fetch_ahead(&flight, order, range);
                }
                return Ok(Bytes::Coming(Coming::Fill(follower)));
            }
            Start::Stored => {
                let found = parts.shelf.find(&order.descriptor.digest).await?;
                if let Some(found) = found {
                    return Ok(Bytes::Disk(found));
                }
            }
            Start::NoRoom if *wanted == Wanted::Whole => {
                let passing = parts.fills.pass(order).await.map_err(refused)?;
                return Ok(Bytes::Coming(Coming::Pass(Box::new(passing))));
            }
            Start::NoRoom => {
                let text = "there is no room for the blob, and a part of it is not passed through";
                return Err(refused(Trouble::new(TroubleKind::Room, text)));
            }
        }
    }
    let text =
        "the blob went as soon as it had come: the store is too small for what is asked of it";
    Err(refused(Trouble::new(TroubleKind::Room, text)))
}

fn from_disk(parts: &Parts, ask: &Ask, tag: &str, found: Found, receipt: &mut Receipt) -> Answer {
    let size = found.blob.size_bytes();
    respond(parts, ask, (tag, size), Bytes::Disk(found), receipt)
}

fn respond(
    parts: &Parts,
    ask: &Ask,
    (tag, size): (&str, u64),
    bytes: Bytes,
    receipt: &mut Receipt,
) -> Answer {
    let wanted = ask.wanted(tag, size);
    let range = wanted.range(size);
    let (status, length) = match &wanted {
        _ if ask.knows(tag) => (StatusCode::NOT_MODIFIED, None),
        Wanted::Whole => (StatusCode::OK, Some(size)),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range.end - range.start)),
        Wanted::Nothing => (StatusCode::RANGE_NOT_SATISFIABLE, Some(0)),
    };
    let sends = !ask.is_head() && status.is_success() && !range.is_empty();
    let body = match bytes {
        Bytes::Disk(found) if sends => {
            AnswerBody::disk(found, range.clone(), parts.buffers.clone())
        }
        Bytes::Coming(coming) if sends => AnswerBody::coming(coming, parts.buffers.clone()),
        Bytes::Disk(_) | Bytes::Coming(_) | Bytes::None => AnswerBody::empty(),
    };
    receipt.expect(if sends { range.end - range.start } else { 0 });
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    set(headers, "docker-content-digest", tag.trim_matches('"'));
    set(headers, ETAG.as_str(), tag);
    set(headers, ACCEPT_RANGES.as_str(), "bytes");
    if let Some(length) = length {
        set(headers, CONTENT_TYPE.as_str(), BLOB);
        set(headers, CONTENT_LENGTH.as_str(), &length.to_string());
    }
    match wanted {
        Wanted::Part(range) if status == StatusCode::PARTIAL_CONTENT => {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            set(headers, CONTENT_RANGE.as_str(), &text);
        }
        Wanted::Nothing if status == StatusCode::RANGE_NOT_SATISFIABLE => {
            set(headers, CONTENT_RANGE.as_str(), &format!("bytes */{size}"));
        }
        Wanted::Whole | Wanted::Part(_) | Wanted::Nothing => {}
    }
    answer
}

impl Ask {
    fn knows(&self, tag: &str) -> bool {
        range::is_known(self.header(IF_NONE_MATCH.as_str()), tag)
    }

    /// Ranges are for GET only (RFC 9110, section 14.2).
    fn wanted(&self, tag: &str, size: u64) -> Wanted {
        let counts = !self.is_head() && range::holds(self.header(IF_RANGE.as_str()), tag);
        Wanted::parse(self.header(RANGE.as_str()).filter(|_| counts), size)
    }
}

fn refusal(parts: &Parts, trouble: &Trouble) -> No {
    No::of_trouble(trouble, Wish::Blob, parts.upstream_challenge())
}

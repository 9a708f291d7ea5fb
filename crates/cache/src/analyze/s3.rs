//! A bucket's server access log (Amazon S3, *Server access log format*), where a registry keeps its blobs in the layout of
//! distribution's storage drivers.

use super::line::{Words, common_log_time};
use super::{Line, Request, Subject, digest_of, is_pull};

/// The operation of a plain GET.
const GET_OBJECT: &str = "REST.GET.OBJECT";

/// `OWNER BUCKET [TIME] CLIENT REQUESTER ID OPERATION KEY "REQUEST" STATUS ERROR SENT SIZE …`
pub(super) fn server_access(text: &str, _year: i32) -> Option<Line> {
    let mut words = Words::new(text);
    let (_owner, _bucket) = (words.next()?, words.next()?);
    if !words.rest().starts_with(" [") {
        return None;
    }
    let at = common_log_time(words.next()?)?;
    let client = words.next()?;
    let (_requester, _id, operation) = (words.next()?, words.next()?, words.next()?);
    let known = ["REST.", "SOAP.", "WEBSITE.", "BATCH.", "S3."];
    if !known.iter().any(|kind| operation.starts_with(kind)) {
        return None;
    }
    let key = words.next()?;
    let (_request, status, _error) = (words.next()?, words.next()?, words.next()?);
    let (sent, size) = (words.next()?, words.next()?);
    let digest = digest_in_key(key).filter(|_| operation == GET_OBJECT);
    let status = status.parse().unwrap_or(0);
    Some(match digest {
        Some(digest) if is_pull("GET", status) => Line::Request(Request {
            at,
            client: client.to_owned(),
            repository: String::new(),
            subject: Subject::Blob(digest),
            bytes: sent.parse().unwrap_or(0),
            size: size.parse().ok(),
        }),
        Some(_) | None => Line::Other,
    })
}

/// `…/blobs/sha256/ab/abcdef…/data`
fn digest_in_key(key: &str) -> Option<String> {
    let (_, path) = key.rsplit_once("/blobs/")?;
    let mut parts = path.split('/');
    let (algorithm, _first_two, hex) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().filter(|name| *name == "data")?;
    digest_of(&format!("{algorithm}:{hex}"))
}

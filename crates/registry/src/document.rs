//! Small documents of a repository that are passed on as they are, and what a blob weighs: for whoever stands between
//! a client and a registry.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, LINK};
use http::{HeaderMap, Method};
use orlop_types::{Digest, Reference};

use crate::auth::Scope;
use crate::client::{Client, Door};
use crate::error::{Error, Failure, FailureKind, Operation};
use crate::hosts::Capabilities;
use crate::manifest::{MANIFEST_BYTES_MAX, media_type_of, read_bounded};
use crate::transport::Ask;

/// A page of a list, as the host gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type, without parameters.
    pub media_type: String,
    /// Where the next page is (`Link`, RFC 8288), as the host wrote it.
    pub link: Option<String>,
    /// Which filters the host applied (`OCI-Filters-Applied`).
    pub filters_applied: Option<String>,
    /// The document.
    pub bytes: Bytes,
    /// Which host it came from.
    pub host: String,
}

/// What to read, and of which hosts.
struct Page<'a> {
    operation: Operation,
    wanted: fn(Capabilities) -> bool,
    rest: String,
    query: &'a [(String, String)],
}

impl Client {
    /// Reads a page of the repository's tags. `query` is sent as it is: `n` and `last`.
    ///
    /// # Errors
    /// No host could say.
    pub async fn tags(
        &self,
        reference: &Reference,
        query: &[(String, String)],
    ) -> Result<Document, Error> {
        let page = Page {
            operation: Operation::ListTags,
            wanted: |can| can.resolve,
            rest: "tags/list".to_owned(),
            query,
        };
        self.document(reference, &page).await
    }

    /// Reads the index of what refers to `digest`, without a look at what is in it. `query` is sent as it is.
    ///
    /// # Errors
    /// No host could say.
    pub async fn referrers_page(
        &self,
        reference: &Reference,
        digest: &Digest,
        query: &[(String, String)],
    ) -> Result<Document, Error> {
        let page = Page {
            operation: Operation::ListReferrers,
            wanted: |can| can.referrers,
            rest: format!("referrers/{digest}"),
            query,
        };
        self.document(reference, &page).await
    }

    /// The length of a blob in bytes, by a HEAD request; the first host that knows decides.
    ///
    /// # Errors
    /// No host could say, or none says a length.
    pub async fn blob_size(&self, reference: &Reference, digest: &Digest) -> Result<u64, Error> {
        let operation = Operation::FetchBlob;
        let endpoints = self.endpoints(operation, reference, |can| can.pull).await?;
        let mut failures = Vec::new();
        for endpoint in &endpoints {
            let door = self.door(endpoint, reference);
            match door.with_retry(|| size_at(&door, digest)).await {
                Ok(size) => return Ok(size),
                Err(failure) => failures.push(failure),
            }
        }
        let subject = format!("{}@{digest}", reference.locator());
        Err(Error::new(operation, subject, failures))
    }

    async fn document(&self, reference: &Reference, page: &Page<'_>) -> Result<Document, Error> {
        let endpoints = self
            .endpoints(page.operation, reference, page.wanted)
            .await?;
        let mut failures = Vec::new();
        for endpoint in &endpoints {
            let door = self.door(endpoint, reference);
            match door.with_retry(|| read(&door, page)).await {
                Ok(document) => return Ok(document),
                Err(failure) => failures.push(failure),
            }
        }
        Err(Error::new(page.operation, reference.locator(), failures))
    }
}

async fn read(door: &Door, page: &Page<'_>) -> Result<Document, Failure> {
    let mut url = door.url(&page.rest)?;
    if !page.query.is_empty() {
        url.query_pairs_mut().extend_pairs(page.query);
    }
    let ask = Ask::new(Method::GET, url).header(ACCEPT, "*/*");
    let response = door.send_ok(ask, &Scope::pull(door.repository())).await?;
    let media_type = media_type_of(&response);
    let link = text(response.headers(), LINK.as_str());
    let filters_applied = text(response.headers(), "oci-filters-applied");
    let patience = door.client.shared.transport.no_progress();
    let bytes = read_bounded(door.host(), response, MANIFEST_BYTES_MAX, patience).await?;
    Ok(Document {
        media_type,
        link,
        filters_applied,
        bytes,
        host: door.host().to_owned(),
    })
}

async fn size_at(door: &Door, digest: &Digest) -> Result<u64, Failure> {
    let url = door.url(&format!("blobs/{digest}"))?;
    let ask = Ask::new(Method::HEAD, url);
    let response = door.send_ok(ask, &Scope::pull(door.repository())).await?;
    // A HEAD response's body has no length; the header says what GET would send.
    text(response.headers(), CONTENT_LENGTH.as_str())
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| {
            let detail = format!("it does not say how long {digest} is");
            door.failure(FailureKind::BadResponse, detail)
        })
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

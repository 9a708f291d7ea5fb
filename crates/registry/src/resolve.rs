//! Resolving: from a tag to a descriptor.

use http::{Method, StatusCode};
use orlop_types::{Descriptor, Digest, Reference, Target};

use crate::auth::Scope;
use crate::client::{Client, Door};
use crate::error::{Error, Failure, FailureKind, Operation};
use crate::manifest::{self, MANIFEST_BYTES_MAX, Manifest};

const DIGEST_HEADER: &str = "docker-content-digest";

/// What a reference stands for now.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// Media type, digest and size of the manifest or index.
    pub descriptor: Descriptor,
    /// Which host said so.
    pub host: String,
    /// The document itself, where resolving had to read it anyway.
    pub manifest: Option<Manifest>,
}

impl Client {
    /// Asks the reference's hosts in order what it stands for; the first that knows decides.
    ///
    /// A HEAD request suffices where the host tells digest, length and type; otherwise the manifest is read and its
    /// digest computed. A host that says 404 is passed over, as is one that fails.
    ///
    /// # Errors
    /// No host could say. The error lists what each said.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        let operation = Operation::Resolve;
        // A digest needs no trust in the host's view of tags: whoever may give content may answer.
        let endpoints = match reference.target() {
            Target::Tag(_) => {
                self.endpoints(operation, reference, |can| can.resolve)
                    .await?
            }
            Target::Digest(_) => self.endpoints(operation, reference, |can| can.pull).await?,
        };
        let mut failures = Vec::new();
        for endpoint in &endpoints {
            let door = self.door(endpoint, reference);
            match door
                .with_retry(|| resolve_at(&door, reference.target()))
                .await
            {
                Ok(resolved) => return Ok(resolved),
                Err(failure) => {
                    tracing::debug!(host = door.host(), error = %failure, "trying the next host");
                    failures.push(failure);
                }
            }
        }
        Err(Error::new(operation, reference, failures))
    }
}

async fn resolve_at(door: &Door, target: Target<'_>) -> Result<Resolved, Failure> {
    if let Some(resolved) = head(door, target).await? {
        return Ok(resolved);
    }
    let expected = match target {
        Target::Tag(_) => None,
        Target::Digest(digest) => Some(digest),
    };
    let manifest = manifest::read(door, &target.to_string(), expected).await?;
    let size = manifest.bytes.len() as u64;
    Ok(Resolved {
        descriptor: Descriptor::new(manifest.media_type.clone(), manifest.digest, size),
        host: door.host().to_owned(),
        manifest: Some(manifest),
    })
}

/// What a HEAD request tells, if it tells enough. Hosts that do not serve HEAD are asked with GET by the caller.
async fn head(door: &Door, target: Target<'_>) -> Result<Option<Resolved>, Failure> {
    let ask = manifest::ask(door, Method::HEAD, &target.to_string())?;
    let response = door.send(ask, &Scope::pull(door.repository())).await?;
    match response.status() {
        status if status.is_success() => {}
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED => {
            return Ok(None);
        }
        _ => return Err(door.failed(response).await),
    }
    let header = |name: &str| response.headers().get(name)?.to_str().ok();
    let told = header(DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok());
    // A HEAD response's body has no length; the header says what GET would send.
    let size = header("content-length").and_then(|text| text.parse::<u64>().ok());
    let media_type = manifest::media_type_of(&response);
    let digest = match (target, told) {
        (Target::Tag(_), told) => told,
        (Target::Digest(asked), Some(told))
            if told.algorithm() == asked.algorithm() && told != *asked =>
        {
            let detail = format!("asked for {asked}, was told {told}");
            return Err(door.failure(FailureKind::BadResponse, detail));
        }
        (Target::Digest(asked), _) => Some(*asked),
    };
    let (Some(digest), Some(size)) = (digest, size.filter(|size| *size > 0)) else {
        return Ok(None);
    };
    if size > MANIFEST_BYTES_MAX {
        let detail = format!(
            "a manifest of {size} bytes, where {MANIFEST_BYTES_MAX} are the most that is read"
        );
        return Err(door.failure(FailureKind::TooLarge, detail));
    }
    if media_type.is_empty() {
        return Ok(None);
    }
    Ok(Some(Resolved {
        descriptor: Descriptor::new(media_type, digest, size),
        host: door.host().to_owned(),
        manifest: None,
    }))
}

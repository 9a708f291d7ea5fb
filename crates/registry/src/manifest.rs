//! Manifests: small documents, held in memory and verified before anybody sees them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE};
use orlop_types::{Algorithm, Digest, Reference};
use reqwest::Response;
use sha2::Digest as _;

use crate::auth::Scope;
use crate::client::{Client, Door};
use crate::error::{Error, Failure, FailureKind, Operation, Reach};
use crate::observe::{LedgerLine, Outcome};
use crate::transport::{Ask, failure_of_error};

/// containerd's bound on a manifest (`MaxManifestSize`), in bytes.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 8 << 20;

/// Every kind of manifest Orlop understands, best first.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A verified manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type, as the host said, without parameters.
    pub media_type: String,
    /// Its digest, computed from the bytes.
    pub digest: Digest,
    /// The document.
    pub bytes: Bytes,
    /// Which host it came from.
    pub host: String,
}

impl Client {
    /// Reads the manifest `digest` of the reference's repository, from the first host that has it.
    ///
    /// # Errors
    /// No host gave it; an answer longer than 8 MiB or with another digest counts as a host's failure.
    pub async fn fetch_manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Manifest, Error> {
        let operation = Operation::FetchManifest;
        let endpoints = self.endpoints(operation, reference, |can| can.pull).await?;
        let mut failures = Vec::new();
        for endpoint in &endpoints {
            let door = self.door(endpoint, reference);
            let target = digest.to_string();
            match door.with_retry(|| read(&door, &target, Some(digest))).await {
                Ok(manifest) => return Ok(manifest),
                Err(failure) => failures.push(failure),
            }
        }
        Err(Error::new(
            operation,
            reference.with_digest(*digest),
            failures,
        ))
    }
}

pub(crate) fn ask(door: &Door, method: Method, target: &str) -> Result<Ask, Failure> {
    let url = door.url(&format!("manifests/{target}"))?;
    Ok(Ask::new(method, url)
        .header(ACCEPT, &ACCEPTED.join(", "))
        .header(ACCEPT, "*/*"))
}

/// Reads one manifest from one host. Without `expected` the digest is whatever the bytes have.
pub(crate) async fn read(
    door: &Door,
    target: &str,
    expected: Option<&Digest>,
) -> Result<Manifest, Failure> {
    let ask = ask(door, Method::GET, target)?;
    let response = door.send_ok(ask, &Scope::pull(door.repository())).await?;
    let media_type = media_type_of(&response);
    let patience = door.client.shared.transport.no_progress();
    let bytes = read_bounded(door.host(), response, MANIFEST_BYTES_MAX, patience).await?;
    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    let digest = digest_of(algorithm, &bytes);
    if expected.is_some_and(|expected| *expected != digest) {
        let detail = format!("the manifest's bytes have digest {digest}");
        return Err(door.failure(FailureKind::BadResponse, detail));
    }
    let repository = format!("{}/{}", door.host(), door.repository());
    let observer = std::sync::Arc::clone(&door.client.options.observer);
    let mut line = LedgerLine::begin(observer, door.host(), repository, digest);
    line.received(bytes.len() as u64);
    line.end(Outcome::Done);
    Ok(Manifest {
        media_type,
        digest,
        bytes,
        host: door.host().to_owned(),
    })
}

pub(crate) fn media_type_of(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE);
    let text = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

pub(crate) fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Sha256 => Digest::sha256(sha2::Sha256::digest(bytes).into()),
        Algorithm::Sha512 => Digest::sha512(sha2::Sha512::digest(bytes).into()),
    }
}

/// Reads a body of at most `limit` bytes. One that is announced longer is refused without reading any of it.
pub(crate) async fn read_bounded(
    host: &str,
    mut response: Response,
    limit: u64,
    patience: Duration,
) -> Result<Bytes, Failure> {
    let announced = response.content_length();
    let too_large = || {
        let size = announced.map_or("more".to_owned(), |length| format!("{length} bytes"));
        let detail = format!("{size}, where {limit} bytes are the most that is read");
        Failure::new(host, FailureKind::TooLarge, detail)
    };
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    loop {
        let chunk = tokio::time::timeout(patience, response.chunk())
            .await
            .map_err(|_elapsed| {
                let detail = format!("no byte within {patience:?}");
                Failure::new(host, FailureKind::Unreachable(Reach::TimedOut), detail)
            })?
            .map_err(|error| failure_of_error(host, error))?;
        let Some(chunk) = chunk else {
            return Ok(body.freeze());
        };
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
}

//! Pushing: a blob that is there is left, one that is next door is mounted, any other is uploaded.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION};
use http::{Method, StatusCode};
use orlop_types::{Descriptor, Digest, Reference, Target};
use reqwest::{Response, Url};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::Scope;
use crate::client::{Client, Door};
use crate::error::{Error, Failure, FailureKind, Operation};
use crate::fetch::MemoryBudget;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, read_bounded};
use crate::transport::{Ask, same_origin};

/// Blobs up to this many bytes go in one request; longer ones in pieces of this length. A small budget makes them
/// shorter.
const PIECE_BYTES_MAX: u64 = 8 << 20;
const UPLOAD_TYPE: &str = "application/octet-stream";

/// Where a blob's bytes come from.
pub trait BlobSource: Send + Sync {
    /// Fills `buffer` with the bytes at `offset`. Called on a blocking thread.
    ///
    /// # Errors
    /// The bytes cannot be read.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The registry had it.
    AlreadyThere,
    /// It was mounted from another repository of the registry.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

impl Client {
    /// Brings a blob into the reference's repository; `mount_from` names a repository of the same registry that has
    /// it, perhaps.
    ///
    /// # Errors
    /// The registry refused it, or `source` failed.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: Arc<dyn BlobSource>,
        mount_from: Option<&str>,
    ) -> Result<Pushed, Error> {
        let operation = Operation::PushBlob;
        let fail = |failures| {
            Error::new(
                operation,
                reference.with_digest(descriptor.digest),
                failures,
            )
        };
        let door = self.push_door(operation, reference).await?;
        let upload = Upload {
            door: &door,
            descriptor,
            source: &source,
            mount_from,
        };
        // An upload that broke is begun again from its start: registries differ in what they keep of it.
        let pushed = door.with_retry(|| upload.run()).await;
        pushed.map_err(|failure| fail(vec![failure]))
    }

    /// Writes a manifest under the reference's tag or digest. Its blobs must be there.
    ///
    /// # Errors
    /// The registry refused it, or reported another digest.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let operation = Operation::PushManifest;
        let door = self.push_door(operation, reference).await?;
        let target = reference.target().to_string();
        let expected = match reference.target() {
            Target::Digest(digest) => *digest,
            Target::Tag(_) => crate::manifest::digest_of(orlop_types::Algorithm::Sha256, &bytes),
        };
        let put = || put_manifest(&door, &target, media_type, bytes.clone(), expected);
        door.with_retry(put)
            .await
            .map_err(|failure| Error::new(operation, reference, vec![failure]))
    }

    /// The index of what refers to `digest`: signatures, attestations. Not every registry has the API.
    ///
    /// # Errors
    /// No host could say.
    pub async fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Manifest, Error> {
        let operation = Operation::ListReferrers;
        let endpoints = self
            .endpoints(operation, reference, |can| can.referrers)
            .await?;
        let mut failures = Vec::new();
        for endpoint in &endpoints {
            let door = self.door(endpoint, reference);
            match door.with_retry(|| read_referrers(&door, digest)).await {
                Ok(index) => return Ok(index),
                Err(failure) => failures.push(failure),
            }
        }
        Err(Error::new(
            operation,
            reference.with_digest(*digest),
            failures,
        ))
    }

    /// Pushing goes to one place: the first host that takes it.
    async fn push_door(&self, operation: Operation, reference: &Reference) -> Result<Door, Error> {
        let endpoints = self.endpoints(operation, reference, |can| can.push).await?;
        match endpoints
            .iter()
            .find(|endpoint| endpoint.is_upstream)
            .or(endpoints.first())
        {
            Some(endpoint) => Ok(self.door(endpoint, reference)),
            None => Err(Error::new(operation, reference, Vec::new())),
        }
    }
}

async fn read_referrers(door: &Door, digest: &Digest) -> Result<Manifest, Failure> {
    let url = door.url(&format!("referrers/{digest}"))?;
    let response = door
        .send_ok(Ask::new(Method::GET, url), &Scope::pull(door.repository()))
        .await?;
    let media_type = crate::manifest::media_type_of(&response);
    let patience = door.client.shared.transport.no_progress();
    let bytes = read_bounded(door.host(), response, MANIFEST_BYTES_MAX, patience).await?;
    Ok(Manifest {
        media_type,
        digest: crate::manifest::digest_of(orlop_types::Algorithm::Sha256, &bytes),
        bytes,
        host: door.host().to_owned(),
    })
}

async fn put_manifest(
    door: &Door,
    target: &str,
    media_type: &str,
    bytes: Bytes,
    expected: Digest,
) -> Result<(), Failure> {
    let mut ask = Ask::new(Method::PUT, door.url(&format!("manifests/{target}"))?)
        .header(CONTENT_TYPE, media_type);
    ask.body = bytes;
    let response = door.send_ok(ask, &Scope::push(door.repository())).await?;
    let header = response.headers().get("docker-content-digest");
    let told = header
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<Digest>().ok());
    match told {
        Some(told) if told.algorithm() == expected.algorithm() && told != expected => {
            let detail = format!("the registry stored {told} where {expected} was sent");
            Err(door.failure(FailureKind::BadResponse, detail))
        }
        Some(_) | None => Ok(()),
    }
}

/// One blob on its way up.
struct Upload<'a> {
    door: &'a Door,
    descriptor: &'a Descriptor,
    source: &'a Arc<dyn BlobSource>,
    mount_from: Option<&'a str>,
}

impl Upload<'_> {
    async fn run(&self) -> Result<Pushed, Failure> {
        if self.is_there().await? {
            return Ok(Pushed::AlreadyThere);
        }
        let response = self.begin().await?;
        if response.status() == StatusCode::CREATED {
            return Ok(Pushed::Mounted);
        }
        let location = self.location(&response)?;
        if self.descriptor.size <= self.piece_bytes() {
            let _charge = self.charge(self.descriptor.size).await;
            let bytes = self.read(0, self.descriptor.size).await?;
            self.finish(location, bytes).await?;
        } else {
            let location = self.send_pieces(location).await?;
            self.finish(location, Bytes::new()).await?;
        }
        Ok(Pushed::Uploaded)
    }

    fn piece_bytes(&self) -> u64 {
        PIECE_BYTES_MAX.min(self.budget().total_bytes() as u64)
    }

    /// Room for a piece, before it is read and until it is sent.
    async fn charge(&self, bytes: u64) -> OwnedSemaphorePermit {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.budget().reserve(bytes).await
    }

    fn budget(&self) -> &MemoryBudget {
        &self.door.client.options.budget
    }

    fn scope(&self) -> Scope {
        let repository = self.door.repository();
        match self.mount_from {
            Some(from) => Scope::mount(repository, from),
            None => Scope::push(repository),
        }
    }

    async fn is_there(&self) -> Result<bool, Failure> {
        let url = self
            .door
            .url(&format!("blobs/{}", self.descriptor.digest))?;
        let response = self
            .door
            .send(Ask::new(Method::HEAD, url), &self.scope())
            .await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(self.door.failed(response).await),
        }
    }

    async fn begin(&self) -> Result<Response, Failure> {
        let mut url = self.door.url("blobs/uploads/")?;
        if let Some(from) = self.mount_from {
            url.query_pairs_mut()
                .append_pair("mount", &self.descriptor.digest.to_string())
                .append_pair("from", from);
        }
        let ask = Ask::new(Method::POST, url).header(CONTENT_LENGTH, "0");
        self.door.send_ok(ask, &self.scope()).await
    }

    async fn send_pieces(&self, mut location: Url) -> Result<Url, Failure> {
        let mut start = 0;
        while start < self.descriptor.size {
            let end = (start + self.piece_bytes()).min(self.descriptor.size);
            let _charge = self.charge(end - start).await;
            let mut ask = Ask::new(Method::PATCH, location)
                .header(CONTENT_TYPE, UPLOAD_TYPE)
                .header(CONTENT_RANGE, &format!("{start}-{}", end - 1));
            ask.body = self.read(start, end).await?;
            let response = self.door.send_ok(ask, &self.scope()).await?;
            location = self.location(&response)?;
            start = end;
        }
        Ok(location)
    }

    async fn finish(&self, mut location: Url, bytes: Bytes) -> Result<(), Failure> {
        location
            .query_pairs_mut()
            .append_pair("digest", &self.descriptor.digest.to_string());
        let mut ask = Ask::new(Method::PUT, location).header(CONTENT_TYPE, UPLOAD_TYPE);
        ask.body = bytes;
        self.door.send_ok(ask, &self.scope()).await?;
        Ok(())
    }

    /// Where to go on. Another host would get our credentials, so it must be the same.
    fn location(&self, response: &Response) -> Result<Url, Failure> {
        let bad = |detail: String| self.door.failure(FailureKind::BadResponse, detail);
        let text = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| bad("an upload without a Location".to_owned()))?;
        let url = response
            .url()
            .join(text)
            .map_err(|error| bad(format!("upload location: {error}")))?;
        if !same_origin(&url, response.url()) {
            return Err(bad(format!(
                "the upload is to go to {}",
                crate::transport::host_of(&url)
            )));
        }
        Ok(url)
    }

    async fn read(&self, start: u64, end: u64) -> Result<Bytes, Failure> {
        let source = Arc::clone(self.source);
        // At most one piece, so it fits any usize.
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let read = move || {
            let mut buffer = vec![0; length];
            source
                .read_exact_at(start, &mut buffer)
                .map(|()| Bytes::from(buffer))
        };
        orlop_base::blocking::run("blob-read", read)
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| {
                Failure::because(
                    self.door.host(),
                    FailureKind::Sink,
                    error.to_string(),
                    error,
                )
            })
    }
}

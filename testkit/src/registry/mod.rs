//! A registry on loopback that misbehaves on demand.
//!
//! It serves the OCI distribution API from memory, on a thread of its own, so synchronous tests can use it too. A
//! second listener plays the object store that presigned URLs point to. Every request is written down.
//!
//! Dropping the registry closes its ports and ends its thread.

mod access;
mod body;
mod fault;
mod image;
mod routes;
mod server;
mod store;
#[cfg(feature = "tls")]
mod tls;
mod uploads;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use orlop_types::Digest;

pub use access::{Access, Tenant};
pub use fault::{Action, Fault};
pub use image::{ImageParts, Layer, digest_of};
pub use server::Seen;
#[cfg(feature = "tls")]
pub use tls::{Authority, ServerName};

use server::Server;
use store::Store;

/// How blobs are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirects {
    /// From the registry itself.
    Never,
    /// By a redirect to the object store, whose URL answers this many requests and then 403.
    Presigned {
        /// Requests one URL answers.
        uses: u32,
    },
}

/// What a registry is started with.
#[derive(Debug)]
pub struct Options {
    /// Who may do what.
    pub access: Access,
    /// Whether blobs come from the object store.
    pub redirects: Redirects,
    /// The certificate to speak TLS with; the object store speaks it too.
    #[cfg(feature = "tls")]
    pub tls: Option<tls::ServerIdentity>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            access: Access::Open,
            redirects: Redirects::Never,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// The running registry.
#[derive(Debug)]
pub struct FakeRegistry {
    state: Arc<State>,
    server: Server,
}

/// What both listeners share.
#[derive(Debug)]
pub(crate) struct State {
    inner: Mutex<Inner>,
    pub(crate) options: Options,
}

/// Everything that changes while the registry runs.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) faults: Vec<Fault>,
    pub(crate) log: Vec<Seen>,
    pub(crate) tokens: access::Tokens,
    pub(crate) storage_url: String,
    pub(crate) registry_url: String,
}

impl State {
    /// A test that panicked while holding the lock has failed already; the others may go on.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl FakeRegistry {
    /// An open registry without faults, over plain HTTP.
    ///
    /// # Panics
    /// Loopback has no free port.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// A registry with `options`.
    ///
    /// # Panics
    /// Loopback has no free port.
    #[must_use]
    pub fn start_with(options: Options) -> Self {
        let state = Arc::new(State {
            inner: Mutex::default(),
            options,
        });
        let server = Server::start(&state).expect("loopback has free ports");
        {
            let mut inner = state.lock();
            inner.registry_url = server.registry_url();
            inner.storage_url = server.storage_url();
        }
        Self { state, server }
    }

    /// Host and port, as they stand in a reference: `127.0.0.1:4711`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address().to_string()
    }

    /// Where the registry listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.registry
    }

    /// Host and port of the object store.
    #[must_use]
    pub fn storage_host(&self) -> String {
        self.server.storage.to_string()
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.registry_url()
    }

    /// A reference to `repository` with `tag` on this registry.
    #[must_use]
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Adds a blob and returns its digest.
    pub fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        self.state.lock().store.put_blob(repository, bytes.into())
    }

    /// Adds bytes under a digest that is not theirs.
    pub fn put_wrong_blob(&self, repository: &str, digest: Digest, bytes: impl Into<Bytes>) {
        self.state
            .lock()
            .store
            .put_blob_as(repository, digest, bytes.into());
    }

    /// Adds a manifest, reachable by digest and by `tag`.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        self.state
            .lock()
            .store
            .put_manifest(repository, tag, media_type, bytes.into())
    }

    /// Builds an image of `layers` for `linux` on this machine's architecture and tags it.
    pub fn put_image(&self, repository: &str, tag: &str, layers: &[Layer]) -> ImageParts {
        image::put_image(self, repository, Some(tag), layers)
    }

    /// Builds an image without a tag, to be listed in an index.
    pub fn put_untagged_image(&self, repository: &str, layers: &[Layer]) -> ImageParts {
        image::put_image(self, repository, None, layers)
    }

    /// The bytes of a blob, if some were pushed or put.
    #[must_use]
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        self.state.lock().store.blob(repository, digest)
    }

    /// Media type and bytes of a manifest by tag or digest.
    #[must_use]
    pub fn manifest(&self, repository: &str, target: &str) -> Option<(String, Bytes)> {
        let inner = self.state.lock();
        let manifest = inner.store.manifest(repository, target)?;
        Some((manifest.media_type.clone(), manifest.bytes.clone()))
    }

    /// Adds a fault; the first that matches a request and is not spent is used.
    pub fn fault(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Makes every token given out so far invalid.
    pub fn revoke_tokens(&self) {
        self.state.lock().tokens.revoke();
    }

    /// All requests so far, in the order they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.state.lock().log.clone()
    }

    /// How many requests had this method and a path that contains `part`. An empty method means any.
    #[must_use]
    pub fn count(&self, method: &str, part: &str) -> usize {
        let inner = self.state.lock();
        inner
            .log
            .iter()
            .filter(|seen| (method.is_empty() || seen.method == method) && seen.path.contains(part))
            .count()
    }
}

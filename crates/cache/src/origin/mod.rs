//! Upstream registries: what may be asked, with which credential, and what their answers mean.
//!
//! Every request goes through one place ([`Origins`]): what was not found a moment ago is not asked for again, an
//! upstream that wants to be left alone is, and every outcome is noted.
//!
//! Crash: nothing is kept; a pause that was asked for is asked for again. Cancellation: a request that is dropped
//! counts neither for nor against its upstream. Ordering: the outcome is noted before the caller hears of it.

mod credentials;
mod gate;
mod recent;
mod trouble;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orlop_base::clock::SharedClock;
use orlop_base::retry::RetryPolicy;
use orlop_registry::{
    BlobSink, Client, Document, Error, Fetched, FixedCredential, Manifest, Observer, Resolved,
};
use orlop_types::{Descriptor, Digest, Reference};

pub use self::credentials::{CredentialRule, Credentials};
pub use self::gate::BreakerOptions;
pub(crate) use self::recent::Recent;
pub use self::trouble::{Trouble, TroubleKind};

use self::gate::{Ended, Gates};
use crate::rights::{Fingerprint, Tenant};
use crate::route::Query;

/// What was not found, at most: a client that asks for names at random fills this and nothing else.
const NEGATIVES_MAX: usize = 8192;

/// How upstreams are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginOptions {
    /// How long a 404 is believed; nothing else is remembered as missing.
    pub negative_for: Duration,
    /// When an upstream rests.
    pub breaker: BreakerOptions,
    /// How often and how long apart a fill asks; other requests are asked once, for their clients ask again.
    pub fill_retry: RetryPolicy,
}

impl Default for OriginOptions {
    fn default() -> Self {
        Self {
            negative_for: Duration::from_secs(15),
            breaker: BreakerOptions::default(),
            fill_retry: RetryPolicy {
                // A client waits for the answer: it hears at once that it has to wait.
                retry_after_max: Duration::ZERO,
                ..RetryPolicy::default()
            },
        }
    }
}

/// All upstreams. Clones share what was learnt.
#[derive(Clone)]
pub struct Origins {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    options: OriginOptions,
    clock: SharedClock,
    learnt: Mutex<Learnt>,
}

struct Learnt {
    gates: Gates,
    missing: Recent<Missing, ()>,
}

/// What was not found, and for whom: who may not see something is told that it does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Missing {
    who: Fingerprint,
    what: String,
}

impl Origins {
    /// Upstreams as `client` knows them, with the credentials of the service.
    #[must_use]
    pub fn new(client: Client, options: OriginOptions, clock: SharedClock) -> Self {
        let learnt = Learnt {
            gates: Gates::new(options.breaker),
            missing: Recent::new(NEGATIVES_MAX),
        };
        Self {
            inner: Arc::new(Inner {
                client,
                options,
                clock,
                learnt: Mutex::new(learnt),
            }),
        }
    }

    /// The time that upstreams are asked by.
    pub(crate) fn clock(&self) -> SharedClock {
        Arc::clone(&self.inner.clock)
    }

    /// What a tag or digest stands for now: by HEAD, which registries do not count as a pull.
    ///
    /// # Errors
    /// The upstream's, or ours for it.
    pub async fn resolve(
        &self,
        tenant: &Tenant,
        reference: &Reference,
    ) -> Result<Resolved, Trouble> {
        let asked = Asked::new(tenant, reference, reference.to_string());
        let client = self.asking(tenant, reference);
        self.ask(asked, client.resolve(reference)).await
    }

    /// The manifest `digest`.
    ///
    /// # Errors
    /// The upstream's, or ours for it.
    pub async fn manifest(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Manifest, Trouble> {
        let subject = format!("{}@{digest}", reference.locator());
        let client = self.asking(tenant, reference);
        let asked = Asked::new(tenant, reference, subject);
        self.ask(asked, client.fetch_manifest(reference, digest))
            .await
    }

    /// The length of a blob; that there is one proves that the tenant may have it.
    ///
    /// # Errors
    /// The upstream's, or ours for it.
    pub async fn blob_size(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<u64, Trouble> {
        let subject = format!("{} blob {digest}", reference.locator());
        let client = self.asking(tenant, reference);
        let asked = Asked::new(tenant, reference, subject);
        self.ask(asked, client.blob_size(reference, digest)).await
    }

    /// A page of tags.
    ///
    /// # Errors
    /// The upstream's, or ours for it.
    pub async fn tags(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        query: &Query,
    ) -> Result<Document, Trouble> {
        let subject = format!("{} tags {:?}", reference.locator(), query.passed_on());
        let client = self.asking(tenant, reference);
        let asked = Asked::new(tenant, reference, subject);
        self.ask(asked, client.tags(reference, query.passed_on()))
            .await
    }

    /// What refers to a manifest.
    ///
    /// # Errors
    /// The upstream's, or ours for it.
    pub async fn referrers(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        digest: &Digest,
        query: &Query,
    ) -> Result<Document, Trouble> {
        let pairs = query.passed_on();
        let subject = format!("{} referrers {digest} {pairs:?}", reference.locator());
        let client = self.asking(tenant, reference);
        let asked = Asked::new(tenant, reference, subject);
        self.ask(asked, client.referrers_page(reference, digest, pairs))
            .await
    }

    /// Brings what `sink` lacks of a blob; `observer` hears when bytes begin to come.
    ///
    /// # Errors
    /// The upstream's, or ours for it; what came stays in the sink.
    pub async fn fetch(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: Arc<dyn BlobSink>,
        observer: Arc<dyn Observer>,
    ) -> Result<Fetched, Trouble> {
        let subject = format!("{} blob {}", reference.locator(), descriptor.digest);
        let client = self
            .client_of(tenant, reference)
            .with_retry_policy(self.inner.options.fill_retry)
            .with_observer(observer);
        let asked = Asked::new(tenant, reference, subject);
        self.ask(asked, client.fetch_blob(reference, descriptor, sink))
            .await
    }

    /// Tells that what `fetched` brought has another digest. Well means that another host is left to ask.
    ///
    /// # Errors
    /// No host is left.
    pub async fn distrust(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        descriptor: &Descriptor,
        fetched: &Fetched,
    ) -> Result<(), Trouble> {
        let client = self.client_of(tenant, reference);
        let told = client.distrust(reference, descriptor, fetched).await;
        told.map_err(Trouble::from)
    }

    /// One request: passed by what was learnt before, and learnt from.
    async fn ask<T>(
        &self,
        asked: Asked,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        let mut passage = self.admit(asked)?;
        let outcome = request.await.map_err(Trouble::from);
        passage.end(outcome.as_ref().err());
        outcome
    }

    fn admit(&self, asked: Asked) -> Result<Passage<'_>, Trouble> {
        let now = self.inner.clock.boottime();
        let mut learnt = self.learnt();
        if learnt.missing.find(&asked.missing, now).is_some() {
            let text = format!("{} was not found a moment ago", asked.missing.what);
            return Err(Trouble::new(TroubleKind::NotFound, text));
        }
        learnt
            .gates
            .admit(&asked.registry, asked.missing.who, now)?;
        drop(learnt);
        Ok(Passage {
            origins: self,
            asked,
            has_ended: false,
        })
    }

    fn asking(&self, tenant: &Tenant, reference: &Reference) -> Client {
        let once = RetryPolicy {
            attempts_max: 1,
            ..self.inner.options.fill_retry
        };
        self.client_of(tenant, reference).with_retry_policy(once)
    }

    /// The client with the tenant's own credential, or the service's.
    fn client_of(&self, tenant: &Tenant, reference: &Reference) -> Client {
        match tenant.credential() {
            None => self.inner.client.clone(),
            Some(credential) => self
                .inner
                .client
                .with_credentials(Arc::new(FixedCredential {
                    host: reference.registry().to_owned(),
                    credential: credential.clone(),
                })),
        }
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        // Entries are plain values, whole at any time.
        self.inner
            .learnt
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks which upstream for what.
struct Asked {
    registry: String,
    missing: Missing,
}

impl Asked {
    fn new(tenant: &Tenant, reference: &Reference, what: String) -> Self {
        Self {
            registry: reference.registry().to_owned(),
            missing: Missing {
                who: tenant.fingerprint(),
                what,
            },
        }
    }
}

/// A request that was let through. Dropped without an end, it was given up.
struct Passage<'a> {
    origins: &'a Origins,
    asked: Asked,
    has_ended: bool,
}

impl Passage<'_> {
    fn end(&mut self, trouble: Option<&Trouble>) {
        self.has_ended = true;
        self.note(trouble.map_or(Ended::Answered, Ended::Failed));
        if trouble.is_some_and(|trouble| trouble.kind == TroubleKind::NotFound) {
            let now = self.origins.inner.clock.boottime();
            let until = now + self.origins.inner.options.negative_for;
            let key = self.asked.missing.clone();
            self.origins.learnt().missing.keep(key, (), now, until);
        }
    }

    fn note(&self, ended: Ended<'_>) {
        let now = self.origins.inner.clock.boottime();
        let Asked { registry, missing } = &self.asked;
        let mut learnt = self.origins.learnt();
        learnt.gates.note(registry, missing.who, now, ended);
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.note(Ended::Abandoned);
        }
    }
}

//! Operations on images: what services and CLI call.
//!
//! Purpose: pull, unpack, push, import, export, and the diff primitives, over the records and stores of `meta` and the
//! client of `registry`.
//!
//! ```text
//! resolve → documents stored, each naming its children → layers: download ─┬─ verify ── row
//!                                                          prefix ─ unpack ─┴─ settle ─ commit by chain id
//!                                                                       → image name → lease released
//! ```
//!
//! Crash: everything made is bound to the pull's lease, which ends by itself; the image's name is written last.
//! Cancellation: dropping a returned future ends the operation in order: jobs at work are waited for, snapshots not
//! committed are removed, and what was downloaded stays under the lease for the next try, which takes it over.
//! Ordering: no snapshot is committed before its layer's digest and diff id have matched and its parent is committed.

mod artifact;
mod catalog;
mod diff;
mod document;
mod error;
mod export;
mod flight;
mod import;
mod layers;
mod lease;
mod memory;
mod progress;
mod pull;
mod push;
mod record;
mod rootfs;
mod store;
mod table;
mod unpack;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use orlop_base::task::{CancellationToken, TaskHandle, TaskKind, TaskTree};
use orlop_base::telemetry::spans;
use orlop_meta::{Db, View};
use orlop_registry::{Client, FixedCredential, HostTree};
use orlop_types::{ChainId, LeaseId, Namespace, Reference, SnapshotterName};

use tracing::Instrument;

pub use orlop_registry::{Credential, CredentialError, CredentialFuture, CredentialSource};

pub use catalog::CatalogEntry;
pub use diff::{AppliedDiff, ApplyDiffRequest, CreateDiffRequest};
pub use error::Error;
pub use export::ExportRequest;
pub use import::ImportRequest;
pub use orlop_types::ErrorKind;
pub use progress::{BlobProgress, BlobState, Event, NoProgress, Progress, UnpackState};
pub use pull::{Beside, Naming, PullRequest, Pulled, Selection};
pub use push::{PushRequest, PushedImage};
pub use record::{NoRecorder, Recorder};
pub use table::{ImageDetails, ImageUsage};
pub use unpack::{UnpackRequest, UnpackedImage};

use catalog::FactCache;
use flight::Flights;
use lease::ActiveLeases;

/// On whose behalf something is done.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Whose records.
    pub namespace: Namespace,
    /// The lease that is to hold what is made; without one the operation has its own.
    pub lease: Option<LeaseId>,
}

/// How to reach a registry for one call, before the daemon's configuration.
#[derive(Clone, Default)]
pub struct RegistryAccess {
    /// A credential for the registry of the reference.
    pub credential: Option<Credential>,
    /// Who is asked for credentials instead of the configured source; `credential` goes before it.
    pub credentials: Option<Arc<dyn CredentialSource>>,
    /// Plain HTTP also for hosts that are not loopback.
    pub plain_http: bool,
    /// A tree of `hosts.toml` instead of the configured one.
    pub hosts_folder: Option<PathBuf>,
}

/// What the operations are made with.
#[derive(Debug, Clone)]
pub struct ImagesOptions {
    /// Where layers are unpacked unless a request says otherwise.
    pub snapshotter: SnapshotterName,
    /// Blobs of one image downloaded at once.
    pub downloads_max: usize,
    /// How long what an interrupted pull has fetched is kept for the next.
    pub lease_lifetime: Duration,
}

impl Default for ImagesOptions {
    fn default() -> Self {
        Self {
            snapshotter: SnapshotterName::new("overlayfs").expect("a word is an identifier"),
            downloads_max: 3,
            lease_lifetime: Duration::from_secs(24 * 3600),
        }
    }
}

/// The operations. Clones share downloads under way and everything else.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

/// Held while the layers of one image are unpacked by one snapshotter.
type UnpackLock = Arc<tokio::sync::Mutex<()>>;
type UnpackLocks = HashMap<(SnapshotterName, ChainId), Weak<tokio::sync::Mutex<()>>>;

struct Inner {
    db: Db,
    client: Client,
    tasks: TaskTree,
    options: ImagesOptions,
    recorder: Arc<dyn Recorder>,
    flights: Flights,
    facts: FactCache,
    leases: ActiveLeases,
    locks: Mutex<UnpackLocks>,
}

impl Images {
    /// Operations over `db` and `client`; `tasks` owns what outlives a caller.
    #[must_use]
    pub fn new(
        db: Db,
        client: Client,
        tasks: &TaskTree,
        options: ImagesOptions,
        recorder: Arc<dyn Recorder>,
    ) -> Self {
        let tasks = tasks.child("images");
        let inner = Inner {
            db,
            client,
            flights: Flights::new(&tasks),
            facts: FactCache::default(),
            tasks,
            options,
            recorder,
            leases: ActiveLeases::default(),
            locks: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Where layers are unpacked unless a request says otherwise.
    #[must_use]
    pub fn default_snapshotter(&self) -> &SnapshotterName {
        &self.inner.options.snapshotter
    }

    /// The records of a scope, under its lease if it has one.
    fn view(&self, scope: &Scope) -> View {
        let view = self.inner.db.namespace(&scope.namespace);
        match &scope.lease {
            Some(lease) => view.under(lease.clone()),
            None => view,
        }
    }

    /// The client for one call.
    fn client(&self, reference: &Reference, access: &RegistryAccess) -> Client {
        let mut client = self.inner.client.clone();
        if let Some(folder) = &access.hosts_folder {
            client = client.with_hosts(HostTree::new([folder.clone()]));
        }
        if access.plain_http {
            let hosts = client.hosts().clone().with_plain_http();
            client = client.with_hosts(hosts);
        }
        if let Some(credentials) = &access.credentials {
            client = client.with_credentials(Arc::clone(credentials));
        }
        if let Some(credential) = &access.credential {
            let host = reference.registry().to_owned();
            let credential = credential.clone();
            client = client.with_credentials(Arc::new(FixedCredential { host, credential }));
        }
        client
    }

    /// The lock over unpacking one image. The same for all namespaces: who waits finds the snapshots made.
    fn unpack_lock(&self, snapshotter: &SnapshotterName, top: &ChainId) -> UnpackLock {
        let mut locks = self
            .inner
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let key = (snapshotter.clone(), *top);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = UnpackLock::default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }

    /// Runs an operation as a task of its own, so that it can end in order when the caller goes away.
    async fn run<T, Work>(
        &self,
        kind: TaskKind,
        work: impl FnOnce(CancellationToken) -> Work,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        Work: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut stop = None;
        let task = self.inner.tasks.spawn(kind, |token| {
            stop = Some(token.clone().drop_guard());
            work(token).instrument(spans::carried())
        });
        let result = join(task).await;
        drop(stop);
        result
    }
}

async fn join<T>(task: TaskHandle<Result<T, Error>>) -> Result<T, Error> {
    task.join().await?
}

impl std::fmt::Debug for RegistryAccess {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RegistryAccess")
            .field("credential", &self.credential)
            .field("plain_http", &self.plain_http)
            .field("hosts_folder", &self.hosts_folder)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Images {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Images")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

/// Runs a short blocking job.
async fn blocking<T, Job>(kind: &'static str, job: Job) -> Result<T, Error>
where
    T: Send + 'static,
    Job: FnOnce() -> Result<T, Error> + Send + 'static,
{
    orlop_base::blocking::run(kind, job).await?
}

/// Runs a blocking job that may wait for others.
async fn blocking_long<T, Job>(kind: &'static str, job: Job) -> Result<T, Error>
where
    T: Send + 'static,
    Job: FnOnce() -> Result<T, Error> + Send + 'static,
{
    orlop_base::blocking::run_long(kind, job).await?
}

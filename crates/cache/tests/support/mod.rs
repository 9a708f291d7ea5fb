//! A cache on loopback in front of a registry that misbehaves on demand.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::{ManualClock, SharedClock, SystemClock};
use orlop_base::task::TaskTree;
use orlop_cache::fill::{Alone, Fills, NoTier};
use orlop_cache::ledger::{self, Ledger};
use orlop_cache::origin::{OriginOptions, Origins};
use orlop_cache::rights::{Admission, Doorkeeper, FingerprintKey};
use orlop_cache::route::Naming;
use orlop_cache::serve::{Figures, Limits, Making, Options, Server, Tls};
use orlop_cache::store::{self, Store};
use orlop_registry::{Client, ClientOptions, Credential, FetchOptions, FixedCredential, Proxies};
use orlop_testkit::registry::FakeRegistry;
use tokio::net::TcpListener;

/// A test that takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(10);

/// What differs between tests.
pub(crate) struct Setting {
    pub(crate) admission: Admission,
    pub(crate) options: Options,
    pub(crate) limits: Limits,
    pub(crate) origin: OriginOptions,
    pub(crate) fetch: FetchOptions,
    pub(crate) store: store::Options,
    pub(crate) credential: Option<(String, String)>,
    pub(crate) clock: SharedClock,
    pub(crate) tls: Option<Tls>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            admission: Admission::Open,
            options: Options::default(),
            limits: Limits::default(),
            origin: OriginOptions::default(),
            fetch: FetchOptions {
                threshold_bytes: u64::MAX,
                no_progress: Duration::from_secs(20),
                ..FetchOptions::default()
            },
            store: store::Options::default(),
            credential: None,
            clock: SystemClock::shared(),
            tls: None,
        }
    }
}

impl Setting {
    /// A clock that the test moves.
    pub(crate) fn with_clock(mut self) -> (Self, ManualClock) {
        let clock = ManualClock::new();
        self.clock = Arc::new(clock.clone());
        (self, clock)
    }
}

/// A cache that serves.
pub(crate) struct Cache {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    pub(crate) fills: Fills,
    tasks: TaskTree,
    ledger: Ledger,
}

impl Cache {
    /// A cache in `root`, in front of the registry at `upstream`.
    pub(crate) async fn start(root: &Path, upstream: &str, setting: Setting) -> Self {
        let clock = setting.clock;
        let tasks = TaskTree::root("cache", Arc::clone(&clock));
        let store = open(root, &setting.store, &clock).await;
        let ledger = Ledger::start(root, ledger::Options::default(), Arc::clone(&clock)).unwrap();
        let mut options = ClientOptions {
            fetch: setting.fetch,
            proxies: Proxies::default(),
            ..ClientOptions::default()
        };
        if let Some((username, password)) = setting.credential {
            options.credentials = Arc::new(FixedCredential {
                host: upstream.to_owned(),
                credential: Credential::Basic { username, password },
            });
        }
        let origins = Origins::new(Client::new(options), setting.origin, Arc::clone(&clock));
        let fills = Fills::new(
            store.clone(),
            origins.clone(),
            Arc::new(Alone),
            Arc::new(NoTier),
            &tasks,
        );
        let key = FingerprintKey::from_bytes(&[7; 32]);
        let making = Making {
            naming: Naming {
                registries: [upstream.to_owned()].into(),
                any: false,
                default: Some(upstream.to_owned()),
            },
            doorkeeper: Doorkeeper::new(setting.admission, key),
            origins,
            fills: fills.clone(),
            store: store.clone(),
            ledger: Some(ledger.sender()),
            figures: Arc::new(Figures::default()),
            clock,
            options: setting.options,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Server::start(listener, setting.tls, making, setting.limits, &tasks);
        Self {
            address,
            store,
            fills,
            tasks,
            ledger,
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        let ended = self.tasks.shutdown(GRACE).await;
        ended.unwrap();
        self.ledger.flush();
    }

    /// The URL of something below `/v2/`.
    pub(crate) fn url(&self, rest: &str) -> String {
        format!("http://{}/v2/{rest}", self.address)
    }

    /// Waits until nothing is being filled.
    pub(crate) async fn settle(&self) {
        let settled = async {
            while self.fills.under_way() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.unwrap();
    }
}

/// Opens a store; one that was stopped a moment ago may still be letting go of its folder.
async fn open(root: &Path, options: &store::Options, clock: &SharedClock) -> Store {
    let opening = async {
        loop {
            match Store::open(root, options.clone(), Arc::clone(clock)) {
                Ok(store) => return store,
                Err(error) if error.is_in_use() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, opening).await.unwrap()
}

/// A registry, a cache in front of it and a client.
pub(crate) struct Scene {
    pub(crate) upstream: FakeRegistry,
    pub(crate) cache: Cache,
    pub(crate) client: reqwest::Client,
    pub(crate) folder: tempfile::TempDir,
}

impl Scene {
    pub(crate) async fn new(setting: Setting) -> Self {
        Self::before(FakeRegistry::start(), setting).await
    }

    pub(crate) async fn before(upstream: FakeRegistry, setting: Setting) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::start(folder.path(), &upstream.host(), setting).await;
        Self {
            upstream,
            cache,
            client: client(),
            folder,
        }
    }

    pub(crate) async fn get(&self, rest: &str) -> reqwest::Response {
        self.ask(self.client.get(self.cache.url(rest))).await
    }

    pub(crate) async fn head(&self, rest: &str) -> reqwest::Response {
        self.ask(self.client.head(self.cache.url(rest))).await
    }

    pub(crate) async fn get_range(&self, rest: &str, range: &str) -> reqwest::Response {
        let request = self.client.get(self.cache.url(rest)).header("range", range);
        self.ask(request).await
    }

    pub(crate) async fn ask(&self, request: reqwest::RequestBuilder) -> reqwest::Response {
        tokio::time::timeout(PATIENCE, request.send())
            .await
            .expect("no test waits so long")
            .expect("the cache answers")
    }

    /// Stops the cache and starts another on the same folder.
    pub(crate) async fn restart(self, setting: Setting) -> Self {
        self.cache.stop().await;
        let host = self.upstream.host();
        let cache = Cache::start(self.folder.path(), &host, setting).await;
        Self { cache, ..self }
    }
}

pub(crate) fn client() -> reqwest::Client {
    client_with(rustls::RootCertStore::empty(), None)
}

/// A client that trusts `roots` and shows a certificate.
pub(crate) fn client_with(
    roots: rustls::RootCertStore,
    shown: Option<(
        rustls::pki_types::CertificateDer<'static>,
        rustls::pki_types::PrivateKeyDer<'static>,
    )>,
) -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let tls = match shown {
        None => tls.with_no_client_auth(),
        Some((certificate, key)) => tls.with_client_auth_cert(vec![certificate], key).unwrap(),
    };
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .build()
        .unwrap()
}

/// Bytes that no compression and no repetition hides.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An image with one layer of `length` bytes.
pub(crate) fn image(
    upstream: &FakeRegistry,
    repository: &str,
    tag: &str,
    length: usize,
) -> orlop_testkit::registry::ImageParts {
    let layer = orlop_testkit::registry::Layer::plain(noise(length));
    upstream.put_image(repository, tag, &[layer])
}

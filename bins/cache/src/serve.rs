//! `orlop cache serve`: wiring. What is wired is in the library.
//!
//! Crash: the store and the ledger know where to go on. Ordering: the folder is locked before the port is taken; answers
//! under way are given the grace when a signal comes, then fills are put down, and last the ledger is written.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orlop_base::blocking::{self, BlockingPool};
use orlop_base::clock::{SharedClock, SystemClock};
use orlop_base::config::{ConfigErrors, Sources, Warning};
use orlop_base::notify::notify;
use orlop_base::retry::RetryPolicy;
use orlop_base::task::TaskTree;
use orlop_base::telemetry::{self, Metrics};
use orlop_cache::fill::Fills;
use orlop_cache::ledger::{self, Ledger};
use orlop_cache::origin::{BreakerOptions, CredentialRule, Credentials, OriginOptions, Origins};
use orlop_cache::rights::{Admission, Doorkeeper, FingerprintKey};
use orlop_cache::route::Naming;
use orlop_cache::serve::{
    Figures, Limits, Making, Options, Server, Status, TagPolicy, TagRule, TagTimes, Tls,
};
use orlop_cache::store;
use orlop_registry::{
    Client, ClientOptions, CredentialHelper, DockerConfig, FetchOptions, HostTree, MemoryBudget,
    Proxies,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CacheError;
use crate::settings::{Access, ENVIRONMENT_ROOT, Mode, Origin, PROGRAM, Settings, Tags};
use crate::sharing::Sharing;

const SHORT_JOBS: usize = 16;
const LONG_JOBS: usize = 8;
/// Requests to one registry for blobs at once: fills and parts fetched beside them.
const PARALLEL_PER_HOST: usize = 64;
/// A file of users or tokens that is longer is something else.
const SECRETS_BYTES_MAX: u64 = 4 << 20;

/// Where settings come from, for `serve` and `config check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file; /etc/orlop/cache.toml if there is one
    #[arg(long, value_name = "FILE", env = "ORLOP_CACHE_CONFIG")]
    config: Option<PathBuf>,
    /// The cache's folder
    #[arg(long, value_name = "FOLDER", env = ENVIRONMENT_ROOT)]
    root: Option<PathBuf>,
    /// Change a setting, such as serve.address=0.0.0.0:5015
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write section.key=value, such as store.cap=10GiB")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Arguments {
    /// The settings, with what is odd but no error.
    pub(crate) fn settings(&self) -> Result<(Settings, Vec<Warning>), ConfigErrors> {
        let mut sources: Sources = PROGRAM.sources(self.config.as_deref())?;
        sources
            .environment
            .retain(|(name, _)| name != ENVIRONMENT_ROOT);
        sources.flags.clone_from(&self.set);
        if let Some(root) = &self.root {
            let root = std::path::absolute(root).unwrap_or_else(|_| root.clone());
            let flag = ("store.root".to_owned(), root.display().to_string());
            sources.flags.push(flag);
        }
        sources.read(Settings::read)
    }
}

/// Serves until a signal ends it.
pub(crate) fn run(arguments: &Arguments) -> Result<(), CacheError> {
    let (settings, warnings) = arguments.settings().map_err(CacheError::Settings)?;
    telemetry::init_logs(&settings.telemetry, None)
        .map_err(|error| start("set up logging", error))?;
    telemetry::install_panic_hook();
    for warning in &warnings {
        tracing::warn!(%warning, "configuration");
    }
    blocking::install(BlockingPool::new(SHORT_JOBS, LONG_JOBS));
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get().min(8));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(SHORT_JOBS + LONG_JOBS)
        .enable_all()
        .build()
        .map_err(|error| start("start the async runtime", error))?;
    runtime.block_on(live(&settings))
}

async fn live(settings: &Settings) -> Result<(), CacheError> {
    let clock: SharedClock = SystemClock::shared();
    let tasks = TaskTree::root("cache", Arc::clone(&clock));
    let root = settings.store.root.clone();
    let kept = open(settings, &clock).await?;
    kept.store.spawn_upkeep(&tasks);
    let origins = Origins::new(
        Client::new(client_options(&settings.origin)),
        origin_options(&settings.origin),
        Arc::clone(&clock),
    );
    let sharing = Sharing::open(&settings.shared, &kept.store, &tasks).await?;
    let fills = Fills::new(
        kept.store.clone(),
        origins.clone(),
        sharing.election,
        sharing.tier,
        &tasks,
    );
    let figures = Arc::new(Figures::default());
    let metrics = Metrics::new();
    metrics.register(|registry| {
        tasks.register(registry);
        blocking::pool().register(registry);
        kept.store.register(registry);
        kept.ledger.register(registry);
        figures.register(registry);
        fills.register(registry);
    });
    let status = Status::new(metrics);
    let making = Making {
        naming: naming(&settings.origin),
        doorkeeper: kept.doorkeeper,
        origins,
        fills: fills.clone(),
        store: kept.store.clone(),
        ledger: Some(kept.ledger.sender()),
        figures,
        clock,
        options: options(settings),
    };
    let limits = Limits {
        connections_max: settings.serve.connections_max as usize,
        head_within: settings.serve.head_timeout,
        stall: settings.serve.stall_timeout,
    };
    let listener = listen(&settings.serve.address).await?;
    let metrics_address = &settings.telemetry.metrics_address;
    if !metrics_address.is_empty() {
        let listener = listen(metrics_address).await?;
        Server::start_status(listener, status.clone(), limits, &tasks);
    }
    let address = listener.local_addr().ok();
    let has_tls = kept.tls.is_some();
    Server::start(listener, kept.tls, making, limits, &tasks);
    let resumed = fills.resume().unwrap_or_else(|error| {
        tracing::warn!(error = %orlop_types::chain(&error), "interrupted fills are not taken up");
        0
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?address, tls = has_tls, root = %root.display(), resumed, "serving");
    until_signalled(&status).await?;
    if let Err(stragglers) = tasks.shutdown(settings.serve.shutdown_grace).await {
        tracing::info!(%stragglers, "some answers were cut");
    }
    kept.ledger.flush();
    let flushed = kept.store.flush();
    flushed.map_err(|error| start("write down what was used", error))
}

/// Ready until a signal comes.
async fn until_signalled(status: &Status) -> Result<(), CacheError> {
    status.set_ready(true);
    notify("READY=1");
    let name = ended_by_signal().await?;
    tracing::info!(signal = name, "ending; what came of fills is kept");
    notify("STOPPING=1");
    status.set_ready(false);
    Ok(())
}

/// What lies in files.
struct Kept {
    store: store::Store,
    ledger: Ledger,
    doorkeeper: Doorkeeper,
    tls: Option<Tls>,
}

async fn open(settings: &Settings, clock: &SharedClock) -> Result<Kept, CacheError> {
    let (settings, clock) = (settings.clone(), Arc::clone(clock));
    let opened = blocking::run_long("cache-open", move || {
        let root = &settings.store.root;
        let ttl = Some(settings.store.ttl).filter(|ttl| !ttl.is_zero());
        let options = store::Options {
            cap_bytes: settings.store.cap.as_u64(),
            ttl,
            small_max_bytes: settings.store.small_max.as_u64(),
            scrub_bytes_per_second: settings.store.scrub_rate.as_u64(),
            ..store::Options::default()
        };
        let store = store::Store::open(root, options, Arc::clone(&clock))
            .map_err(|error| start("open the store", error))?;
        let ledger = Ledger::start(root, ledger::Options::default(), clock)
            .map_err(|error| start("begin the ledger", error))?;
        check_way(root, settings.access.mode)
            .map_err(|error| start(&format!("use {}", root.display()), error))?;
        let key =
            fingerprint_key(root).map_err(|error| start("keep a key in its folder", error))?;
        let serve = &settings.serve;
        let tls = (!serve.certificate.is_empty())
            .then(|| {
                let clients =
                    Some(Path::new(&serve.client_ca)).filter(|_| !serve.client_ca.is_empty());
                Tls::load(
                    Path::new(&serve.certificate),
                    Path::new(&serve.key),
                    clients,
                )
            })
            .transpose()
            .map_err(CacheError::Tls)?;
        Ok(Kept {
            store,
            ledger,
            doorkeeper: Doorkeeper::new(admission(&settings.access)?, key),
            tls,
        })
    });
    opened
        .await
        .map_err(|error| start("open its folder", error))?
}

/// What clients' own credentials brought must not be served in the service's name later: a folder stays with its way.
fn check_way(root: &Path, mode: Mode) -> std::io::Result<()> {
    let mark = root.join("pass-through");
    if mode == Mode::PassThrough {
        std::fs::File::create(&mark)?;
    } else if mark.exists() {
        let text = "it holds what clients' own credentials brought: keep access.mode = \"pass-through\", or name another --root";
        return Err(std::io::Error::other(text));
    }
    Ok(())
}

/// Reads the key of all fingerprints, or makes it. Who loses it loses grants, nothing else.
fn fingerprint_key(root: &Path) -> std::io::Result<FingerprintKey> {
    let path = root.join("fingerprint.key");
    let mut bytes = [0; FingerprintKey::LEN_BYTES];
    match std::fs::File::open(&path) {
        Ok(mut file) => file.read_exact(&mut bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bytes = FingerprintKey::random_bytes()?;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
        }
        Err(error) => return Err(error),
    }
    Ok(FingerprintKey::from_bytes(&bytes))
}

fn admission(access: &Access) -> Result<Admission, CacheError> {
    Ok(match access.mode {
        Mode::None => Admission::Open,
        Mode::Certificate => Admission::Certificate,
        Mode::PassThrough => Admission::PassThrough,
        Mode::Basic => Admission::Basic(users(Path::new(&access.htpasswd))?),
        Mode::Bearer => Admission::Bearer(tokens(Path::new(&access.tokens))?),
    })
}

/// Lines `USER:HASH`.
fn users(path: &Path) -> Result<BTreeMap<String, String>, CacheError> {
    lines(path, |line| {
        let (user, hash) = line.split_once(':')?;
        hash.starts_with("$2")
            .then(|| (user.to_owned(), hash.to_owned()))
    })
}

/// Lines `NAME TOKEN`, by token.
fn tokens(path: &Path) -> Result<BTreeMap<String, String>, CacheError> {
    lines(path, |line| {
        let (name, token) = line.split_once(char::is_whitespace)?;
        Some((token.trim().to_owned(), name.to_owned()))
    })
}

fn lines(
    path: &Path,
    read: impl Fn(&str) -> Option<(String, String)>,
) -> Result<BTreeMap<String, String>, CacheError> {
    let secrets = |problem: String| CacheError::Secrets {
        path: path.to_owned(),
        problem,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRETS_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| secrets(error.to_string()))?;
    let mut found = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The line itself is not shown: it holds a secret.
        let (key, value) = read(line)
            .ok_or_else(|| secrets(format!("line {} cannot be understood", number + 1)))?;
        found.insert(key, value);
    }
    Ok(found)
}

fn client_options(origin: &Origin) -> ClientOptions {
    let rule = |upstream: &crate::settings::Upstream| {
        if upstream.anonymous {
            Some(CredentialRule::Anonymous)
        } else if !upstream.helper.is_empty() {
            let helper = CredentialHelper::new(&upstream.helper, None);
            Some(CredentialRule::Helper(helper))
        } else if !upstream.username.is_empty() {
            Some(CredentialRule::Password {
                username: upstream.username.clone(),
                password_file: upstream.password_file.clone().into(),
            })
        } else {
            None
        }
    };
    let rules = origin
        .upstreams
        .iter()
        .filter_map(|(host, upstream)| Some((host.clone(), rule(upstream)?)));
    let credentials = Credentials {
        rules: rules.collect(),
        otherwise: Some(DockerConfig::new(origin.credentials_file.clone())),
    };
    let threshold = origin.range_threshold.as_u64();
    ClientOptions {
        hosts: HostTree::new(origin.hosts_dirs.clone()),
        credentials: Arc::new(credentials),
        budget: MemoryBudget::new(
            usize::try_from(origin.download_memory.as_u64()).unwrap_or(usize::MAX),
        ),
        fetch: FetchOptions {
            threshold_bytes: if threshold == 0 { u64::MAX } else { threshold },
            chunk_bytes: origin.range_size.as_u64(),
            parallel_per_blob: origin.ranges_at_once as usize,
            parallel_per_host: PARALLEL_PER_HOST,
            no_progress: origin.progress_timeout,
            ..FetchOptions::default()
        },
        proxies: Proxies::from_environment(),
        user_agent: concat!("orlop-cache/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..ClientOptions::default()
    }
}

fn origin_options(origin: &Origin) -> OriginOptions {
    let defaults = OriginOptions::default();
    OriginOptions {
        negative_for: origin.negative_for,
        breaker: BreakerOptions {
            failures_max: origin.rest_after,
            rest: origin.rest,
            rest_max: origin.rest * 12,
        },
        fill_retry: RetryPolicy {
            attempts_max: origin.attempts_max,
            ..defaults.fill_retry
        },
    }
}

fn naming(origin: &Origin) -> Naming {
    Naming {
        registries: origin.registries.iter().cloned().collect(),
        any: origin.any_registry,
        default: Some(origin.default.clone()).filter(|name| !name.is_empty()),
    }
}

fn options(settings: &Settings) -> Options {
    Options {
        tags: tag_policy(&settings.tags),
        lists_stale: settings.tags.lists_stale,
        grants_for: settings.access.grants_for,
        headers_within: settings.serve.headers_within,
        answers_per_client_max: settings.serve.answers_per_client_max as usize,
    }
}

fn tag_policy(tags: &Tags) -> TagPolicy {
    let immutable = tags.immutable.iter().map(|pattern| TagRule {
        pattern: pattern.clone(),
        times: TagTimes {
            fresh: None,
            stale: Duration::ZERO,
        },
    });
    let others = tags.rules.iter().map(|rule| TagRule {
        pattern: rule.pattern.clone(),
        times: TagTimes {
            fresh: Some(rule.fresh),
            stale: rule.stale,
        },
    });
    TagPolicy {
        rules: immutable.chain(others).collect(),
        otherwise: TagTimes {
            fresh: Some(tags.fresh),
            stale: tags.stale,
        },
    }
}

async fn listen(address: &str) -> Result<TcpListener, CacheError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| start(&format!("listen on {address}"), error))
}

fn start(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> CacheError {
    CacheError::Start {
        what: what.to_owned(),
        source: Box::new(source),
    }
}

async fn ended_by_signal() -> Result<&'static str, CacheError> {
    let watch = |kind| signal(kind).map_err(|error| start("watch signals", error));
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_clients_own_credentials_is_not_served_in_the_services_name() {
        let folder = tempfile::tempdir().unwrap();
        check_way(folder.path(), Mode::None).unwrap();
        check_way(folder.path(), Mode::PassThrough).unwrap();
        check_way(folder.path(), Mode::PassThrough).unwrap();
        let refused = check_way(folder.path(), Mode::Basic).unwrap_err();
        assert!(refused.to_string().contains("another --root"), "{refused}");
    }

    #[test]
    fn files_of_users_and_tokens_are_read_and_their_secrets_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let put = |text: &str| {
            let mut file = std::fs::File::create(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        put("# people\nann:$2y$05$hash\n\n");
        assert_eq!(users(&path).unwrap()["ann"], "$2y$05$hash");
        put("ann:plain\n");
        let error = users(&path).unwrap_err().report();
        assert!(
            error.contains("line 1") && !error.contains("plain"),
            "{error}"
        );
        put("ci  t0k3n\n");
        assert_eq!(tokens(&path).unwrap()["t0k3n"], "ci");
    }

    #[test]
    fn the_key_of_fingerprints_is_made_once_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let anonymous = orlop_registry::Credential::Anonymous;
        let first = fingerprint_key(folder.path()).unwrap().of(&anonymous);
        let again = fingerprint_key(folder.path()).unwrap().of(&anonymous);
        assert_eq!(first, again);
        let path = folder.path().join("fingerprint.key");
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

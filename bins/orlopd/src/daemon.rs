//! The daemon's life: start, serve, drain.
//!
//! Crash: nothing here is kept; stores and records say where to go on. Ordering: the stores are locked before the socket
//! is taken, so a second daemon never takes it away from the first; tasks are recovered before anyone is served.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use orlop_base::blocking::{self, BlockingPool};
use orlop_base::clock::{SharedClock, SystemClock};
use orlop_base::config::{Config, Loaded};
use orlop_base::notify::notify;
use orlop_base::task::TaskTree;
use orlop_base::telemetry::{self, Metrics};
use orlop_meta::Db;
use orlop_meta::gc::Collector;
use orlop_runtime::events;
use orlop_services::{Access, Collection, Parts, routes, serve};
use orlop_sys::process::OomScore;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::ends::Ends;
use crate::engine::{Engine, ttrpc_address};
use crate::failure::NoSocket;
use crate::figures::{CollectionFigures, PodNetworks};
use crate::spans::{self, Export, SpanFigures};
use crate::{collect, cri, memory, metrics};

/// Threads that run futures. They never block, so two keep a busy node's calls apart and cost little.
const WORKER_THREADS: usize = 2;

/// Threads for calls of network plugins, which have a lane of their own: one that hangs must not keep a pull waiting.
pub(crate) const NETWORK_JOBS_MAX: usize = 16;

/// Runs the daemon until a signal ends it.
pub(crate) fn run(loaded: &Loaded) -> anyhow::Result<()> {
    let config = &loaded.config;
    let jobs = (
        config.engine.blocking_jobs_max as usize,
        config.engine.long_jobs_max as usize,
    );
    blocking::install(BlockingPool::new(jobs.0, jobs.1));
    memory::prepare();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(jobs.0 + jobs.1 + NETWORK_JOBS_MAX)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    // The exporter's connection belongs to the runtime.
    let (layer, export) = runtime
        .block_on(async { spans::prepare(&config.otlp) })?
        .unzip();
    telemetry::init_logs(&config.telemetry, layer)?;
    telemetry::install_panic_hook();
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "configuration");
    }
    lower_oom_score(config.engine.oom_score_adj);
    let ended = runtime.block_on(live(config, export))?;
    // Waits for blocking jobs whose callers were cut: after this nobody writes any more.
    drop(runtime);
    if let Some(db) = ended {
        db.end_session()
            .context("cannot note that the daemon ended in order")?;
    }
    Ok(())
}

/// Out of memory should take a container before the daemon; where the kernel refuses, it is said once.
fn lower_oom_score(wanted: i32) {
    let score = OomScore(i16::try_from(wanted).unwrap_or(i16::MIN));
    if let Err(error) = score.apply() {
        tracing::info!(wanted, %error, "oom_score_adj stays as it is: lowering it needs CAP_SYS_RESOURCE");
    }
}

/// Gives the database where everything ended in order.
async fn live(config: &Config, export: Option<Export>) -> anyhow::Result<Option<Db>> {
    let clock: SharedClock = SystemClock::shared();
    let tasks = TaskTree::root("orlopd", Arc::clone(&clock));
    let spans = export.map(|export| export.start(&tasks));
    let engine = Engine::open(config, &clock, &tasks)?;
    let was_mended = collect::mend_after_unclean_stop(&engine.db, &engine.snapshot_roots)
        .context("cannot note in the database that the daemon runs")?;
    let listener = listen(&config.engine.socket, config.engine.socket_gid).context(NoSocket)?;
    events::serve(
        &ttrpc_address(&config.engine.socket),
        engine.db.clone(),
        &tasks,
    )
    .context("cannot listen for shims' events")
    .context(NoSocket)?;
    // Before recovery, which learns of ends.
    let ends = Ends::start(engine.db.clone(), &tasks)
        .await
        .context("cannot read the events of an earlier daemon")?;
    let adopted = engine
        .runtime
        .recover()
        .await
        .context("cannot recover the tasks of an earlier daemon")?;
    engine
        .runtime
        .watch_restarts(config.runtime.restart_interval);
    tell_runtimes(&engine);
    tracing::info!(version = engine.identity.version, socket = %config.engine.socket.display(), tasks = adopted, "serving");
    let figures = (&ends, spans.as_ref());
    let collection = start_collection(config, &engine, figures, &tasks).await?;
    memory::start(&tasks);
    let cri = cri::start(config, &engine, &clock, &tasks).await?;
    let parts = Parts {
        identity: engine.identity.clone(),
        components: engine.components.clone(),
        facts: engine.facts.clone(),
        db: engine.db.clone(),
        runtime: engine.runtime.clone(),
        images: engine.images.clone(),
        collection,
        tasks: tasks.child("services"),
    };
    notify("READY=1");
    let ending = Arc::new(tokio::sync::Notify::new());
    let asked = Arc::clone(&ending);
    let server = serve(
        listener,
        access(config),
        cri.add_to(routes(parts)),
        async move { asked.notified().await },
    );
    tokio::pin!(server);
    tokio::select! {
        outcome = &mut server => outcome?,
        name = ended_by_signal() => {
            tracing::info!(signal = name?, "ending; containers go on");
            notify("STOPPING=1");
            ending.notify_one();
            // Streams that never end by themselves, such as event subscriptions, are cut when the grace is over.
            let grace = config.engine.shutdown_grace;
            if tokio::time::timeout(grace, &mut server).await.is_err() {
                tracing::info!(?grace, "open calls were cut");
            }
        }
    }
    if let Err(stragglers) = tasks.shutdown(config.engine.shutdown_grace).await {
        tracing::warn!(%stragglers, "some work was cut short");
        return Ok(None);
    }
    Ok(was_mended.then_some(engine.db))
}

fn tell_runtimes(engine: &Engine) {
    for runtime in &engine.oci_runtimes {
        tracing::debug!(
            name = runtime.name,
            version = runtime.version,
            error = runtime.error,
            "OCI runtime"
        );
    }
}

/// Starts collection, and shows the process's figures if that is wished.
async fn start_collection(
    config: &Config,
    engine: &Engine,
    (ends, spans): (&Ends, Option<&SpanFigures>),
    tasks: &TaskTree,
) -> anyhow::Result<Collection> {
    let metrics = Metrics::new();
    let figures = CollectionFigures::default();
    metrics.register(|registry| {
        tasks.register(registry);
        blocking::pool().register(registry);
        figures.register(registry);
        ends.register(registry);
        if let Some(spans) = spans {
            spans.register(registry);
        }
        registry.register_collector(Box::new(PodNetworks(engine.runtime.clone())));
    });
    metrics::serve(&config.telemetry.metrics_address, metrics, tasks).await?;
    let collector = Arc::new(Collector::new(engine.db.clone()));
    let (collection, passes) =
        Collection::new(Arc::clone(&collector), engine.snapshot_roots.clone());
    collect::start(collector, passes, &config.gc, figures, tasks);
    Ok(collection)
}

/// Takes the socket. The stores are locked already, so whatever lies at its path is left from a dead daemon.
fn listen(socket: &Path, group: u32) -> anyhow::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot take {}", socket.display()));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))
        .context("cannot protect the socket")?;
    std::os::unix::fs::chown(socket, None, Some(group))
        .context("cannot give the socket to engine.socket_gid")?;
    Ok(listener)
}

fn access(config: &Config) -> Access {
    let mut access = Access::root_only();
    if config.engine.socket_gid != 0 {
        access.groups.insert(config.engine.socket_gid);
    }
    access
}

async fn ended_by_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch signals")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

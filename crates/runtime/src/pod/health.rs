//! Whether the networks of ready pods work: asked of the network's plugins after the daemon's start (CNI's CHECK), and where
//! that is configured tried from inside, now and then. What is found is told; no pod is stopped for it.
//!
//! Crash: findings are forgotten, and found again. Cancellation: between two rounds. Ordering: of two findings of one kind
//! the later one counts; a change between them is an event.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use orlop_base::blocking;
use orlop_base::task::{CancellationToken, TaskKind};
use orlop_meta::Event;
use orlop_types::{Namespace, SandboxId, chain};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::machine::PodPhase;
use super::record::{PodKey, PodRecord};
use super::{network, recover};
use crate::core::Core;
use crate::forward::connect;
use crate::runtime::Runtime;
use crate::{dns, forward};

/// Tries pods' networks; holds nothing.
pub(super) const PROBER: TaskKind = TaskKind::dropped("probe of pods' networks");
/// One pod's turn.
const TURN: TaskKind = TaskKind::dropped("probe of a pod's network");

/// Pods tried at once.
const TURNS_MAX: usize = 16;
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The topic of changes.
const TOPIC: &str = "/orlop/pods/network";
const TYPE: &str = "orlop.dev/pod-network-finding/1";

/// What is tried from inside pods' networks.
#[derive(Debug, Clone, Default)]
pub struct PodProbe {
    /// How often; zero for never.
    pub interval: Duration,
    /// Names that the pod's own name servers have to know.
    pub names: Vec<String>,
    /// TCP ports that have to accept.
    pub targets: Vec<SocketAddr>,
}

/// How something was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The network's plugins were asked.
    Check,
    /// It was tried.
    Probe,
}

/// What was found of one pod's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFinding {
    /// How.
    pub kind: FindingKind,
    /// When.
    pub at: SystemTime,
    /// What is wrong; absent if it works.
    pub fault: Option<String>,
}

/// The latest findings.
#[derive(Debug, Default)]
pub(crate) struct Findings(Mutex<HashMap<(PodKey, FindingKind), NetworkFinding>>);

impl Runtime {
    /// The latest findings of the networks of all ready pods.
    #[must_use]
    pub fn network_findings(&self) -> Vec<(Namespace, SandboxId, NetworkFinding)> {
        let known = self.core.pods.findings.known().clone();
        let ready = known
            .into_iter()
            .filter(|((key, _), _)| is_ready(&self.core, key));
        ready
            .map(|((key, _), finding)| (key.namespace, key.pod, finding))
            .collect()
    }

    /// Asks the network's plugins for every ready pod.
    pub(super) async fn check_networks(&self) {
        for (key, record) in networked(&self.core).await {
            let (core, asked) = (Arc::clone(&self.core), key.clone());
            let checked = self.core.pods.lane.run_long("check network", move || {
                network::check(&core.settings.network, &asked, &record)
            });
            let Ok(checked) = checked.await else {
                return;
            };
            let fault = checked.err().map(|error| chain(&error));
            tell(&self.core, &key, FindingKind::Check, fault).await;
        }
    }
}

impl Findings {
    pub(super) fn forget(&self, pod: &PodKey) {
        self.known().retain(|(key, _), _| key != pod);
    }

    /// Gives what was known before.
    fn put(&self, key: &PodKey, finding: NetworkFinding) -> Option<NetworkFinding> {
        self.known().insert((key.clone(), finding.kind), finding)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(PodKey, FindingKind), NetworkFinding>> {
        // A panic while it was locked cannot have left it half-changed: every change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries the networks of all ready pods, for ever.
pub(super) async fn probe(core: Arc<Core>, token: CancellationToken) {
    let interval = core.pods.settings.probe.interval;
    if interval.is_zero() {
        return;
    }
    while !token.is_cancelled() {
        tokio::time::sleep(interval).await;
        let pods = networked(&core).await;
        for some in pods.chunks(TURNS_MAX) {
            let turns: Vec<_> = some
                .iter()
                .map(|(key, record)| {
                    let (core, key, record) = (Arc::clone(&core), key.clone(), record.clone());
                    let tasks = core.tasks.clone();
                    tasks.spawn(TURN, move |_token| async move {
                        let fault = try_network(&core, &record).await.err();
                        tell(&core, &key, FindingKind::Probe, fault).await;
                    })
                })
                .collect();
            for turn in turns {
                drop(turn.join().await);
            }
        }
    }
}

/// A network that is being taken down while it is looked at seems broken.
fn is_ready(core: &Core, key: &PodKey) -> bool {
    let cell = core.pods.find(key);
    cell.is_ok_and(|cell| cell.phase() == PodPhase::Ready)
}

/// Keeps a finding, and tells of it if it is another than before.
async fn tell(core: &Arc<Core>, key: &PodKey, kind: FindingKind, fault: Option<String>) {
    if !is_ready(core, key) {
        return;
    }
    let finding = NetworkFinding {
        kind,
        at: core.now(),
        fault,
    };
    let before = core.pods.findings.put(key, finding.clone());
    let before = before.and_then(|finding| finding.fault);
    if before == finding.fault {
        return;
    }
    match &finding.fault {
        Some(fault) => {
            tracing::warn!(namespace = %key.namespace, pod = %key.pod, fault, "a pod's network does not work")
        }
        None => {
            tracing::info!(namespace = %key.namespace, pod = %key.pod, "a pod's network works again")
        }
    }
    let payload = serde_json::json!({"sandboxId": key.pod.as_str(), "finding": finding});
    let hexadecimal = payload
        .to_string()
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let event = Event::Forwarded {
        topic: TOPIC.to_owned(),
        type_url: TYPE.to_owned(),
        value: hexadecimal,
        attributes: BTreeMap::new(),
    };
    let (db, namespace) = (core.db.clone(), key.namespace.clone());
    let told = blocking::run("tell of a network", move || db.publish(&namespace, &event));
    if let Ok(Err(error)) = told.await {
        tracing::warn!(
            error = orlop_types::chain(&error),
            "a finding about a pod's network is told by no event"
        );
    }
}

/// All ready pods with networks of their own.
async fn networked(core: &Arc<Core>) -> Vec<(PodKey, PodRecord)> {
    let core = Arc::clone(core);
    let read = blocking::run("read pods", move || recover::rows(&core));
    let rows = match read.await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "pods' networks are not looked at");
            return Vec::new();
        }
        Err(_ending) => return Vec::new(),
    };
    let of_row = |(namespace, row): (Namespace, orlop_meta::Sandbox)| {
        let record = PodRecord::read(&row)?.ok()?;
        let is_networked = record.state.networked && record.places.network.is_some();
        let pod = row.id;
        (is_networked && record.state.phase == PodPhase::Ready)
            .then_some((PodKey { namespace, pod }, record))
    };
    rows.into_iter().filter_map(of_row).collect()
}

/// The first of what does not work, as one sentence.
async fn try_network(core: &Core, record: &PodRecord) -> Result<(), String> {
    let probe = &core.pods.settings.probe;
    let Some(namespace) = record.places.network.as_deref() else {
        return Ok(());
    };
    if !probe.names.is_empty() {
        let servers = servers(record).await?;
        for name in &probe.names {
            resolve(namespace, &servers, name).await?;
        }
    }
    for target in &probe.targets {
        let reached = reach(namespace, *target).await;
        reached.map_err(|error| format!("cannot connect to {target}: {error}"))?;
    }
    Ok(())
}

async fn servers(record: &PodRecord) -> Result<Vec<IpAddr>, String> {
    let path = record.places.resolv_conf.clone().unwrap_or_default();
    let read = blocking::run("read resolv.conf", move || std::fs::read_to_string(path));
    let text = read.await.map_err(|error| error.to_string())?;
    let text = text.map_err(|error| format!("resolv.conf cannot be read: {error}"))?;
    let servers = dns::addresses(&text);
    if servers.is_empty() {
        return Err("resolv.conf names no server".to_owned());
    }
    Ok(servers)
}

async fn reach(namespace: &Path, target: SocketAddr) -> std::io::Result<()> {
    let sockets = forward::sockets(Some(namespace.to_owned())).await?;
    let socket = if target.is_ipv4() {
        sockets.v4
    } else {
        let missing = || std::io::Error::from(std::io::ErrorKind::Unsupported);
        sockets.v6.ok_or_else(missing)?
    };
    let connected = timeout(ANSWER_LIMIT, connect(socket, target)).await;
    let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
    connected.unwrap_or(Err(timed_out)).map(drop)
}

/// Asks the servers in their order, as the pod's own resolver does.
async fn resolve(namespace: &Path, servers: &[IpAddr], name: &str) -> Result<(), String> {
    let mut faults = Vec::new();
    for server in servers {
        match ask(namespace, *server, name).await {
            Ok(()) => return Ok(()),
            Err(error) => faults.push(format!("{server}: {error}")),
        }
    }
    Err(format!(
        "name {name:?} is not resolved: {}",
        faults.join(", ")
    ))
}

async fn ask(namespace: &Path, server: IpAddr, name: &str) -> std::io::Result<()> {
    let path = namespace.to_owned();
    let made = blocking::run("make sockets", move || {
        orlop_sys::net::udp_sockets(Some(&path))
    });
    let sockets = made.await.map_err(std::io::Error::other)??;
    let missing = || std::io::Error::from(std::io::ErrorKind::Unsupported);
    let socket = if server.is_ipv4() {
        Some(sockets.v4)
    } else {
        sockets.v6
    };
    let socket = UdpSocket::from_std(socket.ok_or_else(missing)?.into())?;
    socket.connect((server, dns::PORT)).await?;
    socket.send(&dns::query(name)).await?;
    let mut answer = [0; 512];
    let received = timeout(ANSWER_LIMIT, socket.recv(&mut answer)).await;
    let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
    let length = received.unwrap_or(Err(timed_out))?;
    dns::check_answer(&answer[..length]).map_err(std::io::Error::other)
}

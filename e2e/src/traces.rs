//! Everything a pod can leave on a machine, for comparison before and after: what was refused, undone or removed leaves
//! things as they were.
//!
//! Of what the whole machine shares, only what is this node's counts: other nodes may be at work beside it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orlop_sys::mount::MountTable;

use crate::ground::names_in;
use crate::kubelet::container_config;
use crate::leftovers::children;
use crate::programs::run_words;
use crate::{Kubelet, Node, Scratch};

/// How long what is done in the background may take: shims end after their containers, folders are emptied later.
const PATIENCE: Duration = Duration::from_secs(30);

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Rows that may differ: numbers that are never used twice, and what has happened, which is kept for a while.
const TABLES_THAT_GROW: [&str; 3] = ["counters", "outbox", "sqlite_sequence"];

/// Where pods' network namespaces are pinned.
const NETWORKS: &str = "/run/netns";

/// What is there at one moment, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// What is there on a node that has had a pod with a container, when nothing is left to be collected: folders that
    /// all pods share are made with the first one.
    ///
    /// # Errors
    /// There can be no pod.
    pub fn of_used(node: &Node, kubelet: &Kubelet) -> Result<Self> {
        kubelet.pull(node.image())?;
        let config = kubelet.pod_config("first");
        let pod = kubelet.run_pod(&config)?;
        let container = container_config("first", node.image(), "true");
        kubelet.run(&pod, &container, &config)?;
        kubelet.take_away(&pod)?;
        Self::of_collected(node)
    }

    /// What is there when nothing is left to be collected.
    ///
    /// # Errors
    /// It cannot be collected, or something cannot be read.
    pub fn of_collected(node: &Node) -> Result<Self> {
        node.caller().orlop(&["gc", "run"])?.success()?;
        Self::of(node)
    }

    /// Mounts, network namespaces, links, addresses, cgroups, processes, files, and rows of the database.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn of(node: &Node) -> Result<Self> {
        let scratch = node.scratch();
        let engine = node.engine()?;
        let mut lines: BTreeSet<String> = node.leftovers()?.into_iter().collect();
        lines.extend(pins(scratch)?);
        for group in own_cgroups(scratch) {
            lines.extend(cgroups(&group));
        }
        lines.extend(children(engine.pid())?);
        for folder in [engine.root(), &scratch.state()] {
            lines.extend(files(folder));
        }
        lines.extend(rows(&engine.root().join("meta.db"))?);
        Ok(Self(lines))
    }

    /// Waits until the node is as it was then.
    ///
    /// # Errors
    /// It does not become so; the message says what came and what went.
    pub fn settle(&self, node: &Node) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Self::of(node)?;
            let came: Vec<&String> = now.0.difference(&self.0).collect();
            let went = self.0.difference(&now.0);
            // The pin of another node's pod that was being made or removed looked like ours, and has gone with its pod.
            let went: Vec<&String> = went.filter(|line| !line.starts_with(NETWORKS)).collect();
            if came.is_empty() && went.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "it is not as before: came {came:#?}, went {went:#?}"
            );
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// Network namespaces of pods. A pod's other mounts tell whose it is; of one without any it is not known, and it counts.
fn pins(scratch: &Scratch) -> Result<Vec<String>> {
    let table = MountTable::read().context("cannot read the mount table")?;
    let is_own =
        |path: &Path| path.starts_with(scratch.state()) || path.starts_with(scratch.path());
    let is_others = |id: &str| {
        table.iter().any(|mount| {
            let path = &mount.mountpoint;
            !path.starts_with(NETWORKS)
                && !is_own(path)
                && path.iter().any(|part| part.to_str() == Some(id))
        })
    };
    let names = names_in(Path::new(NETWORKS)).into_iter();
    let pods = names.filter(|name| {
        let id = name.strip_prefix("orlop-");
        id.is_some_and(|id| id.len() == 64 && !is_others(id))
    });
    Ok(pods.map(|name| format!("{NETWORKS}/{name}")).collect())
}

/// The groups above the pods of this folder's kubelets, one in each hierarchy.
fn own_cgroups(scratch: &Scratch) -> impl Iterator<Item = PathBuf> {
    let unified = PathBuf::from("/sys/fs/cgroup");
    let names = names_in(&unified).into_iter();
    let hierarchies = names.map(|name| PathBuf::from("/sys/fs/cgroup").join(name));
    let name = scratch.name();
    std::iter::once(unified)
        .chain(hierarchies)
        .map(move |hierarchy| hierarchy.join(&name))
}

/// Groups below `group` with their processes.
fn cgroups(group: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let folders = names_in(group).into_iter().map(|name| group.join(name));
    for folder in folders.filter(|path| path.is_dir()) {
        lines.push(format!("cgroup {}", folder.display()));
        let processes = std::fs::read_to_string(folder.join("cgroup.procs"));
        let processes = processes.unwrap_or_default();
        let lives = processes
            .lines()
            .map(|pid| format!("process {pid} in {}", folder.display()));
        lines.extend(lives);
        lines.extend(cgroups(&folder));
    }
    lines
}

/// Files below `folder` on the same file system. The database's own come and go.
fn files(folder: &Path) -> Vec<String> {
    let device = |path: &Path| path.symlink_metadata().map(|found| found.dev()).ok();
    let mut lines = Vec::new();
    for path in names_in(folder).into_iter().map(|name| folder.join(name)) {
        let is_database = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("meta.db"));
        if is_database {
            continue;
        }
        lines.push(format!("file {}", path.display()));
        let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
        if is_folder && device(&path) == device(folder) {
            lines.extend(files(&path));
        }
    }
    lines
}

fn rows(database: &Path) -> Result<Vec<String>> {
    let database = database.display().to_string();
    let dump = run_words(&["sqlite3", "-readonly", &database, ".timeout 5000", ".dump"])?;
    let is_kept = |line: &&str| {
        line.strip_prefix("INSERT INTO ").is_some_and(|row| {
            let table = row.split([' ', '(']).next().unwrap_or_default();
            !TABLES_THAT_GROW.contains(&table.trim_matches('"'))
        })
    };
    Ok(dump.lines().filter(is_kept).map(lasting).collect())
}

/// When a pod was last written is its last column, and moves with every container that comes and goes.
fn lasting(row: &str) -> String {
    let written_at = row.rsplit_once(',');
    let is_pod = row.starts_with("INSERT INTO sandboxes ");
    let kept = written_at.filter(|_| is_pod).map(|(kept, _)| kept);
    kept.unwrap_or(row).to_owned()
}

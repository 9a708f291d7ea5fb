//! Loads of pods for suites that kill the daemon under them: lanes that make and remove their own, and a crowd that
//! pulls at one pod from all sides.
//!
//! Ordering: whoever kills tells [`Epoch`] before and after, so that a call that fails knows whether it may.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tonic::{Code, Status};

use crate::kubelet::container_config;
use crate::workload::Numbers;
use crate::{Kubelet, Node};

/// How long a daemon may take to come back and to settle what its predecessor left.
const PATIENCE: Duration = Duration::from_secs(60);

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

const SLEEPING: &str = "while :; do sleep 1; done";

/// How often the daemon came and went: an even number while it is there.
#[derive(Debug, Default)]
pub struct Epoch(AtomicU32);

impl Epoch {
    /// A daemon is about to be killed, or its successor is there.
    pub fn turn(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// The present one.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether one daemon has been there all the time since.
    #[must_use]
    pub fn is_unbroken_since(&self, earlier: u32) -> bool {
        earlier.is_multiple_of(2) && self.now() == earlier
    }
}

/// A kubelet that makes pods of its own, one after the other.
#[derive(Debug)]
pub struct PodLane {
    name: String,
    image: String,
    kubelet: Kubelet,
    numbers: Numbers,
    made: u32,
}

impl PodLane {
    /// A lane whose pods' names begin with `name`.
    ///
    /// # Errors
    /// The daemon was ended.
    pub fn new(node: &Node, name: &str, seed: u64) -> Result<Self> {
        Ok(Self {
            name: format!("{name}-"),
            image: node.image().to_owned(),
            kubelet: Kubelet::new(node.scratch(), node.engine()?.socket())?,
            numbers: Numbers::new(seed),
            made: 0,
        })
    }

    /// Makes a pod with containers and removes it; one that is cut off by a kill is removed all the same. Gives whether
    /// it was not cut off.
    ///
    /// # Errors
    /// A call failed although nobody was killed, or what was cut off cannot be removed.
    pub fn cycle(&mut self, epoch: &Epoch) -> Result<bool> {
        let before = epoch.now();
        self.made += 1;
        let Err(status) = self.live() else {
            return Ok(true);
        };
        ensure!(
            !epoch.is_unbroken_since(before),
            "pod {} of {}: {status}",
            self.made,
            self.name
        );
        self.sweep()?;
        Ok(false)
    }

    fn live(&mut self) -> Result<(), Status> {
        let config = self
            .kubelet
            .pod_config(&format!("{}{}", self.name, self.made));
        let pod = self.kubelet.run_pod(&config)?;
        for container in 0..=self.numbers.below(2) {
            let mut asked = container_config(&format!("c{container}"), &self.image, SLEEPING);
            if self.numbers.below(3) == 0 {
                asked.command = ["sh", "-c", "exit 3"].map(str::to_owned).to_vec();
            }
            let id = self.kubelet.run(&pod, &asked, &config)?;
            match self.numbers.below(4) {
                0 => self.kubelet.stop(&id, 0)?,
                1 => self.kubelet.remove(&id)?,
                _ => self.kubelet.container(&id).map(drop)?,
            }
        }
        self.kubelet.take_away(&pod)
    }

    /// Removes whatever is left of this lane's pods.
    fn sweep(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.take_own_away();
            match left {
                Ok(()) => return Ok(()),
                Err(status) => ensure!(
                    Instant::now() < deadline,
                    "pods of {} cannot be removed: {status}",
                    self.name
                ),
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn take_own_away(&self) -> Result<(), Status> {
        let pods = self.kubelet.pods(None)?.into_iter();
        let is_own = |name: Option<&str>| name.is_some_and(|name| name.starts_with(&self.name));
        for pod in pods.filter(|pod| is_own(pod.metadata.as_ref().map(|one| &*one.name))) {
            self.kubelet.take_away(&pod.id)?;
        }
        Ok(())
    }
}

/// One of several that pull at the same pod.
#[derive(Debug)]
pub struct Puller<'a> {
    kubelet: Kubelet,
    image: String,
    numbers: Numbers,
    shared: &'a Shared,
}

/// What all pullers know.
#[derive(Debug, Default)]
pub struct Shared {
    /// How often the daemon came and went.
    pub epoch: Epoch,
    pods: Mutex<Vec<String>>,
    containers: Mutex<Vec<String>>,
}

/// Answers that a call may get while others pull at the same pod.
const FAIR: [Code; 4] = [
    Code::NotFound,
    Code::AlreadyExists,
    Code::FailedPrecondition,
    Code::Aborted,
];

impl<'a> Puller<'a> {
    /// One more that pulls.
    ///
    /// # Errors
    /// The daemon was ended.
    pub fn new(node: &Node, shared: &'a Shared, seed: u64) -> Result<Self> {
        Ok(Self {
            kubelet: Kubelet::new(node.scratch(), node.engine()?.socket())?,
            image: node.image().to_owned(),
            numbers: Numbers::new(seed),
            shared,
        })
    }

    /// Calls at random.
    ///
    /// # Errors
    /// An answer that no order of calls explains.
    pub fn pull(&mut self, calls: u32) -> Result<()> {
        for _ in 0..calls {
            let before = self.shared.epoch.now();
            let choice = self.numbers.below(10);
            let Err(status) = self.call(choice) else {
                continue;
            };
            if self.shared.epoch.is_unbroken_since(before) && !FAIR.contains(&status.code()) {
                bail!("call {choice}: {status}");
            }
        }
        Ok(())
    }

    fn call(&mut self, choice: u64) -> Result<(), Status> {
        let config = self.kubelet.pod_config("contended");
        let pod = self.one_of(&self.shared.pods);
        let container = self.one_of(&self.shared.containers);
        match choice {
            0 | 1 => {
                let pod = self.kubelet.run_pod(&config)?;
                keep(&self.shared.pods, pod);
            }
            2 | 3 => {
                let name = format!("c{}", self.numbers.below(2));
                let asked = container_config(&name, &self.image, SLEEPING);
                let made = self.kubelet.create(&pod, &asked, &config)?;
                keep(&self.shared.containers, made);
            }
            4 => self.kubelet.start(&container)?,
            5 => self.kubelet.stop(&container, 0)?,
            6 => self.kubelet.remove(&container)?,
            7 => self.kubelet.stop_pod(&pod)?,
            8 => self.kubelet.remove_pod(&pod)?,
            _ => {
                self.kubelet.pods(None)?;
                self.kubelet.containers(None)?;
                self.kubelet.pod(&pod)?;
            }
        }
        Ok(())
    }

    /// One of the latest ids, or one that nobody has.
    fn one_of(&mut self, ids: &Mutex<Vec<String>>) -> String {
        let ids = ids.lock().map(|ids| ids.clone()).unwrap_or_default();
        let latest = ids.len().saturating_sub(3);
        let index = latest + usize::try_from(self.numbers.below(3)).unwrap_or(0);
        ids.get(index).cloned().unwrap_or_else(|| "0".repeat(64))
    }
}

fn keep(ids: &Mutex<Vec<String>>, id: String) {
    if let Ok(mut ids) = ids.lock() {
        ids.push(id);
    }
}

/// Removes every pod there is, as a kubelet without any pods to run does.
///
/// # Errors
/// One cannot be removed.
pub fn take_all_away(kubelet: &Kubelet) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pods = kubelet.pods(None).context("cannot list pods")?;
        if pods.is_empty() {
            return Ok(());
        }
        for pod in pods {
            let removed = kubelet.take_away(&pod.id);
            removed.with_context(|| format!("cannot remove pod {}", pod.id))?;
        }
        ensure!(Instant::now() < deadline, "there are always more pods");
    }
}

//! A random load whose acknowledgements are remembered, for suites that kill what serves it.
//!
//! Ordering: a subject whose outcome is not known has no entry, so that the look afterwards asks nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::{Answer, Caller};

/// What the command line says when nobody listens.
const UNREACHABLE: &str = "cannot reach the daemon";

/// The exit code of the command line for what does not exist.
const ABSENT: u32 = 3;

/// Where our command line runs: here, or in a guest.
pub trait Commands {
    /// Runs the command line, whatever comes of it.
    ///
    /// # Errors
    /// There is no answer, and nobody knows what came of it.
    fn orlop(&self, arguments: &[&str]) -> Result<Answer>;

    /// What a command that went well says as JSON.
    ///
    /// # Errors
    /// It fails, or says no JSON.
    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["--output", "json"], arguments].concat();
        let text = self.orlop(&arguments)?.success()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }
}

impl Commands for Caller {
    fn orlop(&self, arguments: &[&str]) -> Result<Answer> {
        Self::orlop(self, arguments)
    }
}

/// A xorshift generator: the same load for the same seed.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Starts a row of numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number from 0 and below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let index = self.below(all.len().max(1) as u64);
        all.get(usize::try_from(index).ok()?)
    }
}

/// What was acknowledged. Without an entry nobody knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Known {
    /// Whether an image is there.
    images: BTreeMap<String, bool>,
    /// Whether a container is there.
    containers: BTreeMap<String, bool>,
    /// Containers whose process was said to run.
    running: BTreeSet<String>,
}

/// One caller's share of the load. No two lanes share a name, so each knows what became of its own.
#[derive(Debug, Clone)]
pub struct Lane {
    images: Vec<String>,
    containers: Vec<String>,
    network: &'static str,
    known: Known,
}

#[derive(Debug, Clone)]
enum Operation {
    Pull(String),
    Untag(String),
    Run(String, String),
    Remove(String),
    Collect,
}

/// How the daemon went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It was killed; containers go on.
    Daemon,
    /// The machine lost its power.
    Power,
}

impl Lane {
    /// A lane that pulls and removes `images`, and runs `containers` of the first of them in `network`.
    #[must_use]
    pub fn new(images: &[&str], containers: &[&str], network: &'static str) -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            images: owned(images),
            containers: owned(containers),
            network,
            known: Known::default(),
        }
    }

    /// Works until nobody answers, or `operations` are done; gives how many were acknowledged.
    pub fn work(
        &mut self,
        commands: &impl Commands,
        numbers: &mut Numbers,
        operations: u32,
    ) -> Result<u32> {
        let mut acknowledged = 0;
        for _ in 0..operations {
            let Some(operation) = self.pick(numbers) else {
                break;
            };
            match self.perform(&operation, commands)? {
                Some(true) => acknowledged += 1,
                Some(false) => {}
                None => break,
            }
        }
        Ok(acknowledged)
    }

    fn pick(&self, numbers: &mut Numbers) -> Option<Operation> {
        let image = numbers.one_of(&self.images)?.clone();
        let container = numbers.one_of(&self.containers).cloned();
        let choice = numbers.below(10);
        Some(match (container, choice) {
            (_, 9) => Operation::Collect,
            (None, 0..6) | (Some(_), 0) => Operation::Pull(image),
            (None, _) | (Some(_), 1) => Operation::Untag(image),
            (Some(name), 2..6) => Operation::Run(name, self.images.first()?.clone()),
            (Some(name), _) => Operation::Remove(name),
        })
    }

    /// Forgets what the operation may change, performs it, and notes what was acknowledged. Gives whether it was, or
    /// nothing if nobody was there to ask.
    fn perform(&mut self, operation: &Operation, commands: &impl Commands) -> Result<Option<bool>> {
        let before = self.known.clone();
        let words = self.words(operation);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.known.forget(operation);
        let Ok(answer) = commands.orlop(&words) else {
            return Ok(None);
        };
        if answer.stderr.contains(UNREACHABLE) {
            self.known = before;
            return Ok(None);
        }
        self.known.note(operation, &answer, &before)?;
        Ok(Some(answer.code == 0))
    }

    fn words(&self, operation: &Operation) -> Vec<String> {
        let words: &[&str] = match operation {
            Operation::Pull(image) => &["pull", image],
            Operation::Untag(image) => &["rmi", image],
            Operation::Run(name, image) => {
                let network = self.network;
                let start = ["run", "-d", "--net", network, "--name", name, image];
                &[&start[..], &["sleep", "1000"]].concat()
            }
            Operation::Remove(name) => &["rm", "--force", name],
            Operation::Collect => &["gc", "run"],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }

    /// Compares what was acknowledged with what is there, and takes over what is there.
    ///
    /// # Errors
    /// It is not the same.
    pub fn check(&mut self, commands: &impl Commands, loss: Loss) -> Result<()> {
        let images = listed(commands, &["images"], "name")?;
        let containers = listed(commands, &["ps", "-a"], "id")?;
        check_there(&self.known.images, &images)?;
        check_there(&self.known.containers, &containers)?;
        for name in self
            .containers
            .iter()
            .filter(|name| containers.contains(*name))
        {
            let inspection = commands.json(&["inspect", name])?;
            let state = &inspection["task"]["state"];
            let is_running = self.known.running.contains(name);
            ensure!(
                loss == Loss::Power || !is_running || state == "running",
                "{name} was said to run: {inspection:#}"
            );
        }
        let mine = |all: &[String], there: &BTreeSet<String>| -> BTreeMap<String, bool> {
            let entries = all.iter().map(|name| (name.clone(), there.contains(name)));
            entries.collect()
        };
        self.known.images = mine(&self.images, &images);
        self.known.containers = mine(&self.containers, &containers);
        if loss == Loss::Power {
            self.known.running.clear();
        }
        Ok(())
    }

    /// Whether this image was acknowledged, or seen, to be there.
    #[must_use]
    pub fn has_image(&self, name: &str) -> bool {
        self.known.images.get(name) == Some(&true)
    }
}

impl Known {
    fn forget(&mut self, operation: &Operation) {
        match operation {
            Operation::Pull(image) | Operation::Untag(image) => {
                self.images.remove(image);
            }
            Operation::Run(name, image) => {
                self.containers.remove(name);
                self.running.remove(name);
                // It fetches the image when that is missing.
                self.images.remove(image);
            }
            Operation::Remove(name) => {
                self.containers.remove(name);
                self.running.remove(name);
            }
            Operation::Collect => {}
        }
    }

    fn note(&mut self, operation: &Operation, answer: &Answer, before: &Self) -> Result<()> {
        let done = answer.code == 0;
        let is_gone = done || answer.code == ABSENT;
        match operation {
            Operation::Pull(image) if done => drop(self.images.insert(image.clone(), true)),
            Operation::Untag(image) if is_gone => drop(self.images.insert(image.clone(), false)),
            Operation::Run(name, _) if before.containers.get(name) == Some(&true) => {
                ensure!(!done, "{name} was there already");
                // Refused or cut off: the one that has the name keeps it.
                self.containers.insert(name.clone(), true);
                self.running.extend(before.running.get(name).cloned());
            }
            Operation::Run(name, image) if done => {
                self.containers.insert(name.clone(), true);
                self.running.insert(name.clone());
                self.images.insert(image.clone(), true);
            }
            Operation::Remove(name) if is_gone => drop(self.containers.insert(name.clone(), false)),
            Operation::Pull(_)
            | Operation::Untag(_)
            | Operation::Run(..)
            | Operation::Remove(_)
            | Operation::Collect => {}
        }
        Ok(())
    }
}

fn check_there(known: &BTreeMap<String, bool>, there: &BTreeSet<String>) -> Result<()> {
    for (name, acknowledged) in known {
        let is = there.contains(name);
        ensure!(
            is == *acknowledged,
            "{name}: there {is}, acknowledged {acknowledged}"
        );
    }
    Ok(())
}

/// One field of every record of a list.
fn listed(commands: &impl Commands, arguments: &[&str], field: &str) -> Result<BTreeSet<String>> {
    let records = commands.json(arguments)?;
    let records = records.as_array().context("a list is an array")?;
    let names = records.iter().filter_map(|record| record[field].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Removes every container and every image: then nothing is held.
///
/// # Errors
/// One cannot be removed.
pub fn remove_everything(commands: &impl Commands) -> Result<()> {
    for name in listed(commands, &["ps", "-a"], "id")? {
        commands.orlop(&["rm", "--force", &name])?.success()?;
    }
    for name in listed(commands, &["images"], "name")? {
        commands.orlop(&["rmi", &name])?.success()?;
    }
    Ok(())
}

//! Calls under way: which name is taken by a creation that has not written its record yet, and who is changing a member.
//!
//! Only what a daemon that dies takes with it is kept here. Ordering: one change of a member at a time; creations of
//! different names never wait for each other.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use orlop_types::{ContainerId, SandboxId};

use super::MemberError;

/// A name within a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct MemberName {
    pub(super) pod: SandboxId,
    pub(super) name: String,
    pub(super) attempt: u32,
}

/// What a creation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CreateStep {
    HostPaths,
    Record,
}

impl fmt::Display for CreateStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HostPaths => "being made (looking up what it mounts)",
            Self::Record => "being made (its root file system and record)",
        })
    }
}

/// All calls under way.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    names: Mutex<HashMap<MemberName, (ContainerId, CreateStep)>>,
    changes: Mutex<HashMap<ContainerId, Weak<Change>>>,
    /// Containers of one pod share a shim: see [`Calls::gate`].
    gates: Mutex<HashMap<String, Weak<tokio::sync::RwLock<()>>>>,
    /// Held from the reading of a member's record to its writing: callers that stop a member take no turn.
    records: Mutex<()>,
}

/// The one who may change a member holds its lock; others can read what for.
#[derive(Debug, Default)]
pub(super) struct Change {
    lock: tokio::sync::Mutex<()>,
    purpose: Mutex<&'static str>,
}

/// A name taken until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    calls: &'a Calls,
    name: MemberName,
}

impl Calls {
    /// Takes a name for `id`.
    pub(super) fn reserve(
        &self,
        name: MemberName,
        id: &ContainerId,
    ) -> Result<Reservation<'_>, MemberError> {
        let mut names = lock(&self.names);
        if let Some((holder, step)) = names.get(&name) {
            return Err(MemberError::NameTaken {
                name: name.name,
                attempt: name.attempt,
                container: holder.to_string(),
                step: step.to_string(),
            });
        }
        names.insert(name.clone(), (id.clone(), CreateStep::HostPaths));
        Ok(Reservation { calls: self, name })
    }

    /// Keeps a pod's shim from being told to end by the last container it has while it is being given the next one: whoever
    /// gives it one holds the gate for reading, whoever tells it to end for writing.
    pub(crate) fn gate(&self, group: &str) -> Arc<tokio::sync::RwLock<()>> {
        let mut gates = lock(&self.gates);
        gates.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = gates.get(group).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::default();
        gates.insert(group.to_owned(), Arc::downgrade(&gate));
        gate
    }

    /// To be held from the reading of a member's record to its writing.
    pub(super) fn record(&self) -> MutexGuard<'_, ()> {
        lock(&self.records)
    }

    /// What to lock before a member is changed.
    pub(super) fn change(&self, id: &ContainerId) -> Arc<Change> {
        let mut changes = lock(&self.changes);
        changes.retain(|_, change| change.strong_count() > 0);
        if let Some(change) = changes.get(id).and_then(Weak::upgrade) {
            return change;
        }
        let change = Arc::new(Change::default());
        changes.insert(id.clone(), Arc::downgrade(&change));
        change
    }
}

impl Change {
    /// Waits for its turn.
    pub(super) async fn wait(&self, purpose: &'static str) -> tokio::sync::MutexGuard<'_, ()> {
        let guard = self.lock.lock().await;
        *lock(&self.purpose) = purpose;
        guard
    }

    /// Takes its turn at once, or tells what is under way.
    pub(super) fn at_once(
        &self,
        purpose: &'static str,
    ) -> Result<tokio::sync::MutexGuard<'_, ()>, &'static str> {
        match self.lock.try_lock() {
            Ok(guard) => {
                *lock(&self.purpose) = purpose;
                Ok(guard)
            }
            Err(_taken) => Err(*lock(&self.purpose)),
        }
    }
}

impl Reservation<'_> {
    pub(super) fn at(&self, step: CreateStep) {
        if let Some(held) = lock(&self.calls.names).get_mut(&self.name) {
            held.1 = step;
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        lock(&self.calls.names).remove(&self.name);
    }
}

/// A panic while a map was locked cannot have left it half-changed: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str, attempt: u32) -> MemberName {
        MemberName {
            pod: SandboxId::new("p").unwrap(),
            name: name.into(),
            attempt,
        }
    }

    #[test]
    fn a_name_is_taken_until_its_creation_ends_and_the_step_is_told() {
        let calls = Calls::default();
        let (first, second) = (
            ContainerId::new("a").unwrap(),
            ContainerId::new("b").unwrap(),
        );
        let held = calls.reserve(name("web", 0), &first).unwrap();
        held.at(CreateStep::Record);
        let error = calls.reserve(name("web", 0), &second).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("container a is being made (its root file"),
            "{text}"
        );
        assert!(calls.reserve(name("web", 1), &second).is_ok());
        drop(held);
        assert!(calls.reserve(name("web", 0), &second).is_ok());
    }

    #[tokio::test]
    async fn a_change_excludes_others_and_says_what_it_is() {
        let calls = Calls::default();
        let id = ContainerId::new("a").unwrap();
        let change = calls.change(&id);
        let guard = change.at_once("being started").unwrap();
        let same = calls.change(&id);
        assert_eq!(same.at_once("being removed").unwrap_err(), "being started");
        drop(guard);
        assert!(same.at_once("being removed").is_ok());
    }
}

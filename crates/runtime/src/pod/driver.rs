//! Executes a pod's machine: one operation on one pod, from its event to its last effect.
//!
//! Crash: the record in the database is always at least as far as the effects. Cancellation: the driver runs in a task of
//! its own; a caller that goes away does not stop it. Ordering: whoever has a driver holds the pod alone.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use orlop_base::blocking;
use orlop_base::telemetry::spans;
use orlop_base::traced;
use orlop_meta::{Event, Sandbox};
use orlop_types::ErrorKind;
use tracing::Instrument;

use super::error::PodError;
use super::init::Leash;
use super::machine::{PodEffect, PodEvent, PodPhase, PodStep};
use super::record::{EXTENSION, PodKey, PodRecord};
use super::table::Cell;
use super::volumes::Volumes;
use super::{files, namespaces, network};
use crate::core::Core;
use crate::runtime::Runtime;

pub(super) struct Driver {
    core: Arc<Core>,
    key: PodKey,
    cell: Arc<Cell>,
    record: PodRecord,
    /// Whether the record's row exists.
    stored: bool,
    /// Holds the first process until it is on record.
    leash: Option<Leash>,
    /// The phase that subscribers know of.
    told: PodPhase,
    /// Why the creation failed that is being undone.
    cause: Option<PodError>,
    /// What else went wrong since the operation began, oldest first.
    failures: Vec<PodError>,
}

impl Driver {
    /// A driver of a pod that is about to be made.
    pub(super) fn new(core: Arc<Core>, key: PodKey, cell: Arc<Cell>, record: PodRecord) -> Self {
        Self {
            core,
            key,
            cell,
            told: record.state.phase,
            record,
            stored: false,
            leash: None,
            cause: None,
            failures: Vec::new(),
        }
    }

    /// A driver of a pod that is on record.
    pub(super) async fn load(
        core: Arc<Core>,
        key: PodKey,
        cell: Arc<Cell>,
    ) -> Result<Self, PodError> {
        let record = read(&core, &key).await?;
        Ok(Self {
            stored: true,
            ..Self::new(core, key, cell, record)
        })
    }

    pub(super) const fn record(&self) -> &PodRecord {
        &self.record
    }

    /// Changes the record and writes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) async fn change(
        &mut self,
        change: impl FnOnce(&mut PodRecord),
    ) -> Result<(), PodError> {
        change(&mut self.record);
        self.persist().await
    }

    /// Takes an event and executes what follows from it.
    ///
    /// # Errors
    /// What went wrong; all of it, if it is more than one thing.
    pub(super) async fn take(&mut self, event: PodEvent) -> Result<(), PodError> {
        let effects = self.record.state.step(event, self.core.now());
        self.execute(effects).await
    }

    /// Executes effects in order; outcomes may add further ones.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) async fn execute(&mut self, effects: Vec<PodEffect>) -> Result<(), PodError> {
        let mut queue = VecDeque::from(effects);
        self.cell.show(self.record.state.phase);
        while let Some(effect) = queue.pop_front() {
            match effect {
                PodEffect::Persist => {
                    let Err(error) = self.persist().await else {
                        continue;
                    };
                    // A step that could not be announced is not done: it failed. What is being undone was announced
                    // before, and goes on.
                    if let Some(PodEffect::Do(step)) = queue.front().copied() {
                        queue.pop_front();
                        queue.extend(self.failed(step, error));
                    } else {
                        self.failures.push(error);
                    }
                }
                PodEffect::Do(step) => {
                    let pod = &self.key.pod;
                    let span = traced!("pod step", otel.name = %step, %pod);
                    let more = match self.perform(step).instrument(span.clone()).await {
                        Ok(()) => self.next(PodEvent::Done(step)),
                        Err(error) => {
                            spans::failed(&span, error.code(), &error);
                            self.failed(step, error)
                        }
                    };
                    queue.extend(more);
                }
                PodEffect::Undo(step) => self.undo(step).await,
                PodEffect::StopMembers => self.stop_members().await,
                PodEffect::RemoveMembers => self.remove_members().await,
                PodEffect::ReleaseVolumes => self.release_volumes().await,
                PodEffect::Conclude if self.failures.is_empty() => {
                    let more = self.next(PodEvent::Stopped);
                    queue.extend(more);
                }
                // What was never on record has had no effect.
                PodEffect::Forget if self.failures.is_empty() || !self.stored => {
                    self.forget().await;
                }
                PodEffect::Conclude | PodEffect::Forget => {}
            }
            self.cell.show(self.record.state.phase);
        }
        self.outcome()
    }

    fn outcome(&mut self) -> Result<(), PodError> {
        let failures = std::mem::take(&mut self.failures);
        let mut failures = self.cause.take().into_iter().chain(failures);
        let Some(first) = failures.next() else {
            return Ok(());
        };
        let others: Vec<_> = failures.map(|error| orlop_types::chain(&error)).collect();
        if others.is_empty() {
            return Err(first);
        }
        Err(PodError::Several {
            pod: self.key.pod.to_string(),
            others: others.join("; "),
            first: Box::new(first),
        })
    }

    fn next(&mut self, event: PodEvent) -> Vec<PodEffect> {
        self.record.state.step(event, self.core.now())
    }

    fn failed(&mut self, step: PodStep, error: PodError) -> Vec<PodEffect> {
        let text = orlop_types::chain(&error);
        self.cause = Some(error);
        self.next(PodEvent::Failed { step, error: text })
    }

    async fn perform(&mut self, step: PodStep) -> Result<(), PodError> {
        let (core, key, record) = self.parts();
        match step {
            PodStep::Files => {
                let job = blocking::run("write a pod's files", move || {
                    files::create(&core.pods.settings, &key, &record.config)
                });
                self.in_time(step, job).await?
            }
            PodStep::Namespaces => {
                let limit = self.core.settings.step_limit;
                let job = blocking::run("make a pod's namespaces", move || {
                    namespaces::create(&core.pods.settings, &key, &record, limit)
                });
                let started = self.in_time(step, job).await??;
                (self.record.init, self.leash) =
                    started.map(|started| (started.init, started.leash)).unzip();
                Ok(())
            }
            PodStep::Network => {
                let owner = Arc::clone(&core);
                let job = async move {
                    let _attaching = owner.pods.attaching.read().await;
                    let attach = move || {
                        let path = record.places.network.clone().unwrap_or_default();
                        let attached =
                            network::attach(&core.settings.network, &key, &record, &path)?;
                        namespaces::set_up_interfaces(&core.pods.settings, &key, &record)?;
                        Ok(attached)
                    };
                    owner.pods.lane.run_long("attach a pod", attach).await
                };
                let attached = self.in_time(step, job).await??;
                self.record.addresses = attached.addresses;
                self.record.network = Some(attached.result);
                Ok(())
            }
        }
    }

    /// Gives a step its time. One that is late has failed, but it is let end before it is undone: what is still being made
    /// cannot be taken away. A job that never ends is not waited for longer than as much time again.
    async fn in_time<T>(
        &self,
        step: PodStep,
        job: impl Future<Output = Result<T, blocking::BlockingError>>,
    ) -> Result<T, PodError> {
        let limit = self.core.settings.step_limit;
        let mut job = std::pin::pin!(job);
        if let Ok(done) = tokio::time::timeout(limit, &mut job).await {
            return done.map_err(PodError::Daemon);
        }
        if tokio::time::timeout(limit, job).await.is_err() {
            tracing::error!(pod = %self.key.pod, %step, "a step of a pod hangs; it is undone while it may still go on");
        }
        Err(PodError::Deadline {
            pod: self.key.pod.to_string(),
            step,
            limit,
        })
    }

    async fn undo(&mut self, step: PodStep) {
        let (core, key, record) = self.parts();
        let failures = match step {
            PodStep::Files => {
                let undone = blocking::run("remove a pod's files", move || {
                    files::remove(&core.pods.settings, &key)
                });
                listed(undone.await)
            }
            PodStep::Namespaces => {
                let undone = blocking::run("remove a pod's namespaces", move || {
                    namespaces::remove(&key, &record)
                });
                let failures = undone
                    .await
                    .unwrap_or_else(|error| vec![PodError::Daemon(error)]);
                self.record.init = self.record.init.filter(|_| !failures.is_empty());
                failures
            }
            PodStep::Network => {
                let owner = Arc::clone(&core);
                let release = move || network::release(&core.settings.network, &key, &record);
                listed(owner.pods.lane.run_long("detach a pod", release).await)
            }
        };
        for error in &failures {
            tracing::warn!(namespace = %self.key.namespace, pod = %self.key.pod, %step, error = orlop_types::chain(error), "cannot undo a step of a pod");
        }
        self.failures.extend(failures);
    }

    async fn stop_members(&mut self) {
        let runtime = self.runtime();
        let stopped = runtime
            .stop_members(&self.key.namespace, &self.key.pod)
            .await;
        self.keep_members("stop", stopped);
    }

    async fn remove_members(&mut self) {
        let runtime = self.runtime();
        let removed = runtime
            .remove_members(&self.key.namespace, &self.key.pod)
            .await;
        self.keep_members("remove", removed);
    }

    async fn release_volumes(&mut self) {
        let (core, key, _) = self.parts();
        let released = blocking::run("release a pod's volumes", move || {
            let volumes = Volumes::of(&core, &key.namespace, &key.pod);
            let released = volumes.map_or(Ok(()), |volumes| volumes.release_all());
            released.map_err(|source| PodError::Volumes {
                pod: key.pod.to_string(),
                source: Box::new(source),
            })
        });
        self.failures.extend(listed(released.await));
    }

    fn keep_members(&mut self, attempt: &'static str, outcome: Result<(), crate::Error>) {
        // A container that went meanwhile is as good as stopped and removed.
        let failure = outcome
            .err()
            .filter(|source| source.kind() != ErrorKind::NotFound);
        let failure = failure.map(|source| PodError::Members {
            pod: self.key.pod.to_string(),
            attempt,
            source: Box::new(source),
        });
        self.failures.extend(failure);
    }

    async fn persist(&mut self) -> Result<(), PodError> {
        let (core, key, record) = self.parts();
        let stored = self.stored;
        let runtime = if self.record.config.handler.is_empty() {
            self.core.settings.default_runtime.clone()
        } else {
            self.record.config.handler.clone()
        };
        let row = record.row(&key, runtime)?;
        let phase = record.state.phase;
        let event = self.announcement(phase);
        let written = blocking::run("write a pod", move || {
            let view = core.db.namespace(&key.namespace);
            let (rows, fields) = (view.sandboxes(), [format!("extensions.{EXTENSION}")]);
            let written = match (stored, phase.is_awaited()) {
                (false, true) => rows.create(&row),
                (false, false) => rows.create_relaxed(&row),
                (true, true) => rows.update_and_tell(&row, &fields, event.as_ref()),
                (true, false) => rows.update_and_tell_relaxed(&row, &fields, event.as_ref()),
            };
            written.map(drop)
        });
        self.written(written.await)?;
        self.stored = true;
        self.told = phase;
        let released = self.leash.take().map_or(Ok(()), Leash::release);
        released.map_err(|error| PodError::Init {
            pod: self.key.pod.to_string(),
            fault: format!("has ended before it was on record: {error}"),
        })
    }

    /// What subscribers are told with a record in `phase`, if that is new to them.
    fn announcement(&self, phase: PodPhase) -> Option<Event> {
        let id = self.key.pod.clone();
        match phase {
            _ if phase == self.told => None,
            PodPhase::Ready => Some(Event::SandboxStart { id }),
            PodPhase::NotReady => {
                let since_epoch = self.core.now().duration_since(UNIX_EPOCH);
                let nanos = since_epoch.unwrap_or_default().as_nanos();
                Some(Event::SandboxExit {
                    id,
                    exit_status: 0,
                    exited_at: i64::try_from(nanos).unwrap_or(i64::MAX),
                })
            }
            PodPhase::Creating(_) | PodPhase::Stopping | PodPhase::Removing => None,
        }
    }

    async fn forget(&mut self) {
        if self.stored {
            let (core, key, _) = self.parts();
            let deleted = blocking::run("delete a pod", move || {
                let view = core.db.namespace(&key.namespace);
                match view.sandboxes().delete(&key.pod) {
                    // Another client was faster.
                    Err(error) if error.kind() == orlop_meta::ErrorKind::NotFound => Ok(()),
                    outcome => outcome,
                }
            });
            if let Err(error) = self.written(deleted.await) {
                self.failures.push(error);
                return;
            }
        }
        self.core.pods.release(&self.key);
    }

    fn written(
        &self,
        outcome: Result<Result<(), orlop_meta::Error>, blocking::BlockingError>,
    ) -> Result<(), PodError> {
        let outcome = outcome.map_err(PodError::Daemon)?;
        outcome.map_err(|source| PodError::Record {
            pod: self.key.pod.to_string(),
            attempt: "written",
            source,
        })
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            core: Arc::clone(&self.core),
        }
    }

    fn parts(&self) -> (Arc<Core>, PodKey, PodRecord) {
        (
            Arc::clone(&self.core),
            self.key.clone(),
            self.record.clone(),
        )
    }
}

/// Reads a pod's record.
pub(super) async fn read(core: &Arc<Core>, key: &PodKey) -> Result<PodRecord, PodError> {
    let (db, wanted) = (core.db.clone(), key.clone());
    let found = blocking::run("read a pod", move || {
        db.namespace(&wanted.namespace)
            .sandboxes()
            .find(&wanted.pod)
    });
    let unknown = || PodError::Unknown {
        pod: key.pod.to_string(),
    };
    let row: Sandbox = match found.await.map_err(PodError::Daemon)? {
        Ok(row) => row,
        Err(error) if error.kind() == orlop_meta::ErrorKind::NotFound => return Err(unknown()),
        Err(source) => {
            return Err(PodError::Record {
                pod: key.pod.to_string(),
                attempt: "read",
                source,
            });
        }
    };
    PodRecord::read(&row).ok_or_else(unknown)?
}

fn listed(outcome: Result<Result<(), PodError>, blocking::BlockingError>) -> Vec<PodError> {
    let outcome = outcome
        .map_err(PodError::Daemon)
        .and_then(|outcome| outcome);
    outcome.err().into_iter().collect()
}

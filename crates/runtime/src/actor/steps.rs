//! Doing and undoing the steps of a task's creation.

use std::sync::Arc;
use std::time::Duration;

use orlop_api::containerd::task::v3::CreateTaskRequest;
use orlop_api::containerd::v1::types::Status as Wire;
use orlop_base::blocking;
use orlop_base::task::TaskKind;
use orlop_sys::mount::preflight::{self, Fault};
use orlop_ttrpc::Code;
use orlop_ttrpc::client::ClientError;
use orlop_types::exit::ExitCause;

use super::{Actor, Message};
use crate::bundle::Bundle;
use crate::machine::{Event, Exit, Step};
use crate::shim::{Bootstrap, Ended, Launch, Shim, cleanup, connect, launch};
use crate::{Error, exit, network};

/// Waits for one process to end; holds nothing.
const WAITER: TaskKind = TaskKind::dropped("exit waiter");

/// How long a shim that was told to end may take before the bundle goes.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// How long a process may take to end that was killed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// SIGKILL, the same on every architecture.
const KILL: u32 = 9;

impl Actor {
    pub(super) async fn perform(&mut self, step: Step) -> Result<Option<u32>, Error> {
        match step {
            Step::Bundle => {
                let (bundle, spec) = (self.bundle.clone(), std::mem::take(&mut self.spec));
                let networked = self.record.task.networked;
                let (rootfs, mapping) = (
                    self.record.plan.rootfs.clone(),
                    self.record.plan.mapping.clone(),
                );
                let create = move || match mapping {
                    Some(mapping) => bundle.create_mapped(&spec, &rootfs, &mapping),
                    None => bundle.create(&spec, networked),
                };
                blocking::run("create bundle", create)
                    .await
                    .map_err(Error::Daemon)??;
                Ok(None)
            }
            Step::Network => {
                let (core, key, path) = (
                    Arc::clone(&self.core),
                    self.key.clone(),
                    self.network_namespace(),
                );
                let owner = Arc::clone(&core);
                let _attaching = owner.pods.attaching.read().await;
                let attached = blocking::run_long("attach network", move || {
                    network::attach(&core.settings.network, &key, &path)
                })
                .await;
                self.record.addresses = attached.map_err(Error::Daemon)??;
                Ok(None)
            }
            Step::Shim => {
                if !self.record.plan.group.is_empty() {
                    let gate = self.core.calls.gate(&self.record.plan.group);
                    self.joining = Some(gate.read_owned().await);
                }
                let bootstrap = launch(self.launch()).await?;
                let shim = connect(&bootstrap, &self.key.container, &self.core.tasks).await;
                // Kept even if connecting failed: the undo has to find the shim.
                self.record.bootstrap = Some(bootstrap);
                self.shim =
                    Some(shim.map_err(|source| self.shim_error("to be connected", source))?);
                Ok(None)
            }
            Step::Create => {
                let shim = self.shim()?;
                let pid = shim
                    .create(&self.create_request())
                    .await
                    .map_err(|source| self.create_error(source))?;
                self.joining = None;
                self.watch_exit();
                Ok(Some(pid))
            }
            Step::Start => {
                let shim = self.shim()?;
                shim.start("")
                    .await
                    .map_err(|source| self.shim_error("start", source))?;
                Ok(None)
            }
        }
    }

    /// Why the container was not created: if its root file system has a bad argument, that is named.
    fn create_error(&self, source: ClientError) -> Error {
        let overlays = self
            .record
            .plan
            .rootfs
            .iter()
            .filter(|mount| mount.fs_type == "overlay");
        // A shim that was killed may have mounted it already: that is no other overlay's doing.
        let own = self.bundle.path().join("rootfs");
        let own = own.canonicalize().unwrap_or(own);
        let faults: Vec<_> = overlays
            .flat_map(preflight::overlay)
            .filter(|fault| !matches!(fault, Fault::Busy { mountpoint, .. } if *mountpoint == own))
            .map(|fault| fault.to_string())
            .collect();
        if faults.is_empty() {
            return self.shim_error("create", source);
        }
        let container = self.key.container.to_string();
        Error::Rootfs {
            container,
            faults: faults.join("; "),
            source: Box::new(source),
        }
    }

    /// Best effort and idempotent; the first error is kept, the others are logged.
    pub(super) async fn undo(&mut self, step: Step) {
        self.joining = None;
        let outcome = match step {
            // Whoever undoes the rest later finds the way to it in there.
            Step::Bundle if self.undo_failed => Ok(()),
            Step::Bundle => self.undo_bundle().await,
            Step::Network => self.undo_network().await,
            Step::Shim => self.undo_shim().await,
            Step::Create | Step::Start => self.undo_create().await,
        };
        if let Err(error) = outcome {
            let why = orlop_types::chain(&error);
            tracing::warn!(namespace = %self.key.namespace, container = %self.key.container, %step, error = why, "cannot undo");
            self.undo_failed = true;
            self.failure.get_or_insert(error);
        }
    }

    async fn undo_create(&mut self) -> Result<(), Error> {
        if self.shim.as_ref().is_none_or(Shim::is_lost) {
            self.shim = self.reconnect().await;
        }
        let Some(shim) = self.shim.clone() else {
            // Nobody is left to ask: the shim's own executable kills and removes what there is.
            return if self.record.bootstrap.is_some() {
                cleanup(self.launch()).await
            } else {
                Ok(())
            };
        };
        match delete_whatever_it_does(&shim).await {
            Ok(ended) => {
                self.ended = Some(ended);
                Ok(())
            }
            Err(error) if is_refusal(&error, Code::NotFound) => Ok(()),
            Err(error) if error.is_connection_lost() => cleanup(self.launch()).await,
            Err(source) => Err(self.shim_error("delete", source)),
        }
    }

    async fn undo_shim(&mut self) -> Result<(), Error> {
        let shim = match self.shim.take() {
            Some(shim) => Some(shim),
            None if self.record.bootstrap.is_some() => self.reconnect().await,
            None => self.unnamed_shim().await,
        };
        let Some(shim) = shim.filter(|shim| !shim.is_lost()) else {
            return Ok(());
        };
        let group = &self.record.plan.group;
        let gate = (!group.is_empty()).then(|| self.core.calls.gate(group));
        // Containers that end at the same time tell it one after the other, so that the last one's word comes last.
        let alone = match &gate {
            Some(gate) => match tokio::time::timeout(SHUTDOWN_LIMIT, gate.write()).await {
                Ok(alone) => Some(alone),
                // Another container of the pod is on its way to this shim: that one's end tells it to go.
                Err(_) => return Ok(()),
            },
            None => None,
        };
        let mut stays = self.shut_down(&shim).await?;
        // A creation that an earlier daemon asked for may have come after our deletion found nothing.
        if stays && shim.state("").await.is_ok() {
            let deleted = delete_whatever_it_does(&shim).await;
            deleted.map_err(|source| self.shim_error("delete", source))?;
            stays = self.shut_down(&shim).await?;
        }
        // One that still serves other containers of its pod answers as ever, stays, and is not waited for.
        if alone.is_some() && stays {
            return Ok(());
        }
        if tokio::time::timeout(SHUTDOWN_LIMIT, shim.closed())
            .await
            .is_err()
        {
            tracing::debug!(container = %self.key.container, "the shim stays");
        }
        Ok(())
    }

    /// Tells a shim to end if it has no container, and gives whether it goes on.
    async fn shut_down(&self, shim: &Shim) -> Result<bool, Error> {
        shim.shutdown()
            .await
            .map_err(|source| self.shim_error("shut down", source))?;
        Ok(shim.shim_pid().await.is_ok())
    }

    async fn undo_network(&mut self) -> Result<(), Error> {
        let (core, key, path) = (
            Arc::clone(&self.core),
            self.key.clone(),
            self.network_namespace(),
        );
        blocking::run_long("detach network", move || {
            network::detach(&core.settings.network, &key, &path)
        })
        .await
        .map_err(Error::Daemon)?
    }

    fn network_namespace(&self) -> std::path::PathBuf {
        self.record
            .plan
            .network_namespace
            .clone()
            .unwrap_or_default()
    }

    async fn undo_bundle(&self) -> Result<(), Error> {
        let bundle = self.bundle.clone();
        blocking::run("remove bundle", move || bundle.remove())
            .await
            .map_err(Error::Daemon)?
    }

    /// How the process ended, now that its shim is gone: from the record the shim left, or from the one its executable
    /// leaves when it has ended and removed whatever still ran.
    pub(super) async fn learn_exit(&self) -> Exit {
        if let Some(exit) = read_exit_record(self.bundle.clone()).await {
            return exit;
        }
        if let Err(error) = cleanup(self.launch()).await {
            let error = orlop_types::chain(&error);
            tracing::warn!(namespace = %self.key.namespace, container = %self.key.container, error, "cannot clean up after a shim that died");
        }
        let left = read_exit_record(self.bundle.clone()).await;
        left.unwrap_or_else(|| exit::unseen(self.core.now()))
    }

    pub(super) async fn reconnect(&self) -> Option<Shim> {
        let bootstrap = self.record.bootstrap.as_ref()?;
        let shim = connect(bootstrap, &self.key.container, &self.core.tasks)
            .await
            .ok()?;
        // A socket alone proves nothing: the shim has to answer for this container.
        shim.shim_pid().await.ok().map(|_pid| shim)
    }

    /// A shim that was started and is not on record, because the daemon before died in between: it left its address in the
    /// bundle. It has no container yet, so it need not answer for one.
    async fn unnamed_shim(&self) -> Option<Shim> {
        let bundle = self.bundle.clone();
        let read = blocking::run("read shim's address", move || bundle.shim_address()).await;
        let address = match read.map_err(Error::Daemon).flatten() {
            Ok(address) => address?,
            Err(error) => {
                tracing::warn!(container = %self.key.container, error = orlop_types::chain(&error), "a shim's address cannot be read");
                return None;
            }
        };
        let bootstrap = Bootstrap::parse(&address).ok()?;
        let shim = connect(&bootstrap, &self.key.container, &self.core.tasks).await;
        shim.ok()
    }

    /// Has the end of the init process sent to this actor, however it becomes known.
    pub(super) fn watch_exit(&self) {
        let (Some(shim), Some(inbox)) = (self.shim.clone(), self.own_inbox.upgrade()) else {
            return;
        };
        let bundle = self.bundle.clone();
        let core = Arc::clone(&self.core);
        self.core.tasks.spawn(WAITER, move |_token| async move {
            let event = match shim.wait("").await {
                Ok(ended) => Event::Exited(observed(bundle, ended).await),
                Err(_lost) => Event::Recovered {
                    shim_answers: false,
                },
            };
            // Closed: the task is being deleted, or the daemon ends; the record says where to go on.
            drop(inbox.send(Message::Happened(event)).await);
            drop(core);
        });
    }

    fn create_request(&self) -> CreateTaskRequest {
        let plan = &self.record.plan;
        // What is mounted already is not for the shim to mount.
        let rootfs = plan.rootfs.iter().filter(|_| plan.mapping.is_none());
        CreateTaskRequest {
            id: self.key.container.to_string(),
            bundle: self.bundle.path().to_string_lossy().into_owned(),
            rootfs: rootfs.map(wire_mount).collect(),
            terminal: plan.streams.terminal,
            stdin: plan.streams.stdin.clone(),
            stdout: plan.streams.stdout.clone(),
            stderr: plan.streams.stderr.clone(),
            checkpoint: plan.checkpoint.clone(),
            parent_checkpoint: String::new(),
            options: plan.options.clone().map(Into::into),
        }
    }

    fn launch(&self) -> Launch {
        let settings = &self.core.settings;
        Launch {
            binary: self.record.plan.shim_binary.clone(),
            namespace: self.key.namespace.clone(),
            container: self.key.container.clone(),
            bundle: self.bundle.path(),
            address: settings.address.clone(),
            ttrpc_address: settings.ttrpc_address.clone(),
            publish_binary: settings.publish_binary.clone(),
            options: self.record.plan.options.clone().map(Into::into),
        }
    }

    fn shim(&self) -> Result<Shim, Error> {
        self.shim.clone().ok_or_else(|| Error::Gone {
            container: self.key.container.to_string(),
        })
    }

    fn shim_error(&self, attempt: &'static str, source: ClientError) -> Error {
        Error::Shim {
            container: self.key.container.to_string(),
            attempt,
            source,
        }
    }
}

/// Deletes a container. One that is being started or runs, because an earlier daemon's call was still on its way when this
/// one asked how it stands, is ended first.
async fn delete_whatever_it_does(shim: &Shim) -> Result<Ended, ClientError> {
    let deleted = shim.delete("").await;
    if !matches!(&deleted, Err(error) if is_refusal(error, Code::FailedPrecondition)) {
        return deleted;
    }
    match shim.kill("", KILL, false).await {
        Err(error) if !is_refusal(&error, Code::NotFound) => return Err(error),
        // It has ended by itself.
        Ok(()) | Err(_) => {}
    }
    // One that does not end is told of by the deletion.
    drop(tokio::time::timeout(END_LIMIT, shim.wait("")).await);
    shim.delete("").await
}

fn is_refusal(error: &ClientError, code: Code) -> bool {
    error.status().is_some_and(|status| status.code == code)
}

/// How a start went that an earlier daemon asked for and did not see the end of.
pub(super) async fn start_outcome(shim: &Shim) -> Event {
    let step = Step::Start;
    match shim
        .state("")
        .await
        .map(|state| Wire::try_from(state.status))
    {
        Ok(Ok(Wire::Running | Wire::Paused | Wire::Pausing | Wire::Stopped)) => {
            Event::Done { step, pid: None }
        }
        Ok(Ok(Wire::Created | Wire::Unknown) | Err(_)) | Err(_) => Event::Failed {
            step,
            error: "the daemon was restarted during the start".to_owned(),
        },
    }
}

/// What the shim told, with the raw status and the cause that only its record has.
async fn observed(bundle: Bundle, ended: Ended) -> Exit {
    match read_exit_record(bundle).await {
        Some(exit) if exit.code == ended.exit_status => exit,
        Some(_) | None => Exit {
            code: ended.exit_status,
            at: ended.at,
            cause: ExitCause::Unknown,
            record: None,
        },
    }
}

pub(super) async fn read_exit_record(bundle: Bundle) -> Option<Exit> {
    let read = blocking::run("read exit record", move || bundle.exit_record()).await;
    match read {
        Ok(Ok(text)) => text.as_deref().and_then(exit::parse),
        Ok(Err(error)) => {
            tracing::warn!(
                error = orlop_types::chain(&error),
                "an exit record cannot be read"
            );
            None
        }
        Err(_shutting_down) => None,
    }
}

fn wire_mount(mount: &orlop_types::Mount) -> orlop_api::containerd::types::Mount {
    orlop_api::containerd::types::Mount {
        r#type: mount.fs_type.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

//! Further processes in a running container whose streams the daemon itself holds.
//!
//! The streams are FIFOs in the bundle, because that is what every shim takes. They are unlinked as soon as the shim has
//! opened them.
//!
//! Crash: a daemon that dies leaves at most FIFOs without readers, which go with the bundle; the process it had started is
//! hung up on by the next daemon ([`Runtime::hang_up_orphans`]). Cancellation: dropping an [`Execution`] hangs up on the
//! process (SIGHUP, as a lost terminal does) and removes it once it has ended; a caller that leaves while one is being
//! opened has the same effect. Ordering: nothing is read before the shim holds the other end, so that an end is an end.

mod fifo;
mod orphans;
mod spec;
mod sync;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orlop_api::Any;
use orlop_base::blocking;
use orlop_base::task::TaskKind;
use orlop_types::{ContainerId, ExecId, Namespace};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::actor::TaskKey;
use crate::bundle::Bundle;
use crate::machine::Phase;
use crate::record::Streams;
use crate::runtime::Runtime;
use crate::{Error, Exec};
use fifo::Fifos;

pub use spec::ExecSpecError;
pub use sync::{ExecLimits, ExecOutcome};

/// Opening a process; its caller may leave.
const OPENING: TaskKind = TaskKind::cooperative("exec start");
/// Waiting for a process nobody listens to any more.
const LEFT: TaskKind = TaskKind::dropped("exec end");

/// What ids of such processes begin with.
const ID_PREFIX: &str = "orlop-exec-";

const SIGHUP: u32 = 1;
const SIGKILL: u32 = 9;

/// A process to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecCommand {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Whether it has a terminal; then there is no standard error.
    pub terminal: bool,
    /// Whether it is given standard input.
    pub stdin: bool,
    /// Whether its standard output is wanted.
    pub stdout: bool,
    /// Whether its standard error is wanted.
    pub stderr: bool,
}

/// A process that runs, and its streams.
#[derive(Debug)]
pub struct Execution {
    /// Its standard input, if it has one and has not ended already. Dropping it is not enough to end it: see
    /// [`ExecControl::close_stdin`].
    pub stdin: Option<Sender>,
    /// Its standard output; ends with the last process that holds it.
    pub stdout: Option<Receiver>,
    /// Its standard error, likewise; absent with a terminal.
    pub stderr: Option<Receiver>,
    /// The process.
    pub control: ExecControl,
}

/// The handle of a process. Dropping it hangs up.
#[derive(Debug)]
pub struct ExecControl {
    place: Place,
    has_ended: AtomicBool,
    is_removed: bool,
}

/// Where a process is.
#[derive(Clone)]
struct Place {
    runtime: Runtime,
    key: TaskKey,
    exec: ExecId,
    pid: u32,
}

impl Runtime {
    /// Starts a process in a running container, as the container's own was started: with its user, groups, folder,
    /// environment and capabilities.
    ///
    /// # Errors
    /// No such task, it does not run, or the OCI runtime failed, such as for a program that is not there.
    pub async fn open_exec(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        command: ExecCommand,
    ) -> Result<Execution, Error> {
        let (runtime, key) = (self.clone(), self.key(namespace, container));
        // Spawned, so that a caller that leaves does not leave a half-made process.
        let opening = self.core.tasks.spawn(OPENING, move |_token| async move {
            runtime.open(key, command).await
        });
        let gone = |_ended| Error::Gone {
            container: container.to_string(),
        };
        opening.join().await.map_err(gone)?
    }

    async fn open(self, key: TaskKey, command: ExecCommand) -> Result<Execution, Error> {
        self.check_running(&key)?;
        let record = self.container(&key).await?;
        let process =
            spec::process_of(&record.spec.value, &command).map_err(|source| Error::ExecSpec {
                container: key.container.to_string(),
                source,
            })?;
        let exec = new_id().await?;
        let folder = Bundle::new(
            &self.core.settings.state_folder,
            &key.namespace,
            &key.container,
        )
        .path();
        let name = exec.clone();
        let (wants, failed) = (
            [
                command.stdin,
                command.stdout,
                command.stderr && !command.terminal,
            ],
            |source| Error::Fifo {
                container: key.container.to_string(),
                source,
            },
        );
        let fifos = blocking::run("make FIFOs", move || Fifos::make(&folder, &name, wants));
        let fifos = Arc::new(fifos.await.map_err(Error::Daemon)?.map_err(failed)?);
        let started = self
            .start_with(&key, &exec, &fifos, command.terminal, process)
            .await;
        let unlinking = Arc::clone(&fifos);
        let unlinked = blocking::run("unlink FIFOs", move || unlinking.unlink());
        if let Err(error) = unlinked.await {
            tracing::warn!(%error, exec = %exec, "FIFOs stay in the bundle until it goes");
        }
        started
    }

    async fn start_with(
        &self,
        key: &TaskKey,
        exec: &ExecId,
        fifos: &Fifos,
        terminal: bool,
        process: Any,
    ) -> Result<Execution, Error> {
        let failed = |source| Error::Fifo {
            container: key.container.to_string(),
            source,
        };
        let (stdout, stderr) = (
            fifos.open_output(1).map_err(failed)?,
            fifos.open_output(2).map_err(failed)?,
        );
        let defined = Exec {
            id: exec.clone(),
            streams: Streams {
                stdin: fifos.uri(0),
                stdout: fifos.uri(1),
                stderr: fifos.uri(2),
                terminal,
            },
            spec: process,
        };
        self.exec(&key.namespace, &key.container, defined).await?;
        // From here on the shim knows of the process: what fails is removed by dropping this.
        let mut control = ExecControl {
            place: Place {
                runtime: self.clone(),
                key: key.clone(),
                exec: exec.clone(),
                pid: 0,
            },
            has_ended: AtomicBool::new(true),
            is_removed: false,
        };
        let started = self.start(&key.namespace, &key.container, Some(exec));
        control.place.pid = started.await?;
        control.has_ended = AtomicBool::new(false);
        Ok(Execution {
            stdin: fifos.open_input(0).map_err(failed)?,
            stdout,
            stderr,
            control,
        })
    }

    fn check_running(&self, key: &TaskKey) -> Result<(), Error> {
        let view = self.view(&key.namespace, &key.container)?;
        match view.phase {
            Phase::Running => Ok(()),
            Phase::Creating(_)
            | Phase::Created
            | Phase::Starting
            | Phase::Paused
            | Phase::Stopped
            | Phase::Deleting => Err(Error::NotRunning {
                container: key.container.to_string(),
                phase: view.phase.to_string(),
            }),
        }
    }

    fn key(&self, namespace: &Namespace, container: &ContainerId) -> TaskKey {
        TaskKey {
            namespace: namespace.clone(),
            container: container.clone(),
        }
    }
}

impl ExecControl {
    /// Its id in the host's pid namespace.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.place.pid
    }

    /// Waits for the process to end and gives its exit status. May be dropped and called again.
    ///
    /// # Errors
    /// The shim has gone.
    pub async fn wait(&self) -> Result<u32, Error> {
        let code = self.place.wait().await?;
        self.has_ended.store(true, Ordering::Relaxed);
        Ok(code)
    }

    /// Changes the size of its terminal, in characters.
    ///
    /// # Errors
    /// The process has ended, or the shim has.
    pub async fn resize(&self, width: u32, height: u32) -> Result<(), Error> {
        let Place {
            runtime, key, exec, ..
        } = &self.place;
        let size = (width, height);
        runtime
            .resize(&key.namespace, &key.container, Some(exec), size)
            .await
    }

    /// Lets the process see the end of its standard input, once it has read what is in the pipe. Drop the sender first.
    ///
    /// # Errors
    /// The process has ended, or the shim has.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        let Place {
            runtime, key, exec, ..
        } = &self.place;
        runtime
            .close_stdin(&key.namespace, &key.container, Some(exec))
            .await
    }

    /// Kills the process and its descendants.
    ///
    /// # Errors
    /// It cannot be signalled. One that has ended is fine.
    pub async fn kill(&self) -> Result<(), Error> {
        let pid = i32::try_from(self.place.pid).unwrap_or(0);
        let killed = blocking::run("kill processes", move || orlop_sys::process::kill_tree(pid));
        match killed.await.map_err(Error::Daemon)? {
            Ok(()) => Ok(()),
            // The shim may do what we may not.
            Err(_) => self.place.signal(SIGKILL).await,
        }
    }

    /// Removes the process, which has ended, from its shim.
    pub async fn finish(mut self) {
        self.is_removed = true;
        self.place.remove().await;
    }
}

impl Drop for ExecControl {
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        let (place, has_ended) = (self.place.clone(), self.has_ended.load(Ordering::Relaxed));
        let tasks = self.place.runtime.core.tasks.clone();
        drop(tasks.spawn(LEFT, move |_token| place.leave(has_ended)));
    }
}

impl Place {
    async fn wait(&self) -> Result<u32, Error> {
        let Self {
            runtime, key, exec, ..
        } = self;
        let (code, _at) = runtime
            .wait(&key.namespace, &key.container, Some(exec))
            .await?;
        Ok(code)
    }

    async fn signal(&self, signal: u32) -> Result<(), Error> {
        let Self {
            runtime, key, exec, ..
        } = self;
        runtime
            .kill(&key.namespace, &key.container, Some(exec), signal, false)
            .await
    }

    async fn remove(&self) {
        let Self {
            runtime, key, exec, ..
        } = self;
        let removed = runtime.delete_exec(&key.namespace, &key.container, exec);
        if let Err(error) = removed.await {
            // The container may have gone, and its shim with it: then there is nothing left to remove.
            tracing::debug!(%error, %exec, "a process cannot be removed");
        }
    }

    /// Hangs up, waits for the end, however long it takes, and removes the process.
    async fn leave(self, has_ended: bool) {
        if !has_ended {
            let exec = &self.exec;
            if let Err(error) = self.signal(SIGHUP).await {
                tracing::debug!(%error, %exec, "a process cannot be hung up on");
            }
            if let Err(error) = self.wait().await {
                return tracing::debug!(%error, %exec, "the end of a process was not seen");
            }
        }
        self.remove().await;
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Place")
            .field("key", &self.key)
            .field("exec", &self.exec)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// An id that no other process has.
async fn new_id() -> Result<ExecId, Error> {
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    let random = blocking::run("make an id", read)
        .await
        .map_err(Error::Daemon)?
        .map_err(Error::Random)?;
    let digits: String = random.chars().filter(char::is_ascii_hexdigit).collect();
    Ok(
        ExecId::new(format!("{ID_PREFIX}{digits}"))
            .expect("letters, digits and hyphens make an id"),
    )
}

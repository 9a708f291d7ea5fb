//! The processes of running tasks: what needs no machine and goes to the shim directly.

use std::time::SystemTime;

use orlop_api::Any;
use orlop_api::containerd::task::v3::{ExecProcessRequest, StateResponse};
use orlop_api::containerd::types::RuntimeInfo;
use orlop_api::containerd::v1::types::ProcessInfo;
use orlop_base::blocking;
use orlop_types::exit::ExitCause;
use orlop_types::{ContainerId, ExecId, Namespace};

use crate::Error;
use crate::actor::View;
use crate::machine::{Exit, Phase, Transition};
use crate::record::Streams;
use crate::runtime::{Runtime, failed};

/// A further process in a running task.
#[derive(Debug, Clone)]
pub struct Exec {
    /// Its id.
    pub id: ExecId,
    /// Its standard streams.
    pub streams: Streams,
    /// An OCI process as JSON, typed as containerd types it.
    pub spec: Any,
}

/// A process as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessState {
    /// The container.
    pub container: ContainerId,
    /// The further process; absent for the init process.
    pub exec: Option<ExecId>,
    /// Its id in the host's pid namespace; 0 before it is known.
    pub pid: u32,
    /// Where it is.
    pub status: Status,
    /// Its standard streams.
    pub streams: Streams,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// Where a process is, in the words of containerd's task service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Created or being created.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Stopped,
    /// Frozen.
    Paused,
    /// The shim says something else.
    Unknown,
}

impl Runtime {
    /// Removes a further process that has ended. Returns its process id, exit status and time.
    ///
    /// # Errors
    /// No such task or process, or it still runs.
    pub async fn delete_exec(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: &ExecId,
    ) -> Result<(u32, u32, SystemTime), Error> {
        let shim = self.shim(namespace, container)?;
        let ended = shim
            .delete(exec.as_str())
            .await
            .map_err(|source| failed(container, "delete a process", source))?;
        Ok((ended.pid, ended.exit_status, ended.at))
    }

    /// Defines a further process; it waits to be started.
    ///
    /// # Errors
    /// No such task, a process of that id, or the shim refused.
    pub async fn exec(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Exec,
    ) -> Result<(), Error> {
        let request = ExecProcessRequest {
            id: container.to_string(),
            exec_id: exec.id.to_string(),
            terminal: exec.streams.terminal,
            stdin: exec.streams.stdin,
            stdout: exec.streams.stdout,
            stderr: exec.streams.stderr,
            spec: Some(exec.spec),
        };
        let shim = self.shim(namespace, container)?;
        shim.exec(&request)
            .await
            .map_err(|source| failed(container, "define a process", source))
    }

    /// Sends a signal to a process, or to all processes of the task.
    ///
    /// # Errors
    /// No such task or process, it has ended, or the OCI runtime failed.
    pub async fn kill(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
        signal: u32,
        all: bool,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        let exec = exec.map_or("", ExecId::as_str);
        shim.kill(exec, signal, all)
            .await
            .map_err(|source| failed(container, "signal", source))
    }

    /// Changes the size of a process's terminal, in characters.
    ///
    /// # Errors
    /// No such task or process, or it has no terminal.
    pub async fn resize(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
        (width, height): (u32, u32),
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        let exec = exec.map_or("", ExecId::as_str);
        shim.resize(exec, width, height)
            .await
            .map_err(|source| failed(container, "resize the terminal", source))
    }

    /// Closes a process's standard input.
    ///
    /// # Errors
    /// No such task or process.
    pub async fn close_stdin(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        let exec = exec.map_or("", ExecId::as_str);
        shim.close_stdin(exec)
            .await
            .map_err(|source| failed(container, "close standard input", source))
    }

    /// The processes of a task, in the host's pid namespace.
    ///
    /// # Errors
    /// No such task, or the OCI runtime failed.
    pub async fn pids(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Vec<ProcessInfo>, Error> {
        let shim = self.shim(namespace, container)?;
        shim.pids()
            .await
            .map(|answer| answer.processes)
            .map_err(|source| failed(container, "list processes", source))
    }

    /// Changes the limits of a task: OCI Linux resources as JSON, typed as containerd types them.
    ///
    /// # Errors
    /// No such task, or the OCI runtime refused.
    pub async fn update(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        resources: Any,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        shim.update(resources)
            .await
            .map_err(|source| failed(container, "update", source))
    }

    /// Writes a checkpoint of a task into `path`.
    ///
    /// # Errors
    /// No such task, or the OCI runtime cannot do it.
    pub async fn checkpoint(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        path: &str,
        options: Option<Any>,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        shim.checkpoint(path, options)
            .await
            .map_err(|source| failed(container, "checkpoint", source))
    }

    /// A task's figures, as the cgroup metrics message of containerd for this machine's cgroup version.
    ///
    /// # Errors
    /// No such task, or the shim failed.
    pub async fn stats(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Option<Any>, Error> {
        let shim = self.shim(namespace, container)?;
        shim.stats()
            .await
            .map_err(|source| failed(container, "read figures", source))
    }

    /// A process as it is now.
    ///
    /// # Errors
    /// No such task or process.
    pub async fn state(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<ProcessState, Error> {
        let view = self.view(namespace, container)?;
        let Some(exec) = exec else {
            return Ok(init_state(container, &view));
        };
        let shim = self.shim(namespace, container)?;
        let answer = shim
            .state(exec.as_str())
            .await
            .map_err(|source| failed(container, "tell a process's state", source))?;
        Ok(exec_state(container, exec, answer))
    }

    /// The init processes of all tasks of a namespace.
    #[must_use]
    pub fn list(&self, namespace: &Namespace) -> Vec<ProcessState> {
        let own = self
            .core
            .handles()
            .into_iter()
            .filter(|(key, _)| key.namespace == *namespace);
        let mut states: Vec<_> = own
            .map(|(key, handle)| init_state(&key.container, &handle.view.borrow()))
            .collect();
        states.sort_by(|a, b| a.container.cmp(&b.container));
        states
    }

    /// How a task's start went so far, oldest step first.
    ///
    /// # Errors
    /// No such task.
    pub fn transitions(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Vec<Transition>, Error> {
        self.view(namespace, container).map(|view| view.transitions)
    }

    /// A task's network: where its namespace is pinned and which addresses it has; `None` for tasks without one.
    ///
    /// # Errors
    /// No such task.
    pub fn network(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Option<(std::path::PathBuf, Vec<String>)>, Error> {
        let view = self.view(namespace, container)?;
        Ok(view
            .plan
            .network_namespace
            .map(|path| (path, view.addresses)))
    }

    /// The process id of the shim that holds a task.
    ///
    /// # Errors
    /// No such task, or the shim does not answer.
    pub async fn shim_pid(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<u32, Error> {
        let shim = self.shim(namespace, container)?;
        shim.shim_pid()
            .await
            .map_err(|source| failed(container, "tell its process id", source))
    }

    /// The memory of the shim that holds a task (PSS), in bytes; nothing if the kernel does not tell.
    ///
    /// # Errors
    /// As [`Runtime::shim_pid`].
    pub async fn shim_memory(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<Option<u64>, Error> {
        let pid = self.shim_pid(namespace, container).await?;
        let read = move || orlop_sys::process::memory_bytes(pid).ok();
        blocking::run("shim memory", read)
            .await
            .map_err(Error::Daemon)
    }

    /// What a runtime is and can do: its shim is asked, which asks its OCI runtime. `runtime` is a name, the path of a
    /// shim, or empty for the default.
    ///
    /// # Errors
    /// The runtime is unknown, or its shim does not answer.
    pub async fn runtime_info(
        &self,
        runtime: &str,
        options: Option<Any>,
    ) -> Result<RuntimeInfo, Error> {
        let (shim, configured) = self.core.runtime(runtime)?;
        crate::shim::info(shim, options.or(configured)).await
    }
}

pub(crate) fn init_state(container: &ContainerId, view: &View) -> ProcessState {
    let status = match view.phase {
        Phase::Creating(_) | Phase::Created | Phase::Starting => Status::Created,
        Phase::Running => Status::Running,
        Phase::Paused => Status::Paused,
        Phase::Stopped | Phase::Deleting => Status::Stopped,
    };
    ProcessState {
        container: container.clone(),
        exec: None,
        pid: view.pid,
        status,
        streams: view.plan.streams.clone(),
        exit: view.exit.clone(),
    }
}

fn exec_state(container: &ContainerId, exec: &ExecId, answer: StateResponse) -> ProcessState {
    use orlop_api::containerd::v1::types::Status as Wire;
    let status = match Wire::try_from(answer.status) {
        Ok(Wire::Created) => Status::Created,
        Ok(Wire::Running) => Status::Running,
        Ok(Wire::Stopped) => Status::Stopped,
        Ok(Wire::Paused | Wire::Pausing) => Status::Paused,
        Ok(Wire::Unknown) | Err(_) => Status::Unknown,
    };
    let at = answer.exited_at.and_then(|stamp| stamp.try_into().ok());
    let exit = at.filter(|_| status == Status::Stopped);
    ProcessState {
        container: container.clone(),
        exec: Some(exec.clone()),
        pid: answer.pid,
        status,
        streams: Streams {
            stdin: answer.stdin,
            stdout: answer.stdout,
            stderr: answer.stderr,
            terminal: answer.terminal,
        },
        exit: exit.map(|at| Exit {
            code: answer.exit_status,
            at,
            cause: ExitCause::Unknown,
            record: None,
        }),
    }
}

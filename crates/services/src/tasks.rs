//! `containerd.services.tasks.v1`. Checkpoints into the content store are not there yet.

use std::borrow::Cow;

use orlop_api::containerd::services::tasks::v1 as api;
use orlop_api::containerd::services::tasks::v1::tasks_server::Tasks;
use orlop_api::containerd::types;
use orlop_api::containerd::v1::types as process;
use orlop_base::clock::SharedClock;
use orlop_runtime::{CreateTask, Exec, ProcessState, Runtime, Streams};
use orlop_types::filter::{Fields, Filters, text_field};
use orlop_types::{ContainerId, ExecId, Namespace};
use tonic::{Request, Response, Status};

use crate::checkpoint;
use crate::request;
use crate::status;
use crate::translate::{mount, parse, parse_optional, required, timestamp};

/// Starts, signals and observes tasks of the caller's namespace.
pub(crate) struct TasksService {
    pub(crate) runtime: Runtime,
    /// Times the figures.
    pub(crate) clock: SharedClock,
}

/// A process of a request: a task's first one, or a further one.
struct Target {
    namespace: Namespace,
    container: ContainerId,
    exec: Option<ExecId>,
}

impl Target {
    fn new(caller: request::Caller, container: &str, exec: &str) -> Result<Self, Status> {
        Ok(Self {
            namespace: caller.namespace,
            container: parse(container)?,
            exec: parse_optional(exec)?,
        })
    }
}

#[tonic::async_trait]
impl Tasks for TasksService {
    async fn create(
        &self,
        request: Request<api::CreateTaskRequest>,
    ) -> Result<Response<api::CreateTaskResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        if wanted.checkpoint.is_some() {
            return Err(status::unimplemented(
                "a task is not started from a checkpoint in the content store",
            ));
        }
        let container: ContainerId = parse(&wanted.container_id)?;
        let task = CreateTask {
            container: container.clone(),
            rootfs: wanted.rootfs.into_iter().map(mount).collect(),
            streams: Streams {
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
                terminal: wanted.terminal,
            },
            checkpoint: String::new(),
            options: wanted.options,
            shim_path: wanted.runtime_path,
        };
        let created = self.runtime.create(&caller.namespace, task).await;
        Ok(Response::new(api::CreateTaskResponse {
            container_id: container.into(),
            pid: created.map_err(|error| status::of_runtime(&error))?,
        }))
    }

    async fn start(
        &self,
        request: Request<api::StartRequest>,
    ) -> Result<Response<api::StartResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let target = Target::new(caller, &wanted.container_id, &wanted.exec_id)?;
        let started = self
            .runtime
            .start(&target.namespace, &target.container, target.exec.as_ref())
            .await;
        Ok(Response::new(api::StartResponse {
            pid: started.map_err(|error| status::of_runtime(&error))?,
        }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteTaskRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = parse(&wanted.container_id)?;
        let ended = self
            .runtime
            .delete(&caller.namespace, &container)
            .await
            .map_err(|error| status::of_runtime(&error))?;
        Ok(Response::new(api::DeleteResponse {
            id: container.into(),
            pid: ended.pid,
            exit_status: ended.exit.as_ref().map_or(0, |exit| exit.code),
            exited_at: ended.exit.map(|exit| timestamp(exit.at)),
        }))
    }

    async fn delete_process(
        &self,
        request: Request<api::DeleteProcessRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = parse(&wanted.container_id)?;
        let exec = parse(&wanted.exec_id)?;
        let (pid, exit_status, at) = self
            .runtime
            .delete_exec(&caller.namespace, &container, &exec)
            .await
            .map_err(|error| status::of_runtime(&error))?;
        Ok(Response::new(api::DeleteResponse {
            id: exec.into(),
            pid,
            exit_status,
            exited_at: Some(timestamp(at)),
        }))
    }

    async fn get(
        &self,
        request: Request<api::GetRequest>,
    ) -> Result<Response<api::GetResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let target = Target::new(caller, &wanted.container_id, &wanted.exec_id)?;
        let state = self
            .runtime
            .state(&target.namespace, &target.container, target.exec.as_ref())
            .await
            .map_err(|error| status::of_runtime(&error))?;
        Ok(Response::new(api::GetResponse {
            process: Some(message(state)),
        }))
    }

    async fn list(
        &self,
        request: Request<api::ListTasksRequest>,
    ) -> Result<Response<api::ListTasksResponse>, Status> {
        // The filter of this request is ignored by containerd too.
        let (caller, _) = request::open(request)?;
        let states = self.runtime.list(&caller.namespace);
        Ok(Response::new(api::ListTasksResponse {
            tasks: states.into_iter().map(message).collect(),
        }))
    }

    async fn kill(&self, request: Request<api::KillRequest>) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let target = Target::new(caller, &wanted.container_id, &wanted.exec_id)?;
        let (container, exec) = (&target.container, target.exec.as_ref());
        self.runtime
            .kill(
                &target.namespace,
                container,
                exec,
                wanted.signal,
                wanted.all,
            )
            .await
            .map_err(|error| status::of_runtime(&error))
            .map(Response::new)
    }

    async fn exec(
        &self,
        request: Request<api::ExecProcessRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = parse(&wanted.container_id)?;
        let exec = Exec {
            id: parse(&wanted.exec_id)?,
            streams: Streams {
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
                terminal: wanted.terminal,
            },
            spec: required(wanted.spec, "spec")?,
        };
        self.runtime
            .exec(&caller.namespace, &container, exec)
            .await
            .map_err(|error| status::of_runtime(&error))
            .map(Response::new)
    }

    async fn resize_pty(
        &self,
        request: Request<api::ResizePtyRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let target = Target::new(caller, &wanted.container_id, &wanted.exec_id)?;
        let size = (wanted.width, wanted.height);
        self.runtime
            .resize(
                &target.namespace,
                &target.container,
                target.exec.as_ref(),
                size,
            )
            .await
            .map_err(|error| status::of_runtime(&error))
            .map(Response::new)
    }

    async fn close_io(
        &self,
        request: Request<api::CloseIoRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let target = Target::new(caller, &wanted.container_id, &wanted.exec_id)?;
        if !wanted.stdin {
            return Ok(Response::new(()));
        }
        self.runtime
            .close_stdin(&target.namespace, &target.container, target.exec.as_ref())
            .await
            .map_err(|error| status::of_runtime(&error))
            .map(Response::new)
    }

    async fn pause(&self, request: Request<api::PauseTaskRequest>) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = parse(&wanted.container_id)?;
        self.runtime
            .pause(&caller.namespace, &container)
            .await
            .map_err(|error| status::of_runtime(&error))
            .map(Response::new)
    }

    async fn resume(
        &self,
        request: Request<api::ResumeTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = parse(&wanted.container_id)?;
        self.runtime
            .resume(&caller.namespace, &container)
            .await
            .map_err(|error| status::of_runtime(&error))
            .map(Response::new)
    }

    async fn list_pids(
        &self,
        request: Request<api::ListPidsRequest>,
    ) -> Result<Response<api::ListPidsResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = parse(&wanted.container_id)?;
        let processes = self
            .runtime
            .pids(&caller.namespace, &container)
            .await
            .map_err(|error| status::of_runtime(&error))?;
        Ok(Response::new(api::ListPidsResponse { processes }))
    }

    async fn checkpoint(
        &self,
        request: Request<api::CheckpointTaskRequest>,
    ) -> Result<Response<api::CheckpointTaskResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = parse(&wanted.container_id)?;
        let path = checkpoint::folder(wanted.options.as_ref())?;
        checkpoint::check_criu().await?;
        self.runtime
            .checkpoint(&caller.namespace, &container, &path, wanted.options)
            .await
            .map_err(|error| status::of_runtime(&error))?;
        // What lies in a folder of the client's own has no descriptors.
        Ok(Response::new(api::CheckpointTaskResponse {
            descriptors: Vec::new(),
        }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let container = parse(&wanted.container_id)?;
        let resources = required(wanted.resources, "resources")?;
        self.runtime
            .update(&caller.namespace, &container, resources)
            .await
            .map_err(|error| status::of_runtime(&error))
            .map(Response::new)
    }

    async fn metrics(
        &self,
        request: Request<api::MetricsRequest>,
    ) -> Result<Response<api::MetricsResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let filters = Filters::parse(&wanted.filters).map_err(|e| status::invalid(&e))?;
        let mut metrics = Vec::new();
        for task in self.runtime.list(&caller.namespace) {
            if filters.matches(&Measured(&task)) {
                metrics.extend(self.metric(&caller.namespace, &task.container).await);
            }
        }
        Ok(Response::new(api::MetricsResponse { metrics }))
    }

    async fn wait(
        &self,
        request: Request<api::WaitRequest>,
    ) -> Result<Response<api::WaitResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let target = Target::new(caller, &wanted.container_id, &wanted.exec_id)?;
        let (exit_status, at) = self
            .runtime
            .wait(&target.namespace, &target.container, target.exec.as_ref())
            .await
            .map_err(|error| status::of_runtime(&error))?;
        Ok(Response::new(api::WaitResponse {
            exit_status,
            exited_at: Some(timestamp(at)),
        }))
    }
}

impl TasksService {
    /// A task's figures; nothing for one that is going away, which must not hide those of the others.
    async fn metric(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Option<types::Metric> {
        match self.runtime.stats(namespace, container).await {
            Ok(data) => Some(types::Metric {
                timestamp: Some(timestamp(self.clock.wall())),
                id: container.to_string(),
                data,
            }),
            Err(error) => {
                tracing::debug!(%error, %container, "a task has no figures");
                None
            }
        }
    }
}

/// A task as filters of metrics see it.
struct Measured<'a>(&'a ProcessState);

impl Fields for Measured<'_> {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "id" => text_field(self.0.container.as_str()),
            _ => None,
        }
    }
}

/// A process as containerd's clients see it.
pub(crate) fn message(state: ProcessState) -> process::Process {
    let container_id = String::from(state.container);
    process::Process {
        // As in containerd, the first process has its container's id.
        id: state
            .exec
            .map_or_else(|| container_id.clone(), String::from),
        container_id,
        pid: state.pid,
        status: wire_status(state.status).into(),
        stdin: state.streams.stdin,
        stdout: state.streams.stdout,
        stderr: state.streams.stderr,
        terminal: state.streams.terminal,
        exit_status: state.exit.as_ref().map_or(0, |exit| exit.code),
        exited_at: state.exit.map(|exit| timestamp(exit.at)),
    }
}

const fn wire_status(status: orlop_runtime::Status) -> process::Status {
    match status {
        orlop_runtime::Status::Created => process::Status::Created,
        orlop_runtime::Status::Running => process::Status::Running,
        orlop_runtime::Status::Stopped => process::Status::Stopped,
        orlop_runtime::Status::Paused => process::Status::Paused,
        orlop_runtime::Status::Unknown => process::Status::Unknown,
    }
}

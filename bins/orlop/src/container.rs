//! What several commands do with containers and their processes.

use orlop_api::FieldMask;
use orlop_api::containerd::services::containers::v1::{
    Container, DeleteContainerRequest, GetContainerRequest, UpdateContainerRequest,
};
use orlop_api::containerd::services::tasks::v1::{
    DeleteTaskRequest, KillRequest, ListTasksRequest, WaitRequest,
};
use orlop_api::containerd::v1::types::{Process as Task, Status};
use orlop_types::restart::{STATUS_LABEL, STOPPED_LABEL};
use tonic::Code;

use crate::client::Client;
use crate::error::{CliError, Explain};

/// A process: a container's first, or one added by exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) container_id: String,
    /// Empty for the first one.
    pub(crate) exec_id: String,
}

impl Process {
    /// The first process of a container.
    pub(crate) fn first(container_id: &str) -> Self {
        Self {
            container_id: container_id.to_owned(),
            exec_id: String::new(),
        }
    }
}

/// The tasks of the namespace.
pub(crate) async fn tasks(client: &Client) -> Result<Vec<Task>, CliError> {
    let answer = client.tasks().list(ListTasksRequest::default()).await;
    Ok(answer
        .explain(|| "cannot list tasks".to_owned())?
        .into_inner()
        .tasks)
}

/// The state in one word.
pub(crate) fn state(status: Status) -> &'static str {
    match status {
        Status::Unknown => "unknown",
        Status::Created => "created",
        Status::Running => "running",
        Status::Stopped => "stopped",
        Status::Paused => "paused",
        Status::Pausing => "pausing",
    }
}

/// The record of a container.
pub(crate) async fn record(client: &Client, id: &str) -> Result<Container, CliError> {
    let request = GetContainerRequest { id: id.to_owned() };
    let answer = client.container_records().get(request).await;
    let answer = answer.explain(|| format!("cannot find container {id}"))?;
    Ok(answer.into_inner().container.unwrap_or_default())
}

/// Tells the daemon that a container is not to be started again, if it is one that would be.
pub(crate) async fn keep_stopped(client: &Client, record: &Container) -> Result<(), CliError> {
    if !record.labels.contains_key(STATUS_LABEL) {
        return Ok(());
    }
    let stopped = [(STATUS_LABEL, "stopped"), (STOPPED_LABEL, "true")];
    let labels = stopped.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let paths = stopped.map(|(name, _)| format!("labels.{name}"));
    let request = UpdateContainerRequest {
        container: Some(Container {
            id: record.id.clone(),
            labels: labels.into_iter().collect(),
            ..Container::default()
        }),
        update_mask: Some(FieldMask {
            paths: paths.to_vec(),
        }),
    };
    let updated = client.container_records().update(request).await;
    updated
        .map(drop)
        .explain(|| format!("cannot end the restarts of container {}", record.id))
}

/// Sends a signal to a process, or with `all` to everything in the container.
pub(crate) async fn kill(
    client: &Client,
    process: &Process,
    signal: u32,
    all: bool,
) -> Result<(), CliError> {
    let request = KillRequest {
        container_id: process.container_id.clone(),
        exec_id: process.exec_id.clone(),
        signal,
        all,
    };
    let killed = client.tasks().kill(request).await;
    killed.map(drop).explain(|| {
        let signal = crate::signals::name(signal);
        format!("cannot send {signal} to container {}", process.container_id)
    })
}

/// Waits for the end of a process and returns its exit code.
pub(crate) async fn wait(client: &Client, process: &Process) -> Result<u8, CliError> {
    let request = WaitRequest {
        container_id: process.container_id.clone(),
        exec_id: process.exec_id.clone(),
    };
    let answer = client.tasks().wait(request).await;
    let answer =
        answer.explain(|| format!("cannot wait for container {}", process.container_id))?;
    Ok(u8::try_from(answer.into_inner().exit_status).unwrap_or(u8::MAX))
}

/// Deletes a task that has ended. One that is gone already is as good.
pub(crate) async fn delete_task(client: &Client, container_id: &str) -> Result<(), CliError> {
    let request = DeleteTaskRequest {
        container_id: container_id.to_owned(),
    };
    match client.tasks().delete(request).await {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        deleted => deleted
            .map(drop)
            .explain(|| format!("cannot delete the task of container {container_id}")),
    }
}

/// Removes a container's record; collection takes what it held.
pub(crate) async fn delete(client: &Client, container_id: &str) -> Result<(), CliError> {
    let request = DeleteContainerRequest {
        id: container_id.to_owned(),
    };
    let deleted = client.container_records().delete(request).await;
    deleted
        .map(drop)
        .explain(|| format!("cannot remove container {container_id}"))
}

//! `orlop ps`.

use std::collections::HashMap;

use clap::Args;
use orlop_api::containerd::services::containers::v1::{Container, ListContainersRequest};
use orlop_api::containerd::v1::types::{Process as Task, Status};
use orlop_api::orlop::v1::{Exit, InspectRequest};
use orlop_types::Reference;
use serde::Serialize;

use super::Context;
use crate::container;
use crate::error::{CliError, Explain};
use crate::output::Row;
use crate::time;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Show those that do not run, too
    #[arg(long, short)]
    all: bool,
    /// Only ids
    #[arg(long, short)]
    quiet: bool,
    /// containerd's filters, such as labels.app==web; any of several matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ContainerRow {
    id: String,
    image: String,
    state: &'static str,
    pid: Option<u32>,
    exit_code: Option<u32>,
    created_at: Option<String>,
    #[serde(skip)]
    age: String,
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = ListContainersRequest {
        filters: arguments.filters.clone(),
    };
    let answer = context.client.container_records().list(request).await;
    let containers = answer
        .explain(|| "cannot list containers".to_owned())?
        .into_inner()
        .containers;
    let tasks = container::tasks(&context.client).await?;
    let tasks: HashMap<String, Task> = tasks
        .into_iter()
        .map(|task| (task.container_id.clone(), task))
        .collect();
    let mut rows = Vec::new();
    for container in containers {
        let task = tasks.get(&container.id);
        let runs = task.is_some_and(|task| task.status() != Status::Stopped);
        if runs || arguments.all {
            rows.push(row(container, task, context).await?);
        }
    }
    rows.sort_by(|left, right| left.id.cmp(&right.id));
    if arguments.quiet && !context.output.is_json() {
        return rows.iter().try_for_each(|row| context.output.text(&row.id));
    }
    context.output.rows(&rows)
}

async fn row(
    record: Container,
    task: Option<&Task>,
    context: &Context<'_>,
) -> Result<ContainerRow, CliError> {
    let (state, pid, exit_code) = match task {
        Some(task) if task.status() == Status::Stopped => ("exited", None, Some(task.exit_status)),
        Some(task) => (container::state(task.status()), Some(task.pid), None),
        None => match exit(&record.id, context).await? {
            Some(exit) => ("exited", None, Some(exit.exit_code)),
            None => ("created", None, None),
        },
    };
    Ok(ContainerRow {
        age: time::age(record.created_at.as_ref(), context.clock.wall()),
        created_at: time::moment(record.created_at.as_ref()),
        id: record.id,
        image: record.image,
        state,
        pid,
        exit_code,
    })
}

/// How a container without a task ended, if it ever ran. One that was removed meanwhile did not.
async fn exit(id: &str, context: &Context<'_>) -> Result<Option<Exit>, CliError> {
    let request = InspectRequest { id: id.to_owned() };
    let answer = context.client.containers().inspect(request).await;
    match answer.explain(|| format!("cannot inspect container {id}")) {
        Ok(answer) => Ok(answer.into_inner().exit),
        Err(failure) if failure.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

impl Row for ContainerRow {
    const HEADINGS: &'static [&'static str] = &["CONTAINER", "IMAGE", "STATE", "PID", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let familiar = self
            .image
            .parse::<Reference>()
            .map(|reference| reference.familiar());
        let state = match self.exit_code {
            Some(code) => format!("{} ({code})", self.state),
            None => self.state.to_owned(),
        };
        vec![
            self.id.clone(),
            familiar.unwrap_or_else(|_| self.image.clone()),
            state,
            self.pid
                .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            self.age.clone(),
        ]
    }
}

//! `orlop exec`: a further process in a running container.

use clap::Args;
use orlop_api::containerd::services::containers::v1::GetContainerRequest;
use orlop_api::containerd::services::tasks::v1::{
    DeleteProcessRequest, ExecProcessRequest, StartRequest,
};
use orlop_api::{Any, any};
use serde_json::{Value, json};

use super::Context;
use super::run::variable;
use crate::container::Process;
use crate::error::{CliError, Explain};
use crate::stdio::{Paths, Stdio, Wanted};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Leave the process running
    #[arg(long, short)]
    detach: bool,
    /// Connect standard input
    #[arg(long, short)]
    interactive: bool,
    /// Give the process a terminal
    #[arg(long, short)]
    tty: bool,
    /// An environment variable, besides the container's
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Run as this user: numbers, as the container's own names are not ours to look up
    #[arg(long, short, value_name = "UID[:GID]", value_parser = parse_user)]
    user: Option<(u32, u32)>,
    /// Start in this folder
    #[arg(long, short, value_name = "FOLDER")]
    workdir: Option<String>,
    /// A container
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// The command
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context<'_>) -> Result<u8, CliError> {
    let not_started = |failure| CliError::NotStarted(Box::new(failure));
    let wanted = Wanted {
        stdin: arguments.interactive,
        tty: arguments.tty,
    };
    if !arguments.detach {
        wanted.check().map_err(not_started)?;
    }
    let process = Process {
        container_id: arguments.id.clone(),
        exec_id: exec_id(context),
    };
    let stdio = match arguments.detach {
        true => None,
        false => Some(Stdio::create(wanted).map_err(not_started)?),
    };
    let paths = stdio
        .as_ref()
        .map_or_else(Paths::default, |stdio| stdio.paths.clone());
    start(&process, paths, &arguments, context)
        .await
        .map_err(not_started)?;
    let Some(stdio) = stdio else {
        let result = json!({ "exec_id": process.exec_id });
        return context.output.done(&result, &process.exec_id).map(|()| 0);
    };
    let code = stdio
        .attend(&context.client, &process, context.output)
        .await?;
    delete(&process, context).await?;
    Ok(code)
}

async fn start(
    process: &Process,
    paths: Paths,
    arguments: &Arguments,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let spec = arguments.process_spec(container_process(&arguments.id, context).await?);
    let what = || {
        format!(
            "cannot run {:?} in container {}",
            arguments.command[0], arguments.id
        )
    };
    let request = ExecProcessRequest {
        container_id: process.container_id.clone(),
        stdin: paths.stdin,
        stdout: paths.stdout,
        stderr: paths.stderr,
        terminal: arguments.tty,
        spec: Some(Any {
            type_url: any::OCI_PROCESS.to_owned(),
            value: spec.to_string().into_bytes(),
        }),
        exec_id: process.exec_id.clone(),
    };
    let mut tasks = context.client.tasks();
    tasks.exec(request).await.explain(what)?;
    let request = StartRequest {
        container_id: process.container_id.clone(),
        exec_id: process.exec_id.clone(),
    };
    let started = tasks.start(request).await.explain(what);
    if started.is_err() {
        // The process was added and cannot be started: were it left, its id would stay taken. The reason counts more.
        drop(delete(process, context).await);
    }
    started.map(drop)
}

async fn delete(process: &Process, context: &Context<'_>) -> Result<(), CliError> {
    let request = DeleteProcessRequest {
        container_id: process.container_id.clone(),
        exec_id: process.exec_id.clone(),
    };
    let deleted = context.client.tasks().delete_process(request).await;
    match deleted
        .map(drop)
        .explain(|| format!("cannot delete process {}", process.exec_id))
    {
        Err(failure) if failure.is_not_found() => Ok(()),
        deleted => deleted,
    }
}

/// The container's own process, which the new one resembles.
async fn container_process(id: &str, context: &Context<'_>) -> Result<Value, CliError> {
    let what = || format!("cannot find container {id}");
    let request = GetContainerRequest { id: id.to_owned() };
    let answer = context
        .client
        .container_records()
        .get(request)
        .await
        .explain(what)?;
    let spec = answer.into_inner().container.and_then(|record| record.spec);
    let document: Option<Value> = spec.and_then(|spec| serde_json::from_slice(&spec.value).ok());
    let process = document.and_then(|mut document| document.get_mut("process").map(Value::take));
    process
        .filter(Value::is_object)
        .ok_or_else(|| CliError::Incomplete {
            what: what(),
            missing: "its record has no OCI process",
        })
}

impl Arguments {
    fn process_spec(&self, mut process: Value) -> Value {
        process["args"] = json!(self.command);
        process["terminal"] = json!(self.tty);
        if let Some(workdir) = &self.workdir {
            process["cwd"] = json!(workdir);
        }
        if let Some((uid, gid)) = self.user {
            process["user"] = json!({ "uid": uid, "gid": gid });
        }
        let added: Vec<String> = self.env.iter().filter_map(|text| variable(text)).collect();
        process["env"] = json!(merged(process["env"].take(), added));
        process
    }
}

/// The container's variables, those of the same name replaced.
fn merged(container: Value, added: Vec<String>) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let replaced: Vec<String> = added.iter().map(|variable| name(variable)).collect();
    let kept: Vec<String> = serde_json::from_value(container).unwrap_or_default();
    kept.into_iter()
        .filter(|variable| !replaced.contains(&name(variable)))
        .chain(added)
        .collect()
}

/// Different for every process of ours on this machine since it started.
fn exec_id(context: &Context<'_>) -> String {
    let moment = context.clock.boottime().as_micros();
    format!("exec-{:x}-{moment:x}", std::process::id())
}

/// `UID` or `UID:GID`.
fn parse_user(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| format!("{text:?} is no number"))
    };
    Ok((number(uid)?, number(gid)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_process_resembles_the_containers_own() {
        let arguments = Arguments {
            detach: false,
            interactive: false,
            tty: true,
            env: vec!["B=2".to_owned()],
            user: Some((1000, 0)),
            workdir: Some("/tmp".to_owned()),
            id: "web".to_owned(),
            command: vec!["id".to_owned(), "-u".to_owned()],
        };
        let own = json!({
            "args": ["sleep"], "cwd": "/", "env": ["A=1", "B=1"],
            "capabilities": { "bounding": ["CAP_KILL"] }, "user": { "uid": 0, "gid": 0 },
        });
        assert_eq!(
            arguments.process_spec(own),
            json!({
                "args": ["id", "-u"], "cwd": "/tmp", "env": ["A=1", "B=2"], "terminal": true,
                "capabilities": { "bounding": ["CAP_KILL"] }, "user": { "uid": 1000, "gid": 0 },
            })
        );
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("1000"), Ok((1000, 0)));
        assert_eq!(parse_user("1:2"), Ok((1, 2)));
        assert!(parse_user("root").is_err());
    }
}

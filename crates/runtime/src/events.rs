//! Events that shims send: containerd's `events.ttrpc.v1` service, the daemon's end.
//!
//! A task's own life (create, start, exit, pause, delete) is announced by its machine, in the transaction that records
//! it, so that nobody hears of it twice or not at all. What shims say of that is dropped here; what only they know
//! (out of memory, further processes, checkpoints) is appended to the outbox.
//!
//! Crash: a shim repeats what was not acknowledged, so an event may be appended twice, never lost. Ordering: one
//! connection's events are appended in the order they came. Cancellation: an event under way is appended.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use orlop_api::containerd::events::{
    TaskCheckpointed, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom,
};
use orlop_api::containerd::services::events::ttrpc::v1::{ForwardRequest, events_service};
use orlop_api::containerd::types::Envelope;
use orlop_api::{Any, Message, Name, any};
use orlop_base::blocking;
use orlop_base::task::{TaskKind, TaskTree};
use orlop_meta::{Db, Event};
use orlop_ttrpc::server::{Call, Connection};
use orlop_ttrpc::{Code, Status};
use orlop_types::{ContainerId, ExecId, Namespace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Accepts connections; holds nothing.
const LISTENER: TaskKind = TaskKind::dropped("shim events");

/// Serves one shim; an event under way is finished by the blocking pool.
const CONNECTION: TaskKind = TaskKind::dropped("shim event connection");

const READ_BYTES: usize = 4 << 10;

/// Listens on `path` and appends what shims send, until `tasks` shuts down.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(path: &Path, db: Db, tasks: &TaskTree) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    let owner = tasks.clone();
    tasks.spawn(LISTENER, move |_token| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _peer)) => {
                    let db = db.clone();
                    owner.spawn(CONNECTION, move |_token| async move {
                        if let Err(error) = converse(stream, db).await {
                            tracing::debug!(%error, "a shim's event connection broke");
                        }
                    });
                }
                // Out of descriptors, most likely: breathe, then go on.
                Err(error) => {
                    tracing::warn!(
                        error = orlop_types::chain(&error),
                        "cannot accept a shim's event connection"
                    );
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(())
}

async fn converse(mut stream: UnixStream, db: Db) -> io::Result<()> {
    let mut connection = Connection::default();
    let mut buffer = [0; READ_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        connection.received(&buffer[..count]);
        while let Some(call) = connection.next_call().map_err(io::Error::other)? {
            let answer = take(&call, db.clone()).await;
            connection.respond(call.stream, answer);
        }
        while !connection.output().is_empty() {
            let written = stream.write(connection.output()).await?;
            connection.wrote(written);
        }
    }
}

async fn take(call: &Call, db: Db) -> Result<Vec<u8>, Status> {
    if call.service != events_service::SERVICE
        || events_service::Method::from_name(&call.method).is_none()
    {
        let text = format!("{}/{} is not served here", call.service, call.method);
        return Err(Status::new(Code::Unimplemented, text));
    }
    let invalid = |text: String| Status::new(Code::InvalidArgument, text);
    let request = ForwardRequest::decode(call.payload.as_slice())
        .map_err(|error| invalid(error.to_string()))?;
    let envelope = request
        .envelope
        .ok_or_else(|| invalid("an envelope is missing".to_owned()))?;
    let namespace =
        Namespace::new(&envelope.namespace).map_err(|error| invalid(error.to_string()))?;
    let Some(event) = translate(envelope).map_err(invalid)? else {
        return Ok(Vec::new());
    };
    let appended = blocking::run("append shim event", move || db.publish(&namespace, &event)).await;
    let unavailable = |text: String| Status::new(Code::Unavailable, text);
    appended
        .map_err(|error| unavailable(error.to_string()))?
        .map_err(|error| unavailable(error.to_string()))?;
    Ok(Vec::new())
}

/// The event to append, or `None` for what the task's machine announces itself.
fn translate(envelope: Envelope) -> Result<Option<Event>, String> {
    let event = envelope
        .event
        .ok_or_else(|| "an event is missing".to_owned())?;
    match envelope.topic.as_str() {
        "/tasks/create" | "/tasks/start" | "/tasks/delete" | "/tasks/paused" | "/tasks/resumed" => {
            Ok(None)
        }
        "/tasks/oom" => {
            let oom: TaskOom = unpack(&event)?;
            Ok(Some(Event::TaskOom {
                container: container(&oom.container_id)?,
            }))
        }
        "/tasks/exit" => exit(&unpack(&event)?),
        "/tasks/exec-added" => {
            let added: TaskExecAdded = unpack(&event)?;
            Ok(Some(Event::TaskExecAdded {
                container: container(&added.container_id)?,
                exec: exec(&added.exec_id)?,
            }))
        }
        "/tasks/exec-started" => {
            let started: TaskExecStarted = unpack(&event)?;
            let (container, exec) = (container(&started.container_id)?, exec(&started.exec_id)?);
            Ok(Some(Event::TaskExecStarted {
                container,
                exec,
                pid: started.pid,
            }))
        }
        "/tasks/checkpointed" => {
            let checkpointed: TaskCheckpointed = unpack(&event)?;
            let container = container(&checkpointed.container_id)?;
            Ok(Some(Event::TaskCheckpointed {
                container,
                checkpoint: checkpointed.checkpoint,
            }))
        }
        _ => Ok(Some(forwarded(envelope.topic, &event))),
    }
}

fn exit(exit: &TaskExit) -> Result<Option<Event>, String> {
    // The init process has the container's id; its end is the machine's to announce.
    if exit.id == exit.container_id || exit.id.is_empty() {
        return Ok(None);
    }
    let at: Option<SystemTime> = exit.exited_at.and_then(|stamp| stamp.try_into().ok());
    let nanos = at
        .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
        .unwrap_or_default()
        .as_nanos();
    Ok(Some(Event::TaskExit {
        container: container(&exit.container_id)?,
        process: exit.id.clone(),
        pid: exit.pid,
        exit_status: exit.exit_status,
        exited_at: i64::try_from(nanos).unwrap_or(i64::MAX),
        cause: None,
    }))
}

/// What a plugin of another kind says is passed on as it is.
fn forwarded(topic: String, event: &Any) -> Event {
    let value = event
        .value
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Event::Forwarded {
        topic,
        type_url: event.type_url.clone(),
        value,
        attributes: std::collections::BTreeMap::new(),
    }
}

fn unpack<M: Message + Name + Default>(event: &Any) -> Result<M, String> {
    any::unpack(event).map_err(|error| error.to_string())
}

fn container(id: &str) -> Result<ContainerId, String> {
    ContainerId::new(id).map_err(|error| error.to_string())
}

fn exec(id: &str) -> Result<ExecId, String> {
    ExecId::new(id).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope<M: Message + Name>(topic: &str, event: &M) -> Envelope {
        let (topic, namespace) = (topic.to_owned(), "default".to_owned());
        Envelope {
            timestamp: None,
            namespace,
            topic,
            event: Some(any::pack(event)),
        }
    }

    #[test]
    fn the_life_of_a_task_is_left_to_its_machine() {
        let exit = TaskExit {
            container_id: "web".into(),
            id: "web".into(),
            ..TaskExit::default()
        };
        assert_eq!(translate(envelope("/tasks/exit", &exit)), Ok(None));
        let start = orlop_api::containerd::events::TaskStart::default();
        assert_eq!(translate(envelope("/tasks/start", &start)), Ok(None));
    }

    #[test]
    fn what_only_the_shim_knows_is_kept() {
        let oom = TaskOom {
            container_id: "web".into(),
        };
        let web = ContainerId::new("web").unwrap();
        assert_eq!(
            translate(envelope("/tasks/oom", &oom)),
            Ok(Some(Event::TaskOom { container: web }))
        );
        let exit = TaskExit {
            container_id: "web".into(),
            id: "sh".into(),
            exit_status: 3,
            ..TaskExit::default()
        };
        let Ok(Some(Event::TaskExit {
            process,
            exit_status: 3,
            ..
        })) = translate(envelope("/tasks/exit", &exit))
        else {
            panic!("the end of a further process was dropped");
        };
        assert_eq!(process, "sh");
    }

    #[test]
    fn an_event_that_names_no_container_is_refused() {
        let oom = TaskOom {
            container_id: "../web".into(),
        };
        assert!(translate(envelope("/tasks/oom", &oom)).is_err());
        let nothing = Envelope {
            topic: "/tasks/oom".into(),
            ..Envelope::default()
        };
        assert!(translate(nothing).is_err());
    }

    #[test]
    fn an_unknown_event_is_passed_on_whole() {
        let event = Any {
            type_url: "x.Y".into(),
            value: vec![0xab, 1],
        };
        let envelope = Envelope {
            topic: "/vendor/thing".into(),
            event: Some(event),
            ..Envelope::default()
        };
        let Ok(Some(Event::Forwarded { value, .. })) = translate(envelope) else {
            panic!("it was dropped")
        };
        assert_eq!(value, "ab01");
    }
}

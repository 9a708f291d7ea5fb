//! What calls about a container's streams have in common.

use orlop_runtime::{Error, Status as TaskStatus};
use orlop_types::ContainerId;
use tonic::{Code, Status};

use crate::streaming::{TokenError, Wanted};
use crate::{Cri, find, status, translate};

/// The length of an id in full.
const ID_DIGITS: usize = 64;

/// Which streams a request wants.
///
/// # Errors
/// `INVALID_ARGUMENT`: none, or standard error beside a terminal.
pub(super) fn wanted(
    stdin: bool,
    stdout: bool,
    stderr: bool,
    terminal: bool,
) -> Result<Wanted, Status> {
    if terminal && stderr {
        return Err(status::invalid_text(
            "a terminal has no standard error of its own",
        ));
    }
    if !stdin && !stdout && !stderr {
        return Err(status::invalid_text(
            "one of stdin, stdout and stderr is required",
        ));
    }
    Ok(Wanted {
        stdin,
        stdout,
        stderr,
        terminal,
    })
}

/// A container that runs.
///
/// # Errors
/// There is none, or it does not run.
pub(super) async fn running(cri: &Cri, text: &str) -> Result<ContainerId, Status> {
    if text.is_empty() {
        return Err(status::missing("container_id"));
    }
    let id: ContainerId = if text.len() < ID_DIGITS {
        find::member(cri, text).await?.id
    } else {
        translate::parse(text)?
    };
    let stands = |standing: String| {
        let text = format!("container {id} does not run: it is {standing}");
        Err(status::failed_precondition(text.to_lowercase()))
    };
    match cri.runtime().state(cri.namespace(), &id, None).await {
        Ok(state) => match state.status {
            TaskStatus::Running => Ok(id),
            TaskStatus::Created
            | TaskStatus::Stopped
            | TaskStatus::Paused
            | TaskStatus::Unknown => stands(format!("{:?}", state.status)),
        },
        // Before its start and after its end a container has no task.
        Err(Error::NoTask { .. }) => {
            let member = find::member(cri, id.as_str()).await?;
            stands(member.standing().to_owned())
        }
        Err(error) => Err(status::of_runtime(&error)),
    }
}

/// Why there is no URL.
pub(super) fn no_token(error: &TokenError) -> Status {
    match error {
        TokenError::TooMany => Status::new(Code::ResourceExhausted, error.to_string()),
        TokenError::NotRandom => Status::new(Code::Internal, error.to_string()),
    }
}

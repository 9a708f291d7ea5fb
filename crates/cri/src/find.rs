//! Pods and containers by what a request calls them: an id, or the beginning of one, as people type it with crictl.

use orlop_runtime::ErrorKind;
use orlop_runtime::member::Member;
use orlop_runtime::pod::Pod;
use orlop_types::{ContainerId, SandboxId};
use tonic::Status;

use crate::{Cri, status, translate};

/// The length of an id in full; anything shorter may be the beginning of one.
const ID_DIGITS: usize = 64;

/// One container.
///
/// # Errors
/// There is none, or there are several that begin so.
pub(crate) async fn member(cri: &Cri, text: &str) -> Result<Member, Status> {
    let id: ContainerId = translate::parse(text)?;
    match cri.runtime().member(cri.namespace(), &id).await {
        Err(error) if error.kind() == ErrorKind::NotFound && text.len() < ID_DIGITS => {}
        found => return found.map_err(|error| status::of_runtime(&error)),
    }
    let all = cri.runtime().members(cri.namespace(), None).await;
    let all = all.map_err(|error| status::of_runtime(&error))?;
    only("container", text, all, |member| member.id.as_str())
}

/// One pod.
///
/// # Errors
/// There is none, or there are several that begin so.
pub(crate) async fn pod(cri: &Cri, text: &str) -> Result<Pod, Status> {
    let id: SandboxId = translate::parse(text)?;
    match cri.runtime().pod(cri.namespace(), &id).await {
        Err(error) if error.kind() == ErrorKind::NotFound && text.len() < ID_DIGITS => {}
        found => return found.map_err(|error| status::of_runtime(&error)),
    }
    let all = cri.runtime().pods(cri.namespace()).await;
    let all = all.map_err(|error| status::of_runtime(&error))?;
    only("pod sandbox", text, all, |pod| pod.id.as_str())
}

/// Whether a filter's id means this one; an empty filter means all.
pub(crate) fn begins(id: &str, wanted: &str) -> bool {
    id.starts_with(wanted)
}

/// What was asked for, or nothing if it is not there: stopping and removing that succeeds.
///
/// # Errors
/// Everything but `NOT_FOUND`.
pub(crate) fn if_there<T>(found: Result<T, Status>) -> Result<Option<T>, Status> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

fn only<T>(kind: &str, text: &str, all: Vec<T>, id: impl Fn(&T) -> &str) -> Result<T, Status> {
    let mut matching = all.into_iter().filter(|one| begins(id(one), text));
    match (matching.next(), matching.next()) {
        (None, _) => Err(status::not_found(format!("{kind} {text:?}"))),
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(status::invalid_text(format!(
            "{text:?} is the beginning of several ids: give more digits"
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn find(text: &str) -> Result<&'static str, tonic::Code> {
        let all = vec!["abc1", "abc2", "def1"];
        only("pod sandbox", text, all, |id| id).map_err(|status| status.code())
    }

    #[test]
    fn the_beginning_of_one_id_is_enough() {
        assert_eq!(find("d"), Ok("def1"));
        assert_eq!(find("abc2"), Ok("abc2"));
        assert_eq!(find("abc"), Err(tonic::Code::InvalidArgument));
        assert_eq!(find("x"), Err(tonic::Code::NotFound));
    }

    #[test]
    fn what_is_not_there_is_no_error_to_whom_that_is_as_good() {
        assert_eq!(if_there(Ok(1)).unwrap(), Some(1));
        assert_eq!(if_there::<i32>(Err(Status::not_found(""))).unwrap(), None);
        assert!(if_there::<i32>(Err(Status::internal(""))).is_err());
    }
}

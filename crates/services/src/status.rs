//! How errors become gRPC statuses, for the whole façade.
//!
//! The code tells a client what to do; the message tells a person what happened: every cause, and the id of the page
//! that explains it.

use std::error::Error as StdError;

use orlop_base::blocking::BlockingError;
use orlop_types::{ErrorKind, chain};
use tonic::{Code, Status};

/// A request that can never be accepted.
const INVALID_REQUEST: &str = "ORL-E7001";
/// A request that the present state forbids.
const PRECONDITION: &str = "ORL-E7002";
/// A subject that is not there.
const UNKNOWN_SUBJECT: &str = "ORL-E7004";
/// A subject that is there already.
const KNOWN_SUBJECT: &str = "ORL-E7006";
/// Bytes that are not what they were.
const DAMAGED: &str = "ORL-E7007";
/// The daemon ends.
const SHUTTING_DOWN: &str = "ORL-E7008";
/// A reader missed events.
const EVENTS_LOST: &str = "ORL-E7009";
/// Folders of removed snapshots stay.
const NOT_CLEANED: &str = "ORL-E7010";
/// A file of the daemon cannot be read.
const UNREADABLE: &str = "ORL-E7011";
/// Others have to be done first.
const TOO_MANY: &str = "ORL-E7012";
/// This daemon does not do that.
const NOT_DONE: &str = "ORL-E7013";
/// A defect of the daemon.
pub(crate) const DEFECT: &str = "ORL-E7003";

/// A status for a request that can never be accepted.
pub(crate) fn invalid(error: &dyn StdError) -> Status {
    coded(Code::InvalidArgument, INVALID_REQUEST, &chain(error))
}

/// A status for a request that can never be accepted, in words.
pub(crate) fn invalid_text(message: impl AsRef<str>) -> Status {
    coded(Code::InvalidArgument, INVALID_REQUEST, message.as_ref())
}

/// A status for a request that has a part missing.
pub(crate) fn missing(field: &str) -> Status {
    invalid_text(format!("{field} is required"))
}

/// A status for a subject that is not there.
pub(crate) fn not_found(subject: impl AsRef<str>) -> Status {
    coded(
        Code::NotFound,
        UNKNOWN_SUBJECT,
        &format!("{} not found", subject.as_ref()),
    )
}

/// A status for a request that the present state forbids.
pub(crate) fn failed_precondition(message: impl AsRef<str>) -> Status {
    coded(Code::FailedPrecondition, PRECONDITION, message.as_ref())
}

/// A status for a position that is not there.
pub(crate) fn out_of_range(message: impl AsRef<str>) -> Status {
    coded(Code::OutOfRange, INVALID_REQUEST, message.as_ref())
}

/// A status for a subject that is there already.
pub(crate) fn already_exists(subject: impl AsRef<str>) -> Status {
    coded(
        Code::AlreadyExists,
        KNOWN_SUBJECT,
        &format!("{} already exists", subject.as_ref()),
    )
}

/// A status for a request that has to wait until others are done.
pub(crate) fn exhausted(message: impl AsRef<str>) -> Status {
    coded(Code::ResourceExhausted, TOO_MANY, message.as_ref())
}

/// A status for what this daemon does not do.
pub(crate) fn unimplemented(message: impl AsRef<str>) -> Status {
    coded(Code::Unimplemented, NOT_DONE, message.as_ref())
}

/// A status for bytes that are not what they were.
pub(crate) fn damaged(message: impl AsRef<str>) -> Status {
    tracing::error!(
        id = DAMAGED,
        message = message.as_ref(),
        "stored bytes are damaged"
    );
    coded(Code::DataLoss, DAMAGED, message.as_ref())
}

/// A status for a reader that was too slow for the events that are kept.
pub(crate) fn events_lost(count: u64) -> Status {
    coded(
        Code::DataLoss,
        EVENTS_LOST,
        &format!("{count} events are no longer kept: list anew"),
    )
}

/// A status for folders that could not be deleted.
pub(crate) fn not_cleaned(first: &dyn StdError, count: usize) -> Status {
    let message = format!(
        "{count} folders could not be deleted, the first: {}",
        chain(first)
    );
    coded(Code::Internal, NOT_CLEANED, &message)
}

/// A status for a file of the daemon that cannot be read.
pub(crate) fn unreadable(subject: &str, error: &std::io::Error) -> Status {
    coded(
        Code::Internal,
        UNREADABLE,
        &format!("cannot read {subject}: {error}"),
    )
}

/// A status for what the daemon does no more.
pub(crate) fn shutting_down() -> Status {
    coded(
        Code::Unavailable,
        SHUTTING_DOWN,
        "the daemon is shutting down",
    )
}

/// A job that gave no result: it panicked, or the daemon goes away.
pub(crate) fn of_blocking(error: &BlockingError) -> Status {
    let code = match error {
        BlockingError::Panicked { .. } => Code::Internal,
        BlockingError::Cancelled { .. } => Code::Unavailable,
    };
    coded(code, DEFECT, &chain(error))
}

/// What the database says.
pub(crate) fn of_meta(error: &orlop_meta::Error) -> Status {
    of(error, error.kind(), error.code())
}

/// What the runtime says.
pub(crate) fn of_runtime(error: &orlop_runtime::Error) -> Status {
    of(error, error.kind(), error.code())
}

/// What operations on images say.
pub(crate) fn of_image(error: &orlop_image::images::Error) -> Status {
    of(error, error.kind(), error.code())
}

fn of(error: &dyn StdError, kind: ErrorKind, id: &str) -> Status {
    let message = chain(error);
    if kind == ErrorKind::Internal {
        tracing::error!(id, error = message, "an operation failed");
    }
    coded(Code::from_i32(kind.number()), id, &message)
}

fn coded(code: Code, id: &str, message: &str) -> Status {
    Status::new(code, format!("{message} ({id})"))
}

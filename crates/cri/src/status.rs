//! How errors become gRPC statuses. The code tells the kubelet what to do; the message tells a person what happened:
//! every cause, and the id of the page that explains it.

use std::error::Error as StdError;

use orlop_base::blocking::BlockingError;
use orlop_types::{ErrorKind, chain};
use tonic::{Code, Status};

/// A request that can never be accepted.
const INVALID_REQUEST: &str = "ORL-E7001";
/// A request that the present state forbids.
const PRECONDITION: &str = "ORL-E7002";
/// A defect of the daemon.
const DEFECT: &str = "ORL-E7003";
/// A reader missed events.
const EVENTS_LOST: &str = "ORL-E7009";
/// An image that cannot be mounted as it is asked for; the runtime's own id for it.
const IMAGE_VOLUME: &str = "ORL-E7020";
/// A subject that is not there.
const UNKNOWN_SUBJECT: &str = "ORL-E7004";

/// A request that can never be accepted.
pub(crate) fn invalid(error: &dyn StdError) -> Status {
    coded(Code::InvalidArgument, INVALID_REQUEST, &chain(error))
}

/// A request that can never be accepted, in words.
pub(crate) fn invalid_text(message: impl AsRef<str>) -> Status {
    coded(Code::InvalidArgument, INVALID_REQUEST, message.as_ref())
}

/// A request that has a part missing.
pub(crate) fn missing(field: &str) -> Status {
    invalid_text(format!("{field} is required"))
}

/// A request that the present state forbids.
pub(crate) fn failed_precondition(message: impl AsRef<str>) -> Status {
    coded(Code::FailedPrecondition, PRECONDITION, message.as_ref())
}

/// A subject that is not there.
pub(crate) fn not_found(subject: impl AsRef<str>) -> Status {
    let message = format!("{} not found", subject.as_ref());
    coded(Code::NotFound, UNKNOWN_SUBJECT, &message)
}

/// A reader was too slow for the events that are kept.
pub(crate) fn events_lost(count: u64) -> Status {
    let message = format!("{count} events are no longer kept: list anew");
    coded(Code::DataLoss, EVENTS_LOST, &message)
}

/// A job that gave no result: it panicked, or the daemon goes away.
pub(crate) fn of_blocking(error: &BlockingError) -> Status {
    let code = match error {
        BlockingError::Panicked { .. } => Code::Internal,
        BlockingError::Cancelled { .. } => Code::Unavailable,
    };
    coded(code, DEFECT, &chain(error))
}

/// An image whose files cannot be mounted. The kubelet knows the first word (`ErrImageVolumeMountFailed` of cri-api).
pub(crate) fn image_volume(kind: ErrorKind, message: impl AsRef<str>) -> Status {
    let message = format!("ImageVolumeMountFailed: {}", message.as_ref());
    coded(Code::from_i32(kind.number()), IMAGE_VOLUME, &message)
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
        tracing::error!(id, error = message, "a call of CRI failed");
    }
    coded(Code::from_i32(kind.number()), id, &message)
}

fn coded(code: Code, id: &str, message: &str) -> Status {
    Status::new(code, format!("{message} ({id})"))
}

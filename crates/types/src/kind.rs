//! What an error means to whoever called: one vocabulary for every crate whose errors reach a client.

use std::error::Error;

/// What a caller can do about an error. The kinds are gRPC's status codes with the same numbers (google.rpc.Code), so
/// that every façade translates by [`ErrorKind::number`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ErrorKind {
    /// The caller went away.
    Cancelled = 1,
    /// The request can never be accepted as it is.
    InvalidArgument = 3,
    /// Something took too long and was given up.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// It is there already; often that is as good.
    AlreadyExists = 6,
    /// Credentials are wanted, or others.
    PermissionDenied = 7,
    /// The disk is full, or another bound is reached: make room, then retry.
    OutOfSpace = 8,
    /// The request is fine, the present state forbids it.
    FailedPrecondition = 9,
    /// This machine, or what is installed on it, cannot do it.
    Unimplemented = 12,
    /// Disk, database or another part failed: an operator has to look.
    Internal = 13,
    /// Somebody else is at it, or a peer is gone: retry.
    Unavailable = 14,
}

impl ErrorKind {
    /// The number of gRPC's status code.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// An error and its causes in one line, from the outermost to the innermost: for messages and records that outlive it.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

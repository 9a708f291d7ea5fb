//! The messages around every call, and the status that ends one.

use std::fmt;

/// A call, as it travels.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Request {
    /// The full name of the service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The method of the service.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The encoded message of the method.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    /// How long the caller will wait, in nanoseconds; 0 for ever.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
    /// Further words from the caller, such as its namespace.
    #[prost(message, repeated, tag = "5")]
    pub metadata: Vec<KeyValue>,
}

/// The answer to a call, as it travels.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Response {
    /// Absent, or with code 0, when the call succeeded.
    #[prost(message, optional, tag = "1")]
    pub status: Option<StatusMessage>,
    /// The encoded answer of the method.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// One word of metadata.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    /// Lower case, as in gRPC.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `google.rpc.Status` without details, which nobody sends over ttrpc.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StatusMessage {
    /// A [`Code`] as a number.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The codes of gRPC, which ttrpc shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// Anything without a better code.
    Unknown = 2,
    /// The input is wrong whatever the state.
    InvalidArgument = 3,
    /// Time ran out.
    DeadlineExceeded = 4,
    /// Not there.
    NotFound = 5,
    /// There already.
    AlreadyExists = 6,
    /// Not allowed.
    PermissionDenied = 7,
    /// A bound was reached.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// Lost against someone else; try again.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// No such method.
    Unimplemented = 12,
    /// A fault of the server.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
    /// Bytes were lost.
    DataLoss = 15,
    /// Who are you?
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Reads a number from the wire. Numbers nobody defined become [`Code::Unknown`].
    #[must_use]
    pub fn from_wire(number: i32) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
            .unwrap_or(Self::Unknown)
    }
}

/// Why the other side refused a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Status {
    /// What kind of refusal.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl Status {
    /// A refusal.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<Status> for StatusMessage {
    fn from(status: Status) -> Self {
        Self {
            code: status.code as i32,
            message: status.message,
        }
    }
}

impl Response {
    /// Splits an answer into what the caller wants: the payload, or why there is none.
    ///
    /// # Errors
    /// The status the other side sent.
    pub fn into_result(self) -> Result<Vec<u8>, Status> {
        match self.status {
            Some(status) if status.code != 0 => {
                Err(Status::new(Code::from_wire(status.code), status.message))
            }
            Some(_) | None => Ok(self.payload),
        }
    }

    /// The answer for a result.
    #[must_use]
    pub fn from_result(result: Result<Vec<u8>, Status>) -> Self {
        match result {
            Ok(payload) => Self {
                status: None,
                payload,
            },
            Err(status) => Self {
                status: Some(status.into()),
                payload: Vec::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire_and_unknown_numbers_are_unknown() {
        for code in Code::ALL {
            assert_eq!(Code::from_wire(code as i32), code);
        }
        for number in [-1, 17, i32::MAX, i32::MIN] {
            assert_eq!(Code::from_wire(number), Code::Unknown);
        }
    }

    #[test]
    fn an_answer_with_code_zero_is_a_success() {
        let response = Response {
            status: Some(StatusMessage::default()),
            payload: vec![1],
        };
        assert_eq!(response.into_result(), Ok(vec![1]));
    }

    #[test]
    fn a_refusal_comes_back_as_it_was() {
        let status = Status::new(Code::NotFound, "no such task");
        let response = Response::from_result(Err(status.clone()));
        assert_eq!(response.into_result(), Err(status));
    }
}

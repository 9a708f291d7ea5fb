//! Values that several calls translate.

use std::error::Error as StdError;
use std::str::FromStr;
use std::time::SystemTime;

use tonic::Status;

use crate::status;

/// Parses an id or digest of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` with what is wrong.
pub(crate) fn parse<T>(text: &str) -> Result<T, Status>
where
    T: FromStr<Err: StdError + 'static>,
{
    text.parse()
        .map_err(|error: T::Err| status::invalid(&error))
}

/// Nanoseconds since 1970, as CRI has its times; zero for none.
pub(crate) fn nanos(at: Option<SystemTime>) -> i64 {
    let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

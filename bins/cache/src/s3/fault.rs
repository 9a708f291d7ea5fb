//! What S3 says, and what it means for the caller.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use orlop_cache::depot::DepotErrorKind;

/// An error of the SDK, whatever the operation.
pub(super) trait Said {
    /// The status of the answer, if there was one.
    fn status(&self) -> Option<u16>;

    /// The store's own word for it.
    fn code(&self) -> Option<&str>;

    /// How long the store wants to be left alone.
    fn retry_after(&self) -> Option<Duration>;

    /// Whether the request was never sent, because something about it is wrong here.
    fn is_unsent(&self) -> bool;

    /// For an error's source.
    fn boxed(self) -> Option<Box<dyn StdError + Send + Sync>>;
}

impl<E> Said for SdkError<E, HttpResponse>
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    fn status(&self) -> Option<u16> {
        self.raw_response()
            .map(|response| response.status().as_u16())
    }

    fn code(&self) -> Option<&str> {
        self.as_service_error()?.code()
    }

    fn retry_after(&self) -> Option<Duration> {
        let text = self.raw_response()?.headers().get("retry-after")?;
        Some(Duration::from_secs(text.parse().ok()?))
    }

    fn is_unsent(&self) -> bool {
        match self {
            Self::ConstructionFailure(_) => true,
            // Credentials that cannot be had end here as well.
            Self::DispatchFailure(failure) => {
                let cause = failure.as_connector_error();
                failure.is_user() || cause.is_some_and(|cause| names_credentials(cause))
            }
            Self::TimeoutError(_) | Self::ResponseError(_) | Self::ServiceError(_) | _ => false,
        }
    }

    fn boxed(self) -> Option<Box<dyn StdError + Send + Sync>> {
        Some(Box::new(self))
    }
}

/// What the caller can do about it.
pub(super) fn said(error: &impl Said) -> DepotErrorKind {
    if error.is_unsent() {
        return DepotErrorKind::Refused;
    }
    match error.code() {
        Some("NoSuchKey" | "NotFound") => DepotErrorKind::Absent,
        Some("InvalidObjectState" | "ObjectNotInActiveTierError") => DepotErrorKind::Archived,
        Some("RestoreAlreadyInProgress") => DepotErrorKind::Restoring,
        Some("PreconditionFailed") => DepotErrorKind::Exists,
        // Somebody writes the same object at this moment.
        Some("ConditionalRequestConflict" | "OperationAborted") => DepotErrorKind::Throttled(None),
        Some("BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch") => {
            DepotErrorKind::Corrupt
        }
        Some(
            "SlowDown"
            | "ServiceUnavailable"
            | "RequestLimitExceeded"
            | "TooManyRequests"
            | "GlacierExpeditedRetrievalNotAvailable",
        ) => DepotErrorKind::Throttled(error.retry_after()),
        Some("RequestTimeout") => DepotErrorKind::Away,
        Some(_) | None => by_status(error),
    }
}

/// A HEAD has no body and so no word.
fn by_status(error: &impl Said) -> DepotErrorKind {
    match error.status() {
        Some(404) if error.code() != Some("NoSuchBucket") => DepotErrorKind::Absent,
        Some(412) => DepotErrorKind::Exists,
        Some(429 | 503) => DepotErrorKind::Throttled(error.retry_after()),
        Some(400..=499) => DepotErrorKind::Refused,
        Some(_) | None => DepotErrorKind::Away,
    }
}

fn names_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<aws_credential_types::provider::error::CredentialsError>() {
            return true;
        }
        next = error.source();
    }
    false
}

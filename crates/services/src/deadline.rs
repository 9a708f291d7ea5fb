//! Ends calls whose client has given them a deadline, in gRPC's words.
//!
//! tonic does so too, but as `CANCELLED`. gRPC means `DEADLINE_EXCEEDED`, which is what a client's own clock says; which of
//! the two a client hears depends on whose clock is first. Streams have begun when their head is sent, and are not cut.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// How a client says it (gRPC over HTTP/2, "Timeout").
const HEADER: &str = "grpc-timeout";

/// The most digits that gRPC allows.
const DIGITS_MAX: usize = 8;

/// Puts [`Timed`] around services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines;

/// A service whose calls end with their deadlines.
#[derive(Debug, Clone)]
pub(crate) struct Timed<S>(S);

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Layer<S> for Deadlines {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed(inner)
    }
}

impl<S, B> Service<Request<B>> for Timed<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Answer<S::Error> {
        let limit = limit(request.headers());
        let answer = self.0.call(request);
        let Some(limit) = limit else {
            return Box::pin(answer);
        };
        // The clock is started here and not with the first poll, so that tonic's, around it, is never earlier.
        let answer = tokio::time::timeout(limit, answer);
        Box::pin(async move { answer.await.unwrap_or_else(|_elapsed| Ok(late(limit))) })
    }
}

fn late(limit: Duration) -> Response<Body> {
    let text = format!("the call did not end within the {limit:?} that its client gave it");
    Status::deadline_exceeded(text).into_http()
}

/// What a client allows; nothing if it does not say, or nothing that makes sense.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.len() <= DIGITS_MAX && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _other => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn with(timeout: &str) -> Request<()> {
        let request = Request::builder().header(HEADER, timeout);
        request.body(()).unwrap()
    }

    #[test]
    fn a_limit_is_read_as_grpc_writes_it() {
        let read = |text: &str| limit(with(text).headers());
        for (text, millis) in [("2H", 7_200_000), ("3M", 180_000), ("1S", 1000), ("1m", 1)] {
            assert_eq!(read(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "S", "1", "-1S", "+1S", "1x", "123456789S", "1 S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_call_that_never_ends_is_told_as_late_and_not_as_cancelled() {
        let endless = tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let answer = Deadlines.layer(endless).call(with("1m")).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }
}

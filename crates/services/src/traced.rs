//! A span for each call, from its head to its last trailer, as OpenTelemetry wants calls described (RPC and gRPC
//! conventions), where spans are exported.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::Either;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use orlop_api::bytes::Bytes;
use orlop_base::telemetry::spans::{self, Remote};
use orlop_base::traced;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// Puts [`Traced`] around services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls;

/// A service whose calls have spans.
#[derive(Debug, Clone)]
pub(crate) struct Traced<S>(S);

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Layer<S> for Calls {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced(inner)
    }
}

impl<S, B> Service<Request<B>> for Traced<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Answer<S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !spans::are_exported() {
            return Either::Left(self.0.call(request));
        }
        let span = begun(request.uri().path(), request.headers());
        let answer = span.in_scope(|| self.0.call(request));
        let answer = answer.instrument(span.clone());
        Either::Right(Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            note(&span, &head.headers);
            let body = Body::new(Followed { body, span });
            Ok(Response::from_parts(head, body))
        }))
    }
}

fn begun(path: &str, headers: &HeaderMap) -> Span {
    let name = path.trim_start_matches('/');
    let (service, method) = name.rsplit_once('/').unwrap_or((name, ""));
    let span = traced!(
        parent: None,
        "call",
        otel.name = name,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
    );
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(parent) = header("traceparent") {
        let state = header("tracestate").unwrap_or_default();
        spans::adopt(&span, Remote { parent, state });
    }
    span
}

/// Notes how a call ended, if these headers or trailers tell.
fn note(span: &Span, headers: &HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    span.record("rpc.grpc.status_code", i64::from(status.code() as i32));
    let id = id_in(status.message());
    if is_fault(status.code()) {
        spans::describe(span, id, status.message());
    } else if !id.is_empty() {
        span.record("orlop.id", id);
    }
}

/// The codes for which a server is to blame; others are answers that clients live with.
fn is_fault(code: Code) -> bool {
    match code {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

/// The id at the end of a message, as the status has it: `… (ORL-E7004)`.
fn id_in(message: &str) -> &str {
    let id = message
        .rsplit_once('(')
        .map_or("", |(_, end)| end.trim_end_matches(')'));
    if id.starts_with("ORL-E") { id } else { "" }
}

/// The answer's body: what it does while it is read is the call's, and its trailers tell how the call ended.
struct Followed {
    body: Body,
    span: Span,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let span = this.span.clone();
        let frame = ready!(span.in_scope(|| Pin::new(&mut this.body).poll_frame(context)));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            note(&span, trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_an_answer_is_the_last_of_its_message() {
        assert_eq!(id_in("image \"a (b)\" not found (ORL-E7004)"), "ORL-E7004");
        assert_eq!(id_in("something else (really)"), "");
        assert_eq!(id_in(""), "");
    }
}

//! How the server is, for those who watch it: `/metrics`, `/healthz`, `/readyz` on an address of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::{Method, Request, Response, StatusCode};
use orlop_base::telemetry::Metrics;

use super::answer::{Answer, No, set};
use super::body::AnswerBody;

/// What is told. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Status {
    metrics: Metrics,
    is_ready: Arc<AtomicBool>,
}

impl Status {
    /// A server that is not ready yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            is_ready: Arc::default(),
        }
    }

    /// Whether new clients are to be sent here.
    pub fn set_ready(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Release);
    }

    pub(super) fn answer<B>(&self, request: &Request<B>) -> Answer {
        self.respond(request.method(), request.uri().path())
    }

    fn respond(&self, method: &Method, path: &str) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return No::wrong_method().into_answer(false);
        }
        let (status, kind, text) = match path {
            "/metrics" => (StatusCode::OK, Metrics::CONTENT_TYPE, self.metrics.text()),
            "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" if self.is_ready.load(Ordering::Acquire) => {
                (StatusCode::OK, "text/plain", "ready\n".to_owned())
            }
            "/readyz" => (
                StatusCode::SERVICE_UNAVAILABLE,
                "text/plain",
                "not ready\n".to_owned(),
            ),
            _ => (
                StatusCode::NOT_FOUND,
                "text/plain",
                "nothing here\n".to_owned(),
            ),
        };
        let body = if method == Method::HEAD {
            AnswerBody::empty()
        } else {
            AnswerBody::bytes(text)
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        set(answer.headers_mut(), "content-type", kind);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_readiness_and_figures_are_told() {
        let status = Status::new(Metrics::new());
        let code = |path: &str| status.respond(&Method::GET, path).status().as_u16();
        assert_eq!(code("/readyz"), 503);
        status.set_ready(true);
        assert_eq!(code("/readyz"), 200);
        assert_eq!(
            (code("/healthz"), code("/metrics"), code("/")),
            (200, 200, 404)
        );
        assert_eq!(status.respond(&Method::POST, "/metrics").status(), 405);
    }
}

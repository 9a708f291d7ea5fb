//! `/metrics`: the process's figures over plain HTTP, for a scraper on the node.
//!
//! Bounded: few connections at once, each for one request of a few kilobytes and a few seconds. Cancellation: a
//! connection is dropped with the daemon. Crash: nothing is kept.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use orlop_base::task::{TaskKind, TaskTree};
use orlop_base::telemetry::Metrics;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const LISTENER: TaskKind = TaskKind::dropped("metrics");
const CONNECTION: TaskKind = TaskKind::dropped("metrics-connection");

/// So many are answered at once; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;

/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// How long a peer may take to send its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait before the next accept when the last one failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `metrics` at `address`; nowhere if it is empty.
///
/// # Errors
/// The address cannot be taken.
pub(crate) async fn serve(address: &str, metrics: Metrics, tasks: &TaskTree) -> anyhow::Result<()> {
    if address.is_empty() {
        return Ok(());
    }
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on telemetry.metrics_address {address}"))?;
    let connections = tasks.child("metrics");
    drop(tasks.spawn(LISTENER, |_| accept(listener, metrics, connections)));
    Ok(())
}

async fn accept(listener: TcpListener, metrics: Metrics, connections: TaskTree) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = metrics.clone();
                drop(connections.spawn(CONNECTION, |_| async move {
                    converse(stream, metrics).await;
                    drop(place);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, metrics: Metrics) {
    let service = service_fn(move |request| {
        let response = answer(&request, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A peer that breaks off, or speaks something else, is its own problem.
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request for metrics failed"),
        Err(_) => tracing::debug!("a connection for metrics was cut"),
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    respond(request.method(), request.uri().path(), || metrics.text())
}

fn respond(method: &Method, path: &str, text: impl FnOnce() -> String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if path != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if method != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
    } else {
        *response.body_mut() = Full::from(text());
        let kind = HeaderValue::from_static(Metrics::CONTENT_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_of_the_one_path_is_answered() {
        for (method, path, status) in [
            (Method::GET, "/metrics", StatusCode::OK),
            (Method::POST, "/metrics", StatusCode::METHOD_NOT_ALLOWED),
            (Method::HEAD, "/metrics", StatusCode::METHOD_NOT_ALLOWED),
            (Method::GET, "/", StatusCode::NOT_FOUND),
            (Method::GET, "/metrics/../secret", StatusCode::NOT_FOUND),
        ] {
            let response = respond(&method, path, String::new);
            assert_eq!(response.status(), status, "{method} {path}");
        }
    }
}

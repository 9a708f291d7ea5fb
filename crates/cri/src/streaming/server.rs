//! The HTTP server in front of the streams: one request per connection, which is upgraded.
//!
//! Bounds: [`CONNECTIONS_MAX`] at once, a request's head of [`HEAD_BYTES_MAX`] within [`HEAD_TIMEOUT`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use orlop_base::task::{CancellationToken, TaskKind, TaskTree};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::mux::{Event, Limits, Link, Protocol, connect};
use super::negotiate::{
    Agreement, Dialect, PORT_FORWARD, REMOTE_COMMAND, Refusal, negotiate, version_of,
};
use super::remote::{Remote, Version, Wanted};
use super::websocket::{Channel, Channels, Tunnel};
use super::{Host, Subject, attach, exec, port_forward, spdy};

const LISTENER: TaskKind = TaskKind::dropped("streaming");
/// Ends by itself when its token is cancelled: clients are told that it is over.
const CONNECTION: TaskKind = TaskKind::cooperative("streaming connection");

/// Connections at once; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long a peer may take to send its request, TLS included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before the next accept when the last one failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `tasks` end.
pub(super) fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    host: Arc<Host>,
    tasks: &TaskTree,
) {
    let connections = tasks.child("streaming");
    drop(tasks.spawn(LISTENER, |_token| accept(listener, tls, host, connections)));
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    host: Arc<Host>,
    connections: TaskTree,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((socket, _)) => {
                let (host, tls) = (Arc::clone(&host), tls.clone());
                let start = move |token| begin(socket, tls, host, place, token);
                drop(connections.spawn(CONNECTION, start));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for streaming");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn begin(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    host: Arc<Host>,
    _place: OwnedSemaphorePermit,
    ending: CancellationToken,
) {
    // Keys that are typed are sent as they come.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a streaming connection may be slow");
    }
    let Some(tls) = tls else {
        return converse(socket, host, ending).await;
    };
    match timeout(HEAD_TIMEOUT, tls.accept(socket)).await {
        Ok(Ok(socket)) => converse(socket, host, ending).await,
        Ok(Err(error)) => tracing::debug!(%error, "a streaming connection without TLS"),
        Err(_) => tracing::debug!("a streaming connection was silent"),
    }
}

/// Answers the one request, and streams if it was a good one.
async fn converse<S>(socket: S, host: Arc<Host>, ending: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (accepted, session) = oneshot::channel();
    let accepted = std::sync::Mutex::new(Some(accepted));
    let answering = Arc::clone(&host);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let response = match answer(&answering, &mut request) {
            Ok((response, session)) => {
                let told = accepted.lock().map(|mut accepted| accepted.take());
                // Nobody to tell means a second request on the connection, which is not upgraded either.
                if let Ok(Some(told)) = told
                    && told.send(session).is_err()
                {
                    tracing::debug!("a streaming connection has ended before it began");
                }
                response
            }
            Err(refusal) => refusal.response(),
        };
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let served = tokio::select! {
        served = serving => served,
        () = ending.cancelled() => return,
    };
    // A peer that breaks off, or speaks something else, is its own problem.
    if let Err(error) = served {
        return tracing::debug!(%error, "a request for streaming failed");
    }
    if let Ok(session) = session.await {
        session.run(&host, ending).await;
    }
}

/// What is to be done on a connection once it is upgraded.
struct Session {
    subject: Subject,
    dialect: Dialect,
    version: Version,
    upgrade: OnUpgrade,
}

fn answer(
    host: &Host,
    request: &mut Request<Incoming>,
) -> Result<(Response<Full<Bytes>>, Session), Refusal> {
    let subject = redeem(host, request.method(), request.uri().path())?;
    let offer = match subject {
        Subject::Exec { .. } | Subject::Attach { .. } => REMOTE_COMMAND,
        Subject::PortForward { .. } => PORT_FORWARD,
    };
    let agreement = negotiate(request.headers(), offer)?;
    let version = version_of(&agreement);
    let Agreement {
        dialect, response, ..
    } = agreement;
    let subject = with_ports(subject, dialect, request.uri().query())?;
    let session = Session {
        subject,
        dialect,
        version,
        upgrade: hyper::upgrade::on(request),
    };
    Ok((response, session))
}

/// What a path's token stands for. Whatever is wrong looks the same: there is nothing to learn from an answer.
fn redeem(host: &Host, method: &Method, path: &str) -> Result<Subject, Refusal> {
    let not_found = || Refusal::new(StatusCode::NOT_FOUND, "not found");
    if method != Method::GET && method != Method::POST {
        return Err(not_found());
    }
    let mut parts = path.splitn(3, '/').skip(1);
    let (verb, token) = (parts.next(), parts.next());
    let subject = token
        .and_then(|token| host.tokens.redeem(token))
        .ok_or_else(not_found)?;
    let expected = match subject {
        Subject::Exec { .. } => "exec",
        Subject::Attach { .. } => "attach",
        Subject::PortForward { .. } => "portforward",
    };
    if verb == Some(expected) {
        Ok(subject)
    } else {
        Err(not_found())
    }
}

/// Clients of channels name their ports in the query, unless the call of CRI did.
fn with_ports(subject: Subject, dialect: Dialect, query: Option<&str>) -> Result<Subject, Refusal> {
    let (Subject::PortForward { network, mut ports }, Dialect::Channels { .. }) =
        (subject.clone(), dialect)
    else {
        return Ok(subject);
    };
    let bad = || {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "a WebSocket needs ports from 1 to 65535, at most 100 of them",
        )
    };
    if ports.is_empty() {
        let pairs = query.unwrap_or_default().split('&');
        let values = pairs.filter_map(|pair| pair.strip_prefix("port="));
        let numbers = values.flat_map(|value| value.split(','));
        let parsed: Result<Vec<u16>, _> = numbers.map(str::parse).collect();
        ports = parsed.map_err(|_| bad())?;
    }
    // Two channels each, and channels have one byte.
    if ports.is_empty() || ports.len() > 100 || ports.contains(&0) {
        return Err(bad());
    }
    Ok(Subject::PortForward { network, ports })
}

impl Session {
    async fn run(self, host: &Host, ending: CancellationToken) {
        let socket = match self.upgrade.await {
            Ok(socket) => TokioIo::new(socket),
            Err(error) => return tracing::debug!(%error, "a connection was not upgraded"),
        };
        let limits = Limits {
            idle: host.options.idle,
            ending,
        };
        let (subject, version) = (self.subject, self.version);
        match self.dialect {
            Dialect::Spdy => {
                let protocol = spdy::Connection::default();
                drive(
                    host,
                    (protocol, Vec::new()),
                    socket,
                    limits,
                    subject,
                    version,
                )
                .await;
            }
            Dialect::Tunnel => {
                let protocol = Tunnel::default();
                drive(
                    host,
                    (protocol, Vec::new()),
                    socket,
                    limits,
                    subject,
                    version,
                )
                .await;
            }
            Dialect::Channels {
                is_base64,
                can_close,
            } => {
                let channels = channels_of(&subject);
                let begun = Channels::new(&channels, is_base64, can_close);
                drive(host, begun, socket, limits, subject, version).await;
            }
        }
    }
}

async fn drive<P, S>(
    host: &Host,
    (protocol, begin): (P, Vec<Event>),
    socket: S,
    limits: Limits,
    subject: Subject,
    version: Version,
) where
    P: Protocol + 'static,
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let tells_ports = !begin.is_empty();
    let (connection, link) = connect(protocol, begin, socket, limits);
    // The session drops its ends when it is done, and so ends the connection; the connection's end ends the session.
    tokio::join!(connection, act(host, link, subject, version, tells_ports));
}

async fn act(host: &Host, mut link: Link, subject: Subject, version: Version, tells_ports: bool) {
    let wanted = match &subject {
        Subject::Exec { command, .. } => Wanted {
            stdin: command.stdin,
            stdout: command.stdout,
            stderr: command.stderr,
            terminal: command.terminal,
        },
        Subject::Attach { wanted, .. } => *wanted,
        Subject::PortForward { network, .. } => {
            return port_forward::run(host, network.clone(), link, tells_ports).await;
        }
    };
    let gathered = Remote::gather(&mut link, wanted, version, host.options.creation);
    let remote = match gathered.await {
        Ok(remote) => remote,
        Err(error) => return tracing::info!(%error, "a streaming connection ends"),
    };
    match subject {
        Subject::Exec { container, command } => {
            exec::run(host, &container, command, remote, &link.gone).await;
        }
        Subject::Attach { container, wanted } => {
            attach::run(host, &container, wanted, remote, &link.gone).await;
        }
        Subject::PortForward { .. } => {}
    }
}

/// The channels of a request, as all versions number them.
fn channels_of(subject: &Subject) -> Vec<Channel> {
    let named = |number, kind: &str, is_readable| Channel {
        number,
        is_readable,
        headers: vec![("streamtype".to_owned(), kind.to_owned())],
    };
    let Subject::PortForward { ports, .. } = subject else {
        return vec![
            named(0, "stdin", true),
            named(1, "stdout", false),
            named(2, "stderr", false),
            named(3, "error", false),
            named(4, "resize", true),
        ];
    };
    let mut channels = Vec::new();
    for (index, port) in (0_u8..).zip(ports) {
        for (offset, kind) in [(0, "data"), (1, "error")] {
            let mut channel = named(index * 2 + offset, kind, kind == "data");
            channel.headers.push(("port".to_owned(), port.to_string()));
            channel
                .headers
                .push(("requestid".to_owned(), index.to_string()));
            channels.push(channel);
        }
    }
    channels
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNELS: Dialect = Dialect::Channels {
        is_base64: false,
        can_close: false,
    };

    fn ports(given: &[u16], dialect: Dialect, query: &str) -> Option<Vec<u16>> {
        let subject = Subject::PortForward {
            network: None,
            ports: given.to_vec(),
        };
        match with_ports(subject, dialect, Some(query)) {
            Ok(Subject::PortForward { ports, .. }) => Some(ports),
            Ok(Subject::Exec { .. } | Subject::Attach { .. }) => panic!("another subject"),
            Err(_) => None,
        }
    }

    #[test]
    fn ports_come_from_the_call_or_from_the_query() {
        assert_eq!(ports(&[7], CHANNELS, "port=8"), Some(vec![7]));
        assert_eq!(
            ports(&[], CHANNELS, "a=b&port=8,9&port=10"),
            Some(vec![8, 9, 10])
        );
        assert_eq!(ports(&[], Dialect::Spdy, ""), Some(vec![]));
        for query in ["", "port=", "port=0", "port=65536", "port=x"] {
            assert_eq!(ports(&[], CHANNELS, query), None, "{query}");
        }
        assert_eq!(ports(&[1; 101], CHANNELS, ""), None);
    }

    #[test]
    fn every_port_has_two_channels() {
        let subject = Subject::PortForward {
            network: None,
            ports: vec![80, 443],
        };
        let channels = channels_of(&subject);
        let numbers: Vec<_> = channels
            .iter()
            .map(|one| (one.number, one.is_readable))
            .collect();
        assert_eq!(numbers, [(0, true), (1, false), (2, true), (3, false)]);
        assert_eq!(channels[3].headers[1].1, "443");
    }
}

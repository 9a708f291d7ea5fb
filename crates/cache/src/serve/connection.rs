//! Connections: accepted up to a number, with bounds on what a peer may send and how long it may do nothing.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use orlop_base::task::{CancellationToken, TaskKind, TaskTree};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

use super::answer::Answer;
use super::status::Status;
use super::tls::{self, Tls};
use super::{Making, Parts, Peer};

const LISTENER: TaskKind = TaskKind::dropped("cache-listener");
const CONNECTION: TaskKind = TaskKind::cooperative("cache-connection");

/// How long to wait before the next accept when the last one failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// Those who watch are few.
const STATUS_CONNECTIONS_MAX: usize = 8;

/// What peers may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; others wait in the kernel's queue.
    pub connections_max: usize,
    /// How long a peer may take to send a head, and how long a connection may be without a request.
    pub head_within: Duration,
    /// How long a peer may take nothing of an answer.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            head_within: Duration::from_secs(30),
            stall: Duration::from_secs(60),
        }
    }
}

/// A server that listens.
#[derive(Debug, Clone, Copy)]
pub struct Server;

impl Server {
    /// Answers whoever comes to `listener`, as a task of `tasks`: when those end, answers under way are finished as far
    /// as the grace goes, and connections without one are closed.
    pub fn start(
        listener: TcpListener,
        tls: Option<Tls>,
        making: Making,
        limits: Limits,
        tasks: &TaskTree,
    ) {
        let parts = Parts::new(making);
        let serving = Serving {
            answering: Arc::new(Answering::Registry(Box::new(parts))),
            tls,
            limits,
            tasks: tasks.child("connections"),
        };
        drop(tasks.spawn(LISTENER, |_| serving.accept(listener)));
    }

    /// Tells whoever comes to `listener` how the server is. Plain HTTP.
    pub fn start_status(listener: TcpListener, status: Status, limits: Limits, tasks: &TaskTree) {
        let serving = Serving {
            answering: Arc::new(Answering::Status(status)),
            tls: None,
            limits: Limits {
                connections_max: STATUS_CONNECTIONS_MAX,
                ..limits
            },
            tasks: tasks.child("status"),
        };
        drop(tasks.spawn(LISTENER, |_| serving.accept(listener)));
    }
}

/// What a listener is for.
enum Answering {
    Registry(Box<Parts>),
    Status(Status),
}

impl Answering {
    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        match self {
            Self::Registry(parts) => parts.answer(request, peer).await,
            Self::Status(status) => status.answer(&request),
        }
    }

    fn count(&self, more: i64) {
        if let Self::Registry(parts) = self {
            parts.figures().connections().inc_by(more);
        }
    }
}

struct Serving {
    answering: Arc<Answering>,
    tls: Option<Tls>,
    limits: Limits,
    tasks: TaskTree,
}

impl Serving {
    async fn accept(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.limits.connections_max.max(1)));
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let connection = Connection {
                        answering: Arc::clone(&self.answering),
                        tls: self.tls.clone(),
                        limits: self.limits,
                        address,
                    };
                    drop(self.tasks.spawn(CONNECTION, |ending| async move {
                        connection.converse(stream, ending).await;
                        drop(place);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

struct Connection {
    answering: Arc<Answering>,
    tls: Option<Tls>,
    limits: Limits,
    address: SocketAddr,
}

impl Connection {
    async fn converse(self, stream: TcpStream, ending: CancellationToken) {
        self.answering.count(1);
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection waits with small packets");
        }
        let ended = match &self.tls {
            None => self.serve(stream, None, ending).await,
            Some(tls) => {
                let handshake = tls.acceptor.accept(stream);
                let within = self.limits.head_within;
                match tokio::time::timeout(within, handshake).await {
                    Err(_elapsed) => Err("no handshake in time".to_owned()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Ok(Ok(stream)) => {
                        let shown = stream.get_ref().1.peer_certificates();
                        let name = shown.and_then(|chain| chain.first()).map(tls::name_of);
                        self.serve(stream, name, ending).await
                    }
                }
            }
        };
        // A peer that breaks off, or speaks something else, is its own problem.
        if let Err(problem) = ended {
            tracing::debug!(peer = %self.address, problem, "a connection ended early");
        }
        self.answering.count(-1);
    }

    async fn serve<S>(
        &self,
        stream: S,
        certificate: Option<String>,
        ending: CancellationToken,
    ) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = Arc::new(Peer {
            address: self.address.ip(),
            certificate,
        });
        let answering = Arc::clone(&self.answering);
        let service = service_fn(move |request| {
            let (answering, peer) = (Arc::clone(&answering), Arc::clone(&peer));
            async move { Ok::<_, Infallible>(answering.answer(request, &peer).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_within)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(
                TokioIo::new(Watched::new(stream, self.limits.stall)),
                service,
            );
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(|error| error.to_string()),
            () = ending.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await.map_err(|error| error.to_string())
    }
}

/// A stream whose writes fail when the peer takes nothing for a while.
struct Watched<S> {
    stream: S,
    stall: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    const fn new(stream: S, stall: Duration) -> Self {
        Self {
            stream,
            stall,
            waiting: None,
        }
    }

    /// Lets the clock run while a write waits, and stops it when one went through.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let stall = self.stall;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + stall)));
        match waiting.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let text = format!("the peer took nothing for {stall:?}");
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

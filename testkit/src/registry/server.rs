//! The listeners and the thread they run on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use http::HeaderMap;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::State;
use super::routes;

/// One request as it came in, and the status it got (0 when it was left without an answer).
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query, or nothing.
    pub query: String,
    /// All headers.
    pub headers: HeaderMap,
    /// Whether it came to the object store.
    pub at_storage: bool,
    /// The status of the answer.
    pub status: u16,
}

impl Seen {
    /// One header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Which of the two listeners took a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Registry,
    Storage,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) registry: SocketAddr,
    pub(crate) storage: SocketAddr,
    scheme: &'static str,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(state: &Arc<State>) -> io::Result<Self> {
        let registry = bind()?;
        let storage = bind()?;
        let (stop, stopped) = oneshot::channel();
        let addresses = (registry.local_addr()?, storage.local_addr()?);
        let shared = Arc::clone(state);
        let thread = std::thread::Builder::new()
            .name("fake-registry".to_owned())
            .spawn(move || run(&shared, registry, storage, stopped))?;
        Ok(Self {
            registry: addresses.0,
            storage: addresses.1,
            scheme: scheme(state),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(crate) fn registry_url(&self) -> String {
        format!("{}://{}", self.scheme, self.registry)
    }

    pub(crate) fn storage_url(&self) -> String {
        format!("{}://{}", self.scheme, self.storage)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed, and the test notices the missing answers.
            drop(thread.join());
        }
    }
}

fn scheme(state: &State) -> &'static str {
    #[cfg(feature = "tls")]
    if state.options.tls.is_some() {
        return "https";
    }
    #[cfg(not(feature = "tls"))]
    let _ = state;
    "http"
}

fn bind() -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn run(
    state: &Arc<State>,
    registry: std::net::TcpListener,
    storage: std::net::TcpListener,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a test machine can start a runtime");
    runtime.block_on(async {
        let registry = TcpListener::from_std(registry).expect("the runtime has an I/O driver");
        let storage = TcpListener::from_std(storage).expect("the runtime has an I/O driver");
        tokio::select! {
            // An error means that the sender is gone, which is how the registry is stopped.
            _ = stopped => {}
            () = accept(state, &registry, &storage) => {}
        }
    });
}

async fn accept(state: &Arc<State>, registry: &TcpListener, storage: &TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let (accepted, role) = tokio::select! {
            accepted = registry.accept() => (accepted, Role::Registry),
            accepted = storage.accept() => (accepted, Role::Storage),
            Some(_) = connections.join_next() => continue,
        };
        if let Ok((stream, _)) = accepted {
            connections.spawn(connection(Arc::clone(state), stream, role));
        }
    }
}

async fn connection(state: Arc<State>, stream: TcpStream, role: Role) {
    #[cfg(feature = "tls")]
    if let Some(identity) = &state.options.tls {
        if let Ok(stream) = identity.accept(stream).await {
            serve(Arc::clone(&state), stream, role).await;
        }
        return;
    }
    serve(state, stream, role).await;
}

async fn serve<S>(state: Arc<State>, stream: S, role: Role)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| routes::answer(Arc::clone(&state), role, request));
    // A broken connection is what many tests ask for.
    let _ended = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .is_ok();
}

//! Exec, attach and port-forward: the server that the kubelet, or whoever it sends there, streams to and from.
//!
//! A call of CRI answers with a URL that is good for one request within a minute; whoever has it may do what the call asked
//! for. The streams are spoken as SPDY/3.1 or over a WebSocket ([ADR 19]).
//!
//! Non-goals: who may exec, which is decided before the call; HTTP/2.
//!
//! Invariants:
//! - nothing is reachable without a token, and no token twice;
//! - connections, streams, frames, headers, queues and times are bounded (see [`server`], [`mux`], [`spdy`], [`websocket`]);
//! - a process whose client has gone is hung up on.
//!
//! Crash: connections end, tokens are forgotten; the next daemon hangs up on the processes. Shutdown: connections are told
//! that it is over and closed.
//!
//! Entry points: [`Streaming::start`], [`Streaming::exec`], [`Streaming::attach`], [`Streaming::port_forward`].
//!
//! [ADR 19]: ../../../../docs/adr/0019-own-streaming-codecs.md

mod attach;
mod exec;
mod mux;
mod negotiate;
mod port_forward;
mod remote;
mod server;
mod spdy;
mod status;
mod tls;
mod tokens;
mod websocket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::SharedClock;
use orlop_base::task::TaskTree;
use orlop_runtime::Runtime;
use orlop_runtime::exec::ExecCommand;
use orlop_types::{ContainerId, Namespace};
use tokio::net::TcpListener;

use tokens::Tokens;

pub(crate) use remote::Wanted;
pub(crate) use tokens::TokenError;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct StreamingOptions {
    /// Where it listens; port 0 for any that is free.
    pub address: SocketAddr,
    /// A connection on which nothing moves for so long is closed.
    pub idle: Duration,
    /// How long a client may take to open its streams.
    pub creation: Duration,
    /// How long output is waited for after the end of a process that left somebody behind who holds it open.
    pub drain: Duration,
    /// Absent for plain HTTP.
    pub tls: Option<TlsFiles>,
}

/// PEM files for TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, with those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities that vouch for clients; absent for clients without certificates.
    pub client_authorities: Option<PathBuf>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StreamingError {
    /// The address cannot be taken.
    #[error("cannot listen for streaming on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate for streaming, {path:?}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The server, as calls of CRI see it. Clones are the same.
#[derive(Clone)]
pub struct Streaming {
    base: Arc<str>,
    host: Arc<Host>,
}

/// What a URL stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    Exec {
        container: ContainerId,
        command: ExecCommand,
    },
    Attach {
        container: ContainerId,
        wanted: Wanted,
    },
    PortForward {
        /// The pod's network namespace; absent for the host's.
        network: Option<PathBuf>,
        /// Ports for clients that do not name them themselves.
        ports: Vec<u16>,
    },
}

/// What sessions share.
pub(crate) struct Host {
    runtime: Runtime,
    namespace: Namespace,
    options: StreamingOptions,
    tokens: Tokens<Subject>,
}

impl Streaming {
    /// Takes the address and serves until `tasks` end.
    ///
    /// # Errors
    /// [`StreamingError`].
    pub async fn start(
        runtime: Runtime,
        options: StreamingOptions,
        clock: SharedClock,
        tasks: &TaskTree,
    ) -> Result<Self, StreamingError> {
        let failed = |source| StreamingError::Listen {
            address: options.address,
            source,
        };
        let acceptor = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let listener = TcpListener::bind(options.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let host = Arc::new(Host {
            runtime,
            namespace: crate::namespace(),
            options,
            tokens: Tokens::new(clock),
        });
        server::serve(listener, acceptor, Arc::clone(&host), tasks);
        Ok(Self {
            base: format!("{scheme}://{address}").into(),
            host,
        })
    }

    /// A URL where a command can be run once.
    pub(crate) fn exec(
        &self,
        container: ContainerId,
        command: ExecCommand,
    ) -> Result<String, TokenError> {
        self.url("exec", Subject::Exec { container, command })
    }

    /// A URL where a container can be attached to once.
    pub(crate) fn attach(
        &self,
        container: ContainerId,
        wanted: Wanted,
    ) -> Result<String, TokenError> {
        self.url("attach", Subject::Attach { container, wanted })
    }

    /// A URL where ports of a pod can be reached over one connection.
    pub(crate) fn port_forward(
        &self,
        network: Option<PathBuf>,
        ports: Vec<u16>,
    ) -> Result<String, TokenError> {
        self.url("portforward", Subject::PortForward { network, ports })
    }

    fn url(&self, verb: &str, subject: Subject) -> Result<String, TokenError> {
        let token = self.host.tokens.issue(subject)?;
        Ok(format!("{}/{verb}/{token}", self.base))
    }
}

/// Feeds both protocols with any bytes at all; for fuzzing.
#[cfg(feature = "fuzzing")]
pub fn fuzz(bytes: &[u8]) {
    spdy::fuzz(bytes);
    websocket::fuzz(bytes);
}

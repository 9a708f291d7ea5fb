//! Connections to ports of a pod, made from inside its network namespace.
//!
//! Cancellation: dropping the future gives the attempt up. Crash: nothing is kept.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use orlop_base::blocking;
use orlop_sys::net::{Sockets, tcp_sockets};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::Error;
use crate::runtime::Runtime;

/// How long a connection within one machine may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Connects to `port` of the loopback interface in the network namespace pinned at `network`, or in the host's: by IPv4,
    /// then by IPv6.
    ///
    /// # Errors
    /// There is no such namespace, or nobody listens.
    pub async fn connect_to_port(
        &self,
        network: Option<PathBuf>,
        port: u16,
    ) -> Result<TcpStream, Error> {
        let failed = |source| Error::Forward { port, source };
        let sockets = sockets(network).await.map_err(failed)?;
        let first = match connect(sockets.v4, (Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match sockets.v6 {
            // The first fault is the one that is told: most listen on IPv4.
            Some(v6) => connect(v6, (Ipv6Addr::LOCALHOST, port).into())
                .await
                .map_err(|_| failed(first)),
            None => Err(failed(first)),
        }
    }
}

/// Sockets of the network namespace pinned at `network`, or of the host's.
pub(crate) async fn sockets(network: Option<PathBuf>) -> io::Result<Sockets> {
    let made = blocking::run("make sockets", move || tcp_sockets(network.as_deref()));
    made.await.map_err(io::Error::other)?
}

pub(crate) async fn connect(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpStream> {
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
    timeout(CONNECT_LIMIT, connecting)
        .await
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

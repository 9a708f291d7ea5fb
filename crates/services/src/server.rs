//! The socket: who may connect, and how long a message may be.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::net::{UnixListener, UnixStream};
use tonic::service::Routes;
use tonic::transport::Server;

use crate::authority::Lenient;
use crate::deadline::Deadlines;
use crate::traced::Calls;

/// The longest message in either direction, in bytes: containerd's own limit.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How long to wait before the next accept when the last one failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The users and groups whose processes may call. Everybody else is turned away, whatever the socket's mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// User ids.
    pub users: BTreeSet<u32>,
    /// Primary group ids.
    pub groups: BTreeSet<u32>,
}

impl Access {
    /// Root, and nobody else.
    #[must_use]
    pub fn root_only() -> Self {
        Self {
            users: BTreeSet::from([0]),
            groups: BTreeSet::new(),
        }
    }

    fn admits(&self, user: u32, group: u32) -> bool {
        self.users.contains(&user) || self.groups.contains(&group)
    }
}

/// Why the server ended before it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the socket")]
pub struct ServeError(#[source] tonic::transport::Error);

impl ServeError {
    /// The stable id of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "ORL-E7005"
    }
}

/// Serves `routes` on `listener` until `shutdown` ends; then lets open calls end. Streams that never end by themselves
/// are cut by dropping the future.
///
/// # Errors
/// The transport failed.
pub async fn serve(
    listener: UnixListener,
    access: Access,
    routes: Routes,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    Server::builder()
        .layer(Calls)
        .layer(Deadlines)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections(listener, access), shutdown)
        .await
        .map_err(ServeError)
}

/// Connections of admitted peers, for ever.
fn connections(
    listener: UnixListener,
    access: Access,
) -> impl Stream<Item = Result<Lenient<UnixStream>, Infallible>> {
    stream::unfold((listener, access), |(listener, access)| async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) if is_admitted(&connection, &access) => {
                    return Some((Ok(Lenient::new(connection)), (listener, access)));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

fn is_admitted(connection: &UnixStream, access: &Access) -> bool {
    match connection.peer_cred() {
        Ok(peer) => {
            let admitted = access.admits(peer.uid(), peer.gid());
            if !admitted {
                tracing::warn!(user = peer.uid(), pid = ?peer.pid(), "turned a peer away");
            }
            admitted
        }
        Err(error) => {
            tracing::warn!(%error, "turned a peer away that cannot be identified");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_users_and_groups_are_admitted() {
        let mut access = Access::root_only();
        assert!(access.admits(0, 5));
        assert!(!access.admits(5, 0));
        access.groups.insert(7);
        assert!(access.admits(5, 7));
    }
}

//! Sockets of network namespaces other than the process's own.
//!
//! A socket stays in the namespace it was made in. It is made on a thread of its own that enters the namespace and ends
//! right after: no other thread of the process ever changes its namespace, and nothing is forked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Sockets of one namespace: close-on-exec, not blocking, not connected.
#[derive(Debug)]
pub struct Sockets {
    /// For IPv4.
    pub v4: OwnedFd,
    /// For IPv6; absent where the kernel has none.
    pub v6: Option<OwnedFd>,
}

/// Makes TCP sockets in the network namespace pinned at `path`, or in the process's own. Blocks for the time a thread takes to
/// start and end.
///
/// # Errors
/// The file is missing or no network namespace, or a limit is reached.
pub fn tcp_sockets(path: Option<&Path>) -> io::Result<Sockets> {
    sockets_in(path, SocketType::STREAM)
}

/// As [`tcp_sockets`], for UDP.
///
/// # Errors
/// As [`tcp_sockets`].
pub fn udp_sockets(path: Option<&Path>) -> io::Result<Sockets> {
    sockets_in(path, SocketType::DGRAM)
}

fn sockets_in(path: Option<&Path>, kind: SocketType) -> io::Result<Sockets> {
    let Some(path) = path else {
        return sockets(kind);
    };
    let namespace = File::open(path)?;
    let enter = move || {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), network)?;
        sockets(kind)
    };
    let thread = std::thread::Builder::new().name("netns".to_owned());
    let made = thread.spawn(enter)?.join();
    made.unwrap_or_else(|_panic| Err(io::Error::other("the thread that enters it panicked")))
}

fn sockets(kind: SocketType) -> io::Result<Sockets> {
    let socket = |family| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, kind, flags, None)
    };
    Ok(Sockets {
        v4: socket(AddressFamily::INET)?,
        v6: socket(AddressFamily::INET6).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_refused() {
        assert!(tcp_sockets(Some(Path::new("/nonexistent"))).is_err());
        assert!(tcp_sockets(Some(Path::new("/dev/null"))).is_err());
        assert!(tcp_sockets(None).is_ok());
    }
}

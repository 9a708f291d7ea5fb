//! SPDY/3.1 as a server speaks it, without input and output: bytes go in, events and bytes come out.
//!
//! Why own code: see ADR 19. What the clients of Kubernetes do decides where the draft and they differ: `client-go` takes no
//! part in flow control, so a window that nobody ever opens is taken for one that is not there
//! ([`Connection::assume_no_flow_control`]).
//!
//! Bounds: a control frame is at most 16 KiB, its headers 32 KiB once inflated; data is passed on in the pieces it comes in,
//! so that a frame of 16 MiB takes no memory; a connection has at most [`STREAMS_MAX`] open streams. What is to be sent is
//! bounded by whoever drives this: nothing is received while too much of it waits.

mod connection;
mod dictionary;
mod headers;
mod wire;

pub(crate) use connection::Connection;
#[cfg(feature = "fuzzing")]
pub(crate) use connection::fuzz;

/// Streams at once on a connection: forwarding a port takes two per connection to it.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    /// Another version.
    #[error("a frame of SPDY version {0}")]
    Version(u16),
    /// A control frame is too long.
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    /// A control frame does not have what its type promises.
    #[error("a frame of type {0} is cut short or too long")]
    Malformed(u16),
    /// Headers cannot be inflated or parsed.
    #[error("headers that are no header block")]
    Headers,
    /// Headers are longer than anybody needs.
    #[error("headers that are too long or too many")]
    HeadersTooLong,
    /// A stream has a number that the peer may not give.
    #[error("stream {0} is out of order")]
    StreamOrder(u32),
    /// A window grows beyond what the draft allows.
    #[error("the window of stream {0} overflows")]
    Window(u32),
}

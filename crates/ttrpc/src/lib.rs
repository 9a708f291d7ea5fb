//! The ttrpc protocol: how containerd and its shims talk over a unix socket.
//!
//! Purpose: framing, the two messages around every call, and both ends of a connection as plain state without input
//! or output ([`server::Connection`], [`caller::Connection`]). A shim drives them from its own epoll loop; the daemon uses
//! the asynchronous [`client::Client`] (feature `client`).
//!
//! Non-goals: services and their methods, sockets, server-initiated streams, streaming calls. A streaming call is
//! answered with [`Code::Unimplemented`], never with silence.
//!
//! Invariants:
//! - no input panics or makes memory grow beyond one frame of [`frame::DATA_BYTES_MAX`] bytes and the bounds stated by
//!   each side; what breaks the protocol ends in an answer or a [`frame::FrameError`];
//! - answers may come in any order; each stream is answered at most once;
//! - a lost connection and a remote status are different errors.
//!
//! Entry points: [`server::Connection`], [`caller::Connection`], and `client::Client` with its feature.
//!
//! Source: `PROTOCOL.md` of github.com/containerd/ttrpc, version 1.2.

pub mod caller;
#[cfg(feature = "client")]
pub mod client;
pub mod frame;
mod message;
pub mod server;

pub use message::{Code, KeyValue, Request, Response, Status, StatusMessage};

//! Exec, attach and port-forward through the daemon, with real clients' protocols, real containers and the real kernel.
//!
//! Needs root, `runc` and a static `busybox`. The client of SPDY is the one of these tests: it does what client-go does.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and starts its peers itself"
)]

mod attach;
mod exec;
mod forward;
mod node;
mod spdy;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
mod websocket;

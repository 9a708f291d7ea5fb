//! The daemon on a scratch root, asked by Debian's `ctr` and by the generated clients.
//!
//! Needs root, for the overlay, and `ctr` of Debian's containerd package.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and starts its peers itself"
)]

mod collect;
mod content;
mod ctr;
mod mounts;
mod orlop;
mod peers;
mod server;
mod spans;
#[path = "../support/mod.rs"]
mod support;
mod transfer;

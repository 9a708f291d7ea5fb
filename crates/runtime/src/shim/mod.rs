//! Shims: the small processes that hold containers, so that the daemon may come and go.

mod connection;
mod info;
mod launch;

pub(crate) use connection::{Ended, Protocol, Shim};
pub(crate) use info::info;
pub(crate) use launch::{Bootstrap, Launch, cleanup, connect, launch};

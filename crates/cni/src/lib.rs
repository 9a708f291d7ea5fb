//! A client of the Container Network Interface (CNI specification 1.1).
//!
//! Purpose: load network configuration lists, run their plugins in order, keep their results, and take attachments down
//! with exactly the configuration and capabilities they were made with.
//!
//! Non-goals: choosing a network for a pod, making network namespaces, talking to the kernel about links or routes.
//!
//! Invariants:
//! - every plugin run has a deadline, after which it is killed;
//! - an attachment's configuration and result are on disk before `add` returns, so that `del` never depends on what the
//!   configuration folder says later (a host port rule would leak otherwise);
//! - an `add` that fails has been followed by `del`.
//!
//! Everything is synchronous: callers run it in their blocking pool.
//!
//! Entry points: [`Network::load`], [`Network::add`], [`detach`], [`collect`].

mod cache;
mod config;
mod error;
mod exec;
mod id;
mod network;
mod protocol;
mod result;

pub use cache::CacheFault;
pub use config::{ConfigList, ListFault, Plugin};
pub use error::Error;
pub use exec::{Invocation, Plugins, Run, Runner};
pub use id::{AttachmentId, AttachmentIdError};
pub use network::{Attachment, Collected, Network, Settings, collect, detach};
pub use protocol::Command;
pub use result::{Address, Dns, Interface, Outcome, Route};

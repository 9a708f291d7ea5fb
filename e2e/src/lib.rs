//! What end-to-end suites and benches share: scratch daemons, a registry and images, all real.
//!
//! Purpose: `orlopd`, Debian's containerd and Debian's docker-registry on roots of their own below one scratch folder,
//! driven by the same generated gRPC client, and figures read from `/proc`.
//!
//! Non-goals: doubles that inject faults (they are in `testkit`), and assertions on time.
//!
//! Invariants:
//! - everything a run makes carries the scratch folder's name or lies below it, so that the end can find it;
//! - whatever fails, the end is the same: containers, shims, daemons, mounts, cgroups, files, in that order;
//! - processes are ended by id, after a look at what they are; servers listen on loopback only.
//!
//! Entry points: [`Scratch`], [`Engine`], [`Registry`], [`Cache`], [`Client`], [`container::Cycle`], [`Node`], [`Site`],
//! [`Network`], [`Kubelet`], [`traces`], [`figures`].

mod cache;
pub mod client;
pub mod container;
mod daemon;
pub mod dead_volume;
mod engine;
pub mod figures;
mod ground;
pub mod guest;
pub mod image;
pub mod kubelet;
mod leftovers;
mod network;
pub mod node;
pub mod pods;
pub mod programs;
mod registry;
mod scratch;
pub mod site;
pub mod traces;
pub mod websocket;
pub mod workload;

pub use cache::Cache;
pub use client::Client;
pub use daemon::Daemon;
pub use engine::{Engine, Kind, Options, Pods};
pub use ground::Ground;
pub use kubelet::Kubelet;
pub use leftovers::Helper;
pub use network::Network;
pub use node::Node;
pub use programs::Programs;
pub use registry::Registry;
pub use scratch::Scratch;
pub use site::Site;

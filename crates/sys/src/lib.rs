//! System calls with owned, typed results.
//!
//! Purpose: the one place that speaks to the kernel in ways the standard library does not: files beneath a root,
//! mounts by descriptor, cgroups of both versions, namespaces, processes and their signals.
//!
//! Non-goals: the domain. Nothing in here knows of images, snapshots, containers or pods. Nothing is asynchronous.
//!
//! Invariants:
//! - every `unsafe` block of the workspace is in this crate, each with the reason why it is sound;
//! - nothing is removed by a path that was put together from a text: removal takes a directory and a checked name;
//! - no call changes what other threads of the process share, such as their namespaces or their working directory.
//!
//! Entry points: [`fs::Dir`], [`beneath`], [`mount::mount_all`], [`cgroup::Cgroup`], [`namespace::create`],
//! [`process::Spawn`], [`signal::SignalFd`].

pub mod beneath;
pub mod cgroup;
mod credentials;
pub mod fs;
pub mod mount;
pub mod namespace;
pub mod net;
pub mod process;
pub mod signal;

//! What every asynchronous part of Orlop stands on: tasks, blocking jobs, time, configuration, telemetry.
//!
//! Purpose: one way to start a task, to block, to ask the time, to read a setting and to show a figure, so that
//! shutdown, tests and operators find them all in one place.
//!
//! Non-goals: knowledge of images, snapshots or containers; system calls (those are `orlop-sys`).
//!
//! Invariants:
//! - no task runs that a [`task::TaskTree`] does not own, and no panic in one goes unseen;
//! - nothing blocks a runtime thread: blocking calls go through [`blocking`], which is bounded;
//! - configuration is read once, and every mistake in it is reported together, before any side effect;
//! - whoever needs the time takes a [`clock::Clock`].
//!
//! Entry points: [`task::TaskTree`], [`blocking::run`], [`clock::Clock`], [`config::Config`],
//! [`telemetry::init_logs`], [`table`], [`units`].

pub mod blocking;
pub mod clock;
pub mod config;
pub mod notify;
pub mod retry;
pub mod table;
pub mod task;
pub mod telemetry;
pub mod units;

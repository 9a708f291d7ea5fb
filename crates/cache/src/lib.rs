//! The blob cache: what to keep of what upstream registries serve, where, and what it costs.
//!
//! Purpose: so far the decisions, which are pure: what to give up when the room is used up, where a blob is cheapest given how
//! often it is pulled, and, from the access logs of other registries, what was pulled how often and what a cache would
//! have saved.
//!
//! Non-goals: sockets, disks, clocks and databases. What serves, fills and keeps comes on top.
//!
//! Invariants: no figure that is charged stands in code; the same input gives the same answer on every machine.
//!
//! Entry points: [`policy::Policy`], [`tier::plan`], [`analyze::read`] and [`analyze::summarize`].

pub mod analyze;
pub mod depot;
pub mod fleet;
pub mod policy;
pub mod tier;

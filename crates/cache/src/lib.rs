//! The blob cache: what to keep of what upstream registries serve, where, and what it costs.
//!
//! Purpose: the decisions, which are pure: what to give up when the room is used up, where a blob is cheapest given how
//! often it is pulled, and, from the access logs of other registries, what was pulled how often and what a cache would
//! have saved. And what they are made about: the blobs on one node's disk, and the ledger of what was asked for. And the server in front of
//! them, which asks upstream for each blob once.
//!
//! Non-goals: the engine's images and containers, of which this knows nothing.
//!
//! Invariants: no figure that is charged stands in code; the same input gives the same answer on every machine; no
//! unverified byte is kept under a digest; the bytes on disk stay within their cap.
//!
//! Entry points: [`policy::Policy`], [`tier::plan`], [`analyze::read`] and [`analyze::summarize`]; [`store::Store`] and
//! [`ledger::Ledger`]; [`serve::Server`], [`fill::Fills`] and [`origin::Origins`].

pub mod analyze;
mod db;
pub mod depot;
pub mod fill;
pub mod fleet;
pub mod ledger;
pub mod origin;
pub mod policy;
pub mod range;
pub mod rights;
pub mod route;
pub mod serve;
pub mod store;
pub mod tier;
pub mod trace;

pub use db::DatabaseError;

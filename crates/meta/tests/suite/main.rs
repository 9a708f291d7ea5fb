//! What the database promises, asked through its public views.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod collect;
mod common;
mod concurrency;
mod content;
mod fsck;
mod migrations;
mod outbox;
mod records;
mod rules;
mod snapshots;
mod why;

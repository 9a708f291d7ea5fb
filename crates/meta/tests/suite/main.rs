//! What the database promises, asked through its public views.

mod common;
mod concurrency;
mod content;
mod migrations;
mod outbox;
mod records;
mod snapshots;

//! Test doubles.

pub mod registry;

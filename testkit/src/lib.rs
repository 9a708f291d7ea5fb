//! Test doubles.

pub mod proxy;
pub mod registry;

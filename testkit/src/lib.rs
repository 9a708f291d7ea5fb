//! Test doubles.

#[cfg(feature = "depot")]
pub mod depot;
pub mod proxy;
pub mod registry;
#[cfg(feature = "depot")]
pub mod servers;

//! Test doubles.

#[cfg(feature = "otlp")]
pub mod collector;
#[cfg(feature = "depot")]
pub mod depot;
pub mod proxy;
pub mod registry;
#[cfg(feature = "depot")]
pub mod servers;

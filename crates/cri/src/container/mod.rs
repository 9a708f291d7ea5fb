//! Containers between CRI's messages and the engine's words.

mod config;
mod message;
mod resources;
mod volumes;

pub(crate) use config::member_config;
pub(crate) use message::{entry, info, keeps, status};
pub(crate) use resources::limits;
pub(crate) use volumes::volume_images;

//! System calls: the only home of `unsafe`.
pub mod beneath;
pub mod fs;
pub mod mount;

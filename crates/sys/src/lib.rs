//! System calls: the only home of `unsafe`.
pub mod beneath;
pub mod cgroup;
pub mod fs;
pub mod mount;
pub mod netns;
pub mod process;
pub mod signal;

//! Being written: see ARCHITECTURE.md.

pub mod spec;
